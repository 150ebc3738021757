"""A campaign: publishers at work all the time, and kills at random moments, each followed by a start on the same store."""

import asyncio
import contextlib
import re
import socket
import sqlite3
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import msgspec

from gateway import load_settings
from gateway.audit.audit import Audit, span_of
from gateway.audit.finding import Finding
from gateway.clock import SECOND
from gateway.store.backend import open_record
from scripts.benchmarks.children import running
from scripts.benchmarks.postgres_server import free_port
from scripts.campaigns.arrival import Arrival, State
from scripts.campaigns.gateway import Gateway, GatewayFailed
from scripts.campaigns.judgement import WANTED, Sent, Verdict, judge
from scripts.campaigns.publishers import WAYS, Publishers

ORGANIZATION = "campaign"
MOST_IN_FLIGHT = 3
"""Times `delivery.max_in_flight`: the open requests, and twice as many results before no attempt starts any more (design §6)."""

_SERVE_SECONDS = 60.0
_DRAIN_SECONDS = 120.0
_START_SECONDS = 2.0  # at most; what comes after it is waiting for the leases of the life before
_WAITING_EVENTS = 300  # accepted before a life sends anything; publishers pause then
_LIFE = re.compile(rb'"X-Life-(\d+)-Event-Id":"([^"]+)"')
_ARRIVALS = msgspec.json.Decoder(list[Arrival])
_STATE = msgspec.json.Decoder(State)

Progress = Callable[[str], None]


class Moment(StrEnum):
    """When a kill comes."""

    LOAD = "under load"
    START = "while it starts"
    CHECKPOINT = "while the log is written back"
    POWER = "together with the database"


class Options(msgspec.Struct, frozen=True):
    """What a campaign is about."""

    store_url: str
    directory: Path  # for logs
    rounds: int = 25
    seed: int = 1
    max_in_flight: int = 16

    @property
    def sqlite_path(self) -> Path | None:
        prefix = "sqlite:///"
        return Path(self.store_url.removeprefix(prefix)) if self.store_url.startswith(prefix) else None

    @property
    def settings(self) -> dict[str, object]:
        """Of the gateway: what fails is tried again at once, for as long as it takes."""
        given: dict[str, object] = {
            "store.url": self.store_url,
            "egress.allow": "127.0.0.0/8",
            "log.format": "json",
            "delivery.max_in_flight": self.max_in_flight,
            "delivery.retry_delays": ",".join(["0.2"] * 50),
            "delivery.max_retry_after": 0,
        }
        if self.sqlite_path is None:
            # Who comes after a node that was killed waits for its lease to end.
            given |= {"node.lease_seconds": 5, "store.statement_seconds": 2}
        return given


class Outcome(msgspec.Struct, frozen=True):
    """What a campaign has found."""

    store: str
    rounds: dict[str, int]  # by the moment of the kill
    seed: int
    seconds: float
    events_accepted: int
    events_unsure: int  # sent once, and never answered
    refusals: int  # 503 and 409, after which publishers tried again
    requests: int
    recovery_seconds: list[float]  # from each start to its first delivery
    verdict: Verdict
    most_in_flight: int  # that a kill may find, by design
    audit_code: int
    audit: dict[str, object]
    audits_under_load: int
    findings: list[str]  # of the audits beside the running gateway
    integrity: str | None  # what SQLite says of its file

    @property
    def faults(self) -> list[str]:
        """What was not as promised; nothing, it is to be hoped."""
        found = self.verdict.faults + self.findings
        if self.audit_code != 0:
            found.append(f"the audit found {self.audit.get('findings')}")
        if any(kill.in_flight > self.most_in_flight for kill in self.verdict.kills):
            found.append("more was in flight at a kill than may be")
        if self.integrity not in {None, "ok"}:
            found.append(f"the store's file is damaged: {self.integrity}")
        return found


async def run(options: Options, progress: Progress, *, crash_database: Callable[[], None] | None = None) -> Outcome:
    """Carries a campaign out. *crash_database* ends the store's server as a power cut does, and starts it again.

    Raises GatewayFailed, UnexpectedAnswer, TimeoutError.
    """
    began_at = time.monotonic()
    async with (
        _receiving(options.directory) as receiver_port,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=30)) as session,
    ):
        gateway = Gateway(options.settings, port=free_port(), directory=options.directory, session=session)
        campaign = _Campaign(options, gateway, session, receiver_port, progress, crash_database)
        try:
            await campaign.carry_out()
        finally:
            gateway.give_up()
        return await campaign.outcome(began_at)


