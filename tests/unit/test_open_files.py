"""Room for connections: `gateway serve` makes it, `gateway check` says when there is none."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from gateway.cli.open_files import files_needed
from gateway.settings import Delivery, Http, Settings


def test_every_connection_is_counted():
    """To clients and to endpoints, and some more for the rest."""
    assert files_needed(Settings(http=Http(max_connections=1_000), delivery=Delivery(max_in_flight=200))) == 1_000 + 200 + 128


@contextmanager
def gateway(path: Path, limit: str, command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A command of the gateway, on a store in *path*, in a shell that has set a limit."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environment |= {
        "GATEWAY_STORE__URL": f"sqlite:///{path}/gateway.db",
        "GATEWAY_HTTP__PORT": "0",
        "GATEWAY_HTTP__MAX_CONNECTIONS": "1000",
        "GATEWAY_DELIVERY__MAX_IN_FLIGHT": "100",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    shell = f'{limit}; exec "$0" -m gateway {command}'
    process = subprocess.Popen(["/bin/sh", "-c", shell, sys.executable], env=environment, stdout=-1, stderr=-1)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def events_until_started(process: "subprocess.Popen[bytes]") -> list[dict[str, object]]:
    events: list[dict[str, object]] = []
    assert process.stderr is not None
    for line in process.stderr:
        events.append(msgspec.json.decode(line))
        if events[-1]["event"] == "gateway.started":
            break
    return events


def test_serve_raises_its_limit(tmp_path: Path):
    """As far as it needs, when it may."""
    with gateway(tmp_path, "ulimit -Sn 256", "serve") as process:
        assert [event for event in events_until_started(process) if event["event"] == "files.too_few"] == []
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0] == 1_228


def test_serve_says_when_it_may_not(tmp_path: Path):
    """It starts all the same: connections that come when no file is left wait."""
    with gateway(tmp_path, "ulimit -n 256", "serve") as process:
        (event,) = [event for event in events_until_started(process) if event["event"] == "files.too_few"]
    assert (event["allowed"], event["needed"], event["level"]) == (256, 1_228, "warning")


def test_check_says_so_before(tmp_path: Path):
    """As a note."""
    with gateway(tmp_path, "ulimit -n 256", "check") as process:
        output, _ = process.communicate(timeout=30)
    assert (
        b"note   a process here may open 256 files (`ulimit -Hn`), fewer than the 1228 that http.max_connections = 1000" in output
    )
    with gateway(tmp_path, "ulimit -Sn 256", "check") as process:
        assert b"ulimit" not in process.communicate(timeout=30)[0]
