"""`gateway serve` as a process: how it starts, stops, and says that it cannot."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from gateway import settings

Serve = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a gateway on a store in a fresh folder and a free port."""
    started = []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environment |= {"GATEWAY_STORE__URL": f"sqlite:///{tmp_path}/gateway.db", "GATEWAY_HTTP__PORT": "0"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])

    def start(*arguments: str, **variables: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "gateway", "serve", *arguments]
        process = subprocess.Popen(command, env=environment | variables, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def socket_beside(store: Path) -> Path:
    """The operators' socket of a gateway on *store*."""
    path = settings.load(environment={"GATEWAY_STORE__URL": f"sqlite:///{store}"}).socket_path
    assert path is not None
    return path


def wait_until_started(process: "subprocess.Popen[bytes]") -> dict[str, object]:
    """The event that says where it listens."""
    assert process.stderr is not None
    for line in process.stderr:
        event: dict[str, object] = msgspec.json.decode(line)
        if event["event"] == "gateway.started":
            return event
    pytest.fail(f"ended with {process.wait()}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_stops_it_with_0(serve, tmp_path, number):
    process = serve()
    started = wait_until_started(process)
    assert socket_beside(tmp_path / "gateway.db").is_socket()
    with socket.create_connection(("127.0.0.1", int(str(started["port"]))), timeout=10):
        pass
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"Traceback" not in errors
    assert not socket_beside(tmp_path / "gateway.db").exists()


def test_a_second_signal_does_not_wait(serve):
    """Not even for `http.grace_seconds`."""
    process = serve("--set", "http.grace_seconds=600")
    wait_until_started(process)
    process.terminate()
    for line in process.stderr:
        if b"gateway.stopping" in line:
            break
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in errors


def test_a_port_that_is_taken_is_a_sentence_and_1(serve):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = serve("--port", str(taken.getsockname()[1]))
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert output == b""
    assert errors.splitlines()[-1].startswith(b"Error: http.port: cannot listen on 127.0.0.1 port ")


def test_a_store_that_another_process_serves_is_a_sentence_and_1(serve):
    wait_until_started(serve())
    second = serve()
    _, errors = second.communicate(timeout=30)
    assert second.returncode == 1
    assert errors.startswith(b"Error: another gateway (process ")


def test_a_place_where_no_store_can_be_made_is_a_sentence_and_1(serve):
    process = serve(GATEWAY_STORE__URL="sqlite:////dev/null/gateway.db")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors.startswith(b"Error: the store /dev/null/gateway.db cannot be opened: ")


def test_a_command_beside_it_is_answered_by_it_and_one_after_it_by_the_store(serve, tmp_path):
    """The same command before, beside and after a running gateway."""
    command = [sys.executable, "-m", "gateway", "keys"]
    environment = {**os.environ, "GATEWAY_STORE__URL": f"sqlite:///{tmp_path}/gateway.db", "GATEWAY_URL": ""}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])

    def run(*arguments: str) -> str:
        done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=True, timeout=30)
        assert done.stderr == ""
        return done.stdout

    keys = [run("create", "--organization", "org_1", "--mode", "live")]
    process = serve()
    wait_until_started(process)
    keys.append(run("create", "--organization", "org_1", "--mode", "sandbox"))
    process.terminate()
    assert process.wait(30) == 0
    keys.append(run("create", "--service"))
    assert [key.rstrip("\n").partition("_")[0] for key in keys] == ["ck", "ck", "sk"]
    listed = msgspec.json.decode(run("list", "--json"))
    assert [key["mode"] for key in listed] == [None, "sandbox", "live"]


def test_a_gateway_that_is_about_to_start_is_waited_for(serve, tmp_path):
    """A command that finds the store locked and nobody listening tries the socket again."""
    environment = {**os.environ, "GATEWAY_STORE__URL": f"sqlite:///{tmp_path}/gateway.db", "GATEWAY_URL": ""}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    serve()
    deadline = time.monotonic() + 30
    while not (tmp_path / "gateway.db.lock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    command = [sys.executable, "-m", "gateway", "keys", "create", "--service"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
