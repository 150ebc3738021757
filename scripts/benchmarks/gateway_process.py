"""The real gateway, `gateway serve`, as a process with default settings on a store of its own."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.benchmarks.children import failure, running
from scripts.benchmarks.payload import EVENT_TYPE, ORGANIZATION, event_data

_READY_SECONDS = 20.0
_COMMAND_SECONDS = 30.0
_OK = 200
_CREATED = 201
_ACCEPTED = 202


class GatewayProcess:
    """A gateway that serves."""

    def __init__(self, port: int, pid: int, log: Path, environment: dict[str, str]) -> None:
        self.port = port
        self.pid = pid
        self._log = log
        self._environment = environment

    def wait_until_ready(self) -> None:
        """Returns when it takes requests. Raises ChildFailed when it does not come so far."""
        until = time.monotonic() + _READY_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._ask("GET", "/health/ready")[0] == _OK:
                    return
            time.sleep(0.005)
        raise failure(f"gateway serve was not ready after {_READY_SECONDS:.0f} s", self._log)

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
            raise failure(f"gateway keys create failed: {done.stderr.decode(errors='replace').strip()}", self._log)
        return done.stdout.decode().strip()

    def create_endpoint(self, url: str, api_key: str) -> None:
        """An endpoint at *url* that wants everything."""
        status, answer = self._ask("POST", "/webhooks", {"url": url, "events": ["*"]}, api_key)
        if status != _CREATED:
            raise failure(f"POST /webhooks was answered {status}: {answer.decode(errors='replace')}", self._log)

    def publish(self, api_key: str) -> bool:
        """Publishes one event; False when the gateway does not take it yet."""
        status, _ = self._ask(
            "POST", "/events", {"event": EVENT_TYPE, "data": json.loads(event_data(time.monotonic_ns()))}, api_key
        )
        return status == _ACCEPTED

    def _ask(self, method: str, path: str, body: object = None, api_key: str = "") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            headers = {"x-api-key": api_key, "Content-Type": "application/json"} if api_key else {}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


_GATEWAY = [sys.executable, "-m", "gateway"]


@contextlib.contextmanager
def serving(store: Path, *, log: Path, profile: Path | None = None) -> Iterator[GatewayProcess]:
    """`gateway serve` on *store*, just started; it is stopped by SIGTERM after the block.

    With *profile* cProfile's statistics are written there when it has stopped.
    """
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    # Default settings: what the caller's environment sets does not count.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environment |= {
        "GATEWAY_HTTP__PORT": str(port),
        "GATEWAY_STORE__URL": f"sqlite:///{store}",
        "GATEWAY_EGRESS__ALLOW": "127.0.0.0/8",
    }
    command = [*_GATEWAY, "serve"]
    if profile is not None:
        command = [sys.executable, "-m", "cProfile", "-o", str(profile), "-m", "gateway", "serve"]
    with running(command, log=log, environment=environment) as child:
        yield GatewayProcess(port, child.pid, log, environment)
