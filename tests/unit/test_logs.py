"""Logs: one JSON object a line, no secret in it, and no line that makes anybody wait."""

import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator

import msgspec
import pytest
import structlog

from gateway.settings import Log
from gateway.telemetry import logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    show = warnings.showwarning
    yield
    logs.configure(Log(), io.BytesIO()).close()
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    warnings.showwarning = show
    root.handlers[:] = handlers
    root.setLevel(level)


class Stream(io.BytesIO):
    """What was written, as lines or as events."""

    def lines(self) -> list[str]:
        return self.getvalue().decode().splitlines()

    def events(self) -> list[dict[str, object]]:
        return [msgspec.json.decode(line) for line in self.lines()]


def test_an_event_is_a_line_of_json_that_opens_with_what_it_is():
    stream = Stream()
    writer = logs.configure(Log(format="json"), stream)
    structlog.get_logger().info("attempt.finished", status=503, url="https://example.com/", at_=None)
    assert writer.flush()
    (event,) = stream.events()
    assert list(event) == ["at", "level", "event", "status", "url", "at_"]
    assert event | {"at": None} == {
        "at": None,
        "level": "info",
        "event": "attempt.finished",
        "status": 503,
        "url": "https://example.com/",
        "at_": None,
    }


def test_what_is_below_the_level_is_not_logged():
    stream = Stream()
    writer = logs.configure(Log(level="warning", format="json"), stream)
    log = structlog.get_logger()
    log.info("quiet")
    log.warning("loud")
    assert writer.flush()
    assert [event["event"] for event in stream.events()] == ["loud"]


def test_an_exception_comes_with_its_traceback_on_the_same_line():
    stream = Stream()
    writer = logs.configure(Log(format="json"), stream)
    try:
        raise ValueError("no")  # noqa: TRY301 - there has to be one
    except ValueError:
        structlog.get_logger().exception("attempt.crashed")
    assert writer.flush()
    (event,) = stream.events()
    assert str(event["exception"]).startswith("Traceback ")
    assert str(event["exception"]).endswith("ValueError: no")


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_are_masked_wherever_they_come_from(form):
    """Fields, nested ones, messages of libraries, and exceptions."""
    stream = Stream()
    writer = logs.configure(Log(format=form), stream)
    secret, key, service = f"whsec_{'A' * 43}=", f"ck_live_{'b' * 32}", f"sk_{'c' * 32}"
    log = structlog.get_logger()
    log.info("x", secret=secret, nested={"list": [f"\n{key}"]}, prefix="ck_live_bbbb")
    logging.getLogger("library").warning("sent %s", service)
    try:
        raise ValueError(f"bad {secret}")  # noqa: TRY301 - there has to be one
    except ValueError:
        log.exception("y")
    assert writer.flush()
    written = stream.getvalue().decode()
    for hidden in ("A" * 43, "b" * 32, "c" * 32):
        assert hidden not in written
    assert "ck_live_bbbb" in written


def test_what_libraries_log_goes_the_same_way():
    stream = Stream()
    writer = logs.configure(Log(format="json"), stream)
    logging.getLogger("asyncio").error("Task %s", "crashed")
    logging.getLogger("aiohttp.access").info("GET /")
    logging.getLogger("asyncio").debug("selector")
    assert writer.flush()
    (event,) = stream.events()
    assert (event["level"], event["event"], event["logger"]) == ("error", "Task crashed", "asyncio")


@pytest.mark.parametrize("value", ["\ud800", object(), {1: 2}, float("nan"), b"\xff", 10**400])
def test_what_json_cannot_say_is_logged_all_the_same(value):
    stream = Stream()
    writer = logs.configure(Log(format="json"), stream)
    structlog.get_logger().info("odd", value=value)
    assert writer.flush()
    assert [event["event"] for event in stream.events()] == ["odd"]


def test_on_a_terminal_what_strangers_sent_cannot_speak_to_it():
    stream = Stream()
    writer = logs.configure(Log(format="console"), stream)
    structlog.get_logger().info("attempt.finished", message="\x1b[2J\nfake line")
    logging.getLogger("library").warning("\x1b[2J")
    assert writer.flush()
    assert b"\x1b" not in stream.getvalue()
    assert len(stream.lines()) == 2


def test_a_reader_that_lets_the_pipe_fill_up_costs_lines_and_no_time():
    """The loop goes on; once the reader is back it is told how many lines it missed."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as pipe:
        writer = logs.LineWriter(pipe, most_lines=100)
        for _ in range(5_000):
            writer.write(b"x" * 10_000)
        assert not writer.flush(0.01)
        received = bytearray()
        reader = threading.Thread(target=lambda: received.extend(_all_of(reading)))
        reader.start()
        assert writer.flush(10)
        writer.write(b"last")
        assert writer.flush(10)
        writer.close()
    reader.join(10)
    lines = bytes(received).splitlines()
    (dropped,) = [msgspec.json.decode(line) for line in lines if line.startswith(b"{")]
    assert dropped["event"] == "log.lines_dropped"
    assert dropped["count"] + len(lines) - 1 == 5_001


def _all_of(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as pipe:
        return pipe.read()


def test_nobody_reading_any_more_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as pipe:
        writer = logs.LineWriter(pipe)
        writer.write(b"x")
        assert writer.flush(10)
        writer.close()
        writer.write(b"y")