@contextlib.asynccontextmanager
async def _receiving(directory: Path) -> AsyncIterator[int]:
    """The port of a receiver, which runs meanwhile."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        command = [sys.executable, "-m", "scripts.campaigns.receiver", str(listener.fileno())]
        with running(command, log=directory / "receiver.log", fds=[listener.fileno()], pipe=True):
            yield listener.getsockname()[1]


class _Campaign:
    def __init__(
        self,
        options: Options,
        gateway: Gateway,
        session: aiohttp.ClientSession,
        receiver_port: int,
        progress: Progress,
        crash_database: Callable[[], None] | None,
    ) -> None:
        self._options = options
        self._gateway = gateway
        self._session = session
        self._receiver_url = f"http://127.0.0.1:{receiver_port}"
        self._progress = progress
        self._crash_database = crash_database
        self._chance = Random(options.seed)
        self._moments: list[Moment] = []
        self._arrivals: list[Arrival] = []
        self._findings: list[Finding] = []
        self._audits = 0
        self._recovery: list[float] = []
        self._killed: list[int] = []
        self._publishers: Publishers
        self._key = ""

    # The course of things

    async def carry_out(self) -> None:
        await self._prepare()
        async with asyncio.TaskGroup() as group:
            for way in WAYS:
                group.create_task(self._publishers.run(way), name=way.name)
            for number in range(1, self._options.rounds + 1):
                await self._round(number)
            await self._serves()
            self._publishers.enough()
        await self._drained()
        await self._gateway.stop()
        await self._arrived()

    async def _prepare(self) -> None:
        code, key, said = await self._gateway.command("keys", "create", "--organization", ORGANIZATION, "--mode", "live")
        if code != 0:
            raise GatewayFailed(said)
        self._key = key.strip()
        self._publishers = Publishers(self._session, self._gateway.url, self._key, Random(self._options.seed))
        self._gateway.start()
        await self._gateway.ready()
        for path, events in WANTED.items():
            body = {"url": f"{self._receiver_url}{path}", "events": list(events)}
            await self._gateway.ask("POST", "/webhooks", self._key, body)

    async def _round(self, number: int) -> None:
        moment = self._choose()
        await self._until(moment)
        before = len(self._publishers.accepted)
        if moment is Moment.POWER and self._crash_database is not None:
            await asyncio.gather(self._gateway.kill(), asyncio.to_thread(self._crash_database))
        else:
            await self._gateway.kill()
        self._moments.append(moment)
        self._killed.append(self._gateway.life)
        # What was sent before the kill has arrived when the last connection is closed.
        while (await self._state()).connections:  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(0.005)
        await self._arrived()
        requests = sum(arrival.life == self._gateway.life for arrival in self._arrivals)
        self._gateway.start()
        self._progress(f"kill {number}, {moment}: {before} events accepted, {requests} requests of this life")

    def _choose(self) -> Moment:
        others = [Moment.START]
        if self._options.sqlite_path is not None:
            others.append(Moment.CHECKPOINT)
        elif self._crash_database is not None:
            others.append(Moment.POWER)
        return self._chance.choice([*others, Moment.LOAD, Moment.LOAD])

    async def _until(self, moment: Moment) -> None:
        """Returns at some moment of its kind."""
        if moment is Moment.START:
            usual = statistics.median(self._recovery) if self._recovery else 1.0
            await asyncio.sleep(self._chance.uniform(0.0, 1.3 * min(usual, _START_SECONDS)))
            return
        await self._serves()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._audit(), name="audit")
            await self._publishers.accept_more(self._chance.choice([1, 20, 60, 120, 250]), seconds=_SERVE_SECONDS)
        if moment is Moment.CHECKPOINT:
            await self._log_is_written_back()
        else:
            await asyncio.sleep(self._chance.uniform(0.0, 0.05))

    async def _log_is_written_back(self) -> None:
        """Returns when SQLite has begun to: nothing else changes the file itself."""
        path = self._options.sqlite_path
        assert path is not None
        before = path.stat().st_mtime_ns
        until = time.monotonic() + _SERVE_SECONDS
        while path.stat().st_mtime_ns == before and time.monotonic() < until:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)

    async def _serves(self) -> None:
        """Returns when this life has sent something."""
        life = self._gateway.life
        enough = len(self._publishers.accepted) + _WAITING_EVENTS
        await self._gateway.ready()
        until = time.monotonic() + _SERVE_SECONDS
        while (first := (await self._state()).first.get(life)) is None:
            if time.monotonic() > until:
                raise GatewayFailed(f"life {life} was ready, and sent nothing within {_SERVE_SECONDS:.0f} s")
            if len(self._publishers.accepted) > enough:
                self._publishers.may_publish.clear()
            await asyncio.sleep(0.01)
        self._publishers.may_publish.set()
        self._recovery.append(first - self._gateway.started_at[life])

    # What others know

    async def _state(self) -> State:
        return _STATE.decode(await self._asked_receiver("/state"))

    async def _arrived(self) -> None:
        """Takes note of what has arrived and ended since."""
        self._arrivals += _ARRIVALS.decode(await self._asked_receiver(f"/arrivals?after={len(self._arrivals)}"))

    async def _asked_receiver(self, target: str) -> bytes:
        async with self._session.get(f"{self._receiver_url}{target}") as response:
            return await response.read()

    async def _drained(self) -> None:
        """Returns when nothing waits any more. What has not arrived by then is lost."""
        until = time.monotonic() + _DRAIN_SECONDS
        while (await self._gateway.ask("GET", "/deliveries?state=pending&limit=1", self._key))["data"]:
            if time.monotonic() > until:
                return
            await asyncio.sleep(0.1)

    async def _audit(self) -> None:
        """An audit beside the gateway, of what was made since it was started."""
        self._audits += 1
        settings = load_settings(environment={}, overrides=self._options.settings)
        since = round((time.time() - time.monotonic() + self._gateway.started_at[self._gateway.life]) * SECOND)
        async with open_record(settings) as record:
            span = span_of(record.now, retention_days=settings.retention.days, since=since, until=None)
            await Audit(record, span, self._findings.append).run()

    # The end

    async def outcome(self, began_at: float) -> Outcome:
        publishers = self._publishers
        recorded = await _recorded(self._options, self._receiver_url)
        verdict = judge(publishers.accepted, publishers.types, self._arrivals, recorded, self._killed)
        code, told, said = await self._gateway.command("audit", "--json")
        if not told:
            raise GatewayFailed(f"gateway audit failed: {said}")
        return Outcome(
            store="SQLite" if self._options.sqlite_path is not None else "PostgreSQL",
            rounds=dict(Counter(str(moment) for moment in self._moments)),
            seed=self._options.seed,
            seconds=round(time.monotonic() - began_at, 1),
            events_accepted=len(publishers.accepted),
            events_unsure=len(publishers.unsure),
            refusals=publishers.refusals,
            requests=len(self._arrivals),
            recovery_seconds=[round(seconds, 3) for seconds in self._recovery],
            verdict=verdict,
            most_in_flight=MOST_IN_FLIGHT * self._options.max_in_flight,
            audit_code=code,
            audit=msgspec.json.decode(told),
            audits_under_load=self._audits,
            findings=[finding.sentence for finding in self._findings],
            integrity=_integrity(self._options.sqlite_path),
        )


async def _recorded(options: Options, receiver_url: str) -> Mapping[Sent, int]:
    """How many attempts each life has on record of each delivery."""
    sql = "SELECT url, request_headers FROM attempts"
    if options.sqlite_path is not None:
        with contextlib.closing(sqlite3.connect(options.sqlite_path)) as connection:
            return _count(connection.execute(sql), receiver_url)
    import asyncpg  # noqa: PLC0415 - an extra

    server = await asyncpg.connect(options.store_url)
    try:
        return _count(await server.fetch(sql), receiver_url)
    finally:
        await server.close()


def _count(attempts: Iterable[Any], receiver_url: str) -> Mapping[Sent, int]:
    found: Counter[Sent] = Counter()
    for url, headers in attempts:
        sent_by = _LIFE.search(headers)
        if sent_by is not None:
            found[url.removeprefix(receiver_url), sent_by[2].decode(), int(sent_by[1])] += 1
    return found


def _integrity(path: Path | None) -> str | None:
    if path is None:
        return None
    with contextlib.closing(sqlite3.connect(path)) as connection:
        ((verdict,),) = connection.execute("PRAGMA integrity_check(1)").fetchall()
    return str(verdict)
