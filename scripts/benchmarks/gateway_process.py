"""The real gateway, `gateway serve`, as a process with default settings."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scripts.benchmarks.children import failure, running
from scripts.benchmarks.payload import EVENT_TYPE, ORGANIZATION, event_data

_READY_SECONDS = 20.0
_COMMAND_SECONDS = 30.0
_STOP_SECONDS = 30.0
_VERSION = "2026-08-27"  # whose answers have no envelope
_OK = 200
_ACCEPTED = 202
_REDIRECT = 300


class GatewayProcess:
    """A gateway that serves."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path, environment: dict[str, str]) -> None:
        self.port = port
        self.pid = process.pid
        self.log = log
        self._process = process
        self._environment = environment

    def wait_until_ready(self) -> None:
        """Returns when it takes requests. Raises ChildFailed when it does not come so far."""
        until = time.monotonic() + _READY_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._ask("GET", "/health/ready")[0] == _OK:
                    return
            time.sleep(0.005)
        raise failure(f"gateway serve was not ready after {_READY_SECONDS:.0f} s", self.log)

    def create_key(self) -> str:
        """A new key with full access to the benchmark's organization."""
        done = subprocess.run(
            [*_GATEWAY, "keys", "create", "--organization", ORGANIZATION, "--mode", "live"],
            env=self._environment,
            capture_output=True,
            check=False,
            timeout=_COMMAND_SECONDS,
        )
        if done.returncode != 0:
            raise failure(f"gateway keys create failed: {done.stderr.decode(errors='replace').strip()}", self.log)
        return done.stdout.decode().strip()

    def create_endpoint(self, url: str, api_key: str, event_type: str = "*") -> str:
        """The id of a new endpoint at *url* that wants events of *event_type*."""
        return str(self._asked("POST", "/webhooks", {"url": url, "events": [event_type]}, api_key)["id"])

    def delete_endpoint(self, endpoint_id: str, api_key: str) -> None:
        """Removes an endpoint."""
        self._asked("DELETE", f"/webhooks/{endpoint_id}", None, api_key)

    def buckets(self) -> frozenset[int]:
        """Those that the node holds at the moment; none when it shares its store with nobody."""
        return frozenset(self._asked("GET", "/health/ready").get("node", {}).get("buckets", ()))

    def publish(self, api_key: str, event_type: str = EVENT_TYPE) -> bool:
        """Publishes one event; False when the gateway does not take it yet."""
        data = json.loads(event_data(time.monotonic_ns()))
        return self._ask("POST", "/events", {"event": event_type, "data": data}, api_key)[0] == _ACCEPTED

    def begin_stop(self) -> None:
        """Asks it to stop."""
        self._process.terminate()

    def wait_for_end(self) -> None:
        """Returns when it has ended. Raises ChildFailed when it does not."""
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise failure(f"gateway serve did not stop within {_STOP_SECONDS:.0f} s", self.log) from None

    def _asked(self, method: str, path: str, body: object = None, api_key: str = "") -> dict[str, Any]:
        """The answer to a request that has to be granted."""
        status, answer = self._ask(method, path, body, api_key)
        if not _OK <= status < _REDIRECT:
            raise failure(f"{method} {path} was answered {status}: {answer.decode(errors='replace')}", self.log)
        return dict(json.loads(answer or b"{}"))

    def _ask(self, method: str, path: str, body: object = None, api_key: str = "") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            headers = {"x-api-key": api_key, "commet-version": _VERSION, "Content-Type": "application/json"} if api_key else {}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


_GATEWAY = [sys.executable, "-m", "gateway"]


@contextlib.contextmanager
def serving(
    store_url: str, *, log: Path, profile: Path | None = None, name: str = "", settings: Mapping[str, str] | None = None
) -> Iterator[GatewayProcess]:
    """`gateway serve` on the store at *store_url*, just started, as the node *name*; it is stopped by SIGTERM after the block.
    *settings* are variables of the environment.

    With *profile* cProfile's statistics are written there when it has stopped.
    """
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    # Default settings: what the caller's environment sets does not count.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environment |= {
        "GATEWAY_HTTP__PORT": str(port),
        "GATEWAY_STORE__URL": store_url,
        "GATEWAY_NODE__NAME": name,
        "GATEWAY_EGRESS__ALLOW": "127.0.0.0/8",
        **(settings or {}),
    }
    command = [*_GATEWAY, "serve"]
    if profile is not None:
        command = [sys.executable, "-m", "cProfile", "-o", str(profile), "-m", "gateway", "serve"]
    with running(command, log=log, environment=environment) as child:
        yield GatewayProcess(port, child, log, environment)
