"""The real gateway for system tests: `python -m gateway` as processes, all on one store of a test's own."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, cast

import aiohttp
import pytest
from multidict import CIMultiDictProxy

from tests.postgres import PostgresServer

JsonObject = dict[str, Any]

ROOT = Path(__file__).parents[2]
CURRENT_VERSION = "2026-08-27"
PATIENCE_SECONDS = 20.0
SHORT_LEASES = {"node.lease_seconds": 5, "store.statement_seconds": 2}
"""Who comes after a node that was killed waits for its lease to end."""

ON_THE_EMBEDDED_STORE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For what only that one has, or what has nothing to do with the store."""

_GATEWAY = (sys.executable, "-m", "gateway")
_MAX_LINE = 2**20  # a traceback in JSON is one line


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Answer:
    """What the API answered."""

    status: int
    headers: CIMultiDictProxy[str]
    body: Any


async def eventually(claim: Callable[[], Awaitable[bool]], words: str, *, seconds: float = PATIENCE_SECONDS) -> None:
    """Returns when *claim* holds: for facts that only asking again can tell. Fails the test, in *words*, when it does not."""
    until = time.monotonic() + seconds
    while not await claim():
        if time.monotonic() > until:
            raise AssertionError(f"waited {seconds:g} s for: {words}")
        await asyncio.sleep(0.02)


class GatewayProcess:
    """`gateway serve`, running."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.log: list[str] = []
        self._changed = asyncio.Condition()
        self._reading = asyncio.create_task(self._read(), name="log of the gateway")
        self.port = 0

    @property
    def pid(self) -> int:
        """The gateway's own process, also when a tracer started it."""
        started = self._process.pid
        children = Path(f"/proc/{started}/task/{started}/children").read_text(encoding="ascii").split()
        return int(children[0]) if children else started

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    async def logged(self, event: str, *, seconds: float = PATIENCE_SECONDS) -> JsonObject:
        """The first line of the log that tells of *event*, once it is there."""
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self._find(event) or self._reading.done()), seconds)
        line = self._find(event)
        if line is None:
            raise AssertionError(f"the gateway did not log {event} within {seconds:g} s. Its log:\n{self.tail}")
        return line

    def _find(self, event: str) -> JsonObject | None:
        return next((cast(JsonObject, json.loads(line)) for line in self.log if f'"event":"{event}"' in line), None)

    @property
    def tail(self) -> str:
        """The end of the log, for messages."""
        return "\n".join(self.log[-30:])

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = PATIENCE_SECONDS) -> int:
        """Asks it to stop, and waits until it has; its exit code."""
        self.send(number)
        return await self.ended(seconds=seconds)

    async def kill(self) -> None:
        """Ends it with SIGKILL."""
        self._process.kill()
        await self.ended()

    async def ended(self, *, seconds: float = PATIENCE_SECONDS) -> int:
        """Its exit code, once it has ended and its log is complete."""
        try:
            async with asyncio.timeout(seconds):
                code = await self._process.wait()
                await self._reading
        except TimeoutError:
            raise AssertionError(f"the gateway was still running after {seconds:g} s. Its log:\n{self.tail}") from None
        return code

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            async with self._changed:
                self.log.append(line.decode().rstrip("\n"))
                self._changed.notify_all()
        async with self._changed:
            self._changed.notify_all()


class Client:
    """Asks the API as the holder of a key. Its answers have the current version's shape, unless a header says otherwise."""

    def __init__(self, installation: "Installation", key: str) -> None:
        self.installation = installation
        self.key = key

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer, whatever it is. *body* may be bytes that are sent as they are."""
        payload = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        all_headers = {
            "x-api-key": self.key,
            "commet-version": CURRENT_VERSION,
            "content-type": "application/json",
            **(headers or {}),
        }
        url = f"{self.installation.url}{path}"
        async with self.installation.session.request(method, url, data=payload, params=query, headers=all_headers) as response:
            text = await response.read()
            return Answer(response.status, response.headers, json.loads(text) if text else None)

    async def good(self, method: str, path: str, body: object = None, *, query: Mapping[str, str] | None = None) -> JsonObject:
        """The body of a 2xx answer."""
        answer = await self.ask(method, path, body, query=query)
        assert answer.status < 300, f"{method} {path} was answered {answer.status}: {answer.body}"
        return cast(JsonObject, answer.body)

    async def create_endpoint(self, url: str, *events: str) -> JsonObject:
        """An endpoint that gets *events*, or all when none are named; with its secret."""
        return await self.good("POST", "/webhooks", {"url": url, "events": list(events) or ["*"]})

    async def publish(self, event: str = "invoice.paid", data: object = None, **more: object) -> JsonObject:
        """An event, accepted."""
        return await self.good("POST", "/events", {"event": event, "data": {} if data is None else data, **more})

    async def every(self, path: str, **filters: str) -> list[JsonObject]:
        """A list, with all its pages."""
        items: list[JsonObject] = []
        query = {"limit": "100", **filters}
        while True:
            page = await self.good("GET", path, query=query)
            items += page["data"]
            if "nextCursor" not in page:
                return items
            query["cursor"] = page["nextCursor"]

    async def deliveries(self, **filters: str) -> list[JsonObject]:
        """The deliveries, each with its attempts."""
        return [await self.good("GET", f"/deliveries/{each['id']}") for each in await self.every("/deliveries", **filters)]

    async def settled(self, count: int, **filters: str) -> list[JsonObject]:
        """The deliveries, each with its attempts, once there are *count* and none waits for an attempt any more."""

        async def all_settled() -> bool:
            found = await self.every("/deliveries", **filters)
            return len(found) >= count and all(each["state"] != "pending" for each in found)

        await eventually(all_settled, f"{count} deliveries that are settled")
        return await self.deliveries(**filters)


class Database(Protocol):
    """Where a store is."""

    url: str

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What the store holds, read beside whoever works on it."""

    def change(self, sql: str) -> None:
        """Runs a statement that writes, while nobody works on the store."""


class SqliteFile:
    """That of the embedded store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as connection:
            return connection.execute(sql).fetchall()

    def change(self, sql: str) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(sql)


class PostgresDatabase:
    """One of the tests' own PostgreSQL."""

    def __init__(self, server: PostgresServer, url: str) -> None:
        self._server = server
        self.url = url

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        lines = self._server.run_sql(self.url, f"SELECT row_to_json(found) FROM ({sql}) AS found").splitlines()
        return [tuple(json.loads(line).values()) for line in lines]

    def change(self, sql: str) -> None:
        self._server.run_sql(self.url, sql)


class Installation:
    """A store, the settings of the processes that work on it, and those that run."""

    def __init__(self, directory: Path, database: Database, session: aiohttp.ClientSession) -> None:
        self.database = database
        self.store = directory / "gateway.db"  # if it is the embedded one
        self.socket = directory / "gateway.db.sock"
        self.session = session
        self.settings: dict[str, object] = {
            "store.url": database.url,
            "http.port": 0,
            "egress.allow": "127.0.0.0/8",
            "log.format": "json",
        }
        if not isinstance(database, SqliteFile):
            self.settings["http.socket"] = self.socket  # there is none unless one asks for it
            self.settings |= SHORT_LEASES
        self._current: GatewayProcess | None = None
        self._started: list[GatewayProcess] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, directory: Path, database: Database) -> AsyncIterator[Self]:
        """What is to work on *database*. Leaving ends what still runs, and tells the log to pytest."""
        # Without a limit: publishers and those who watch them do not wait for one another.
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as session:
            installation = cls(directory, database, session)
            try:
                yield installation
            finally:
                for process in installation._started:
                    if process.is_running:
                        with contextlib.suppress(ProcessLookupError):
                            process.send(signal.SIGKILL)
                    await process.ended()
                    sys.stdout.write("\n".join(["Log of the gateway:", *process.log, ""]))

    @property
    def environment(self) -> dict[str, str]:
        """That of the processes: the settings, and nothing that somebody set for another gateway."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        return clean | {f"GATEWAY_{name.replace('.', '__').upper()}": str(value) for name, value in self.settings.items()}

    @property
    def process(self) -> GatewayProcess:
        """The one that was started last."""
        assert self._current is not None, "no gateway was started yet"
        return self._current

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://127.0.0.1:{self.process.port}"

    async def spawn(self, *options: str, wrapper: Sequence[str] = ()) -> GatewayProcess:
        """`gateway serve`, at its very beginning. A *wrapper* starts it: the first words of a command line."""
        process = GatewayProcess(
            await asyncio.create_subprocess_exec(
                *wrapper, *_GATEWAY, "serve", *options, cwd=ROOT, env=self.environment, stderr=PIPE, limit=_MAX_LINE
            )
        )
        self._started.append(process)
        return process

    async def start(self, *, wrapper: Sequence[str] = ()) -> GatewayProcess:
        """`gateway serve`, once it is ready."""
        process = await self.spawn(wrapper=wrapper)
        process.port = int((await process.logged("gateway.started"))["port"])
        self._current = process
        async with self.session.get(f"{self.url}/health/ready") as response:
            assert response.status == 200, await response.text()
        return process

    async def command(self, *arguments: str, environment: Mapping[str, str] | None = None, stdin: bytes = b"") -> Finished:
        """`gateway` with *arguments*, once it has ended."""
        process = await asyncio.create_subprocess_exec(
            *_GATEWAY, *arguments, cwd=ROOT, env=self.environment | dict(environment or {}), stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        stdout, stderr = await process.communicate(stdin)
        assert process.returncode is not None
        return Finished(process.returncode, stdout.decode(), stderr.decode())

    async def client(self, organization: str = "acme", mode: str = "live") -> Client:
        """Somebody with a new key, made over the operators' socket."""
        return Client(self, await self.make_key(organizationId=organization, mode=mode))

    async def make_key(self, **body: object) -> str:
        """A new key, made over the operators' socket."""
        connector = aiohttp.UnixConnector(str(self.socket))
        headers = {"commet-version": CURRENT_VERSION}
        async with (
            aiohttp.ClientSession(connector=connector, headers=headers) as session,
            session.post("http://gateway/keys", json=body) as response,
        ):
            assert response.status == 201, await response.text()
            return cast(str, (await response.json())["apiKey"])

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What the store holds, read beside whoever works on it."""
        return self.database.rows(sql)
