"""Receivers that misbehave, each in its own way: none costs more than the timeout and a bounded amount of memory, each has its
name on record, and none leaves anything behind."""

import asyncio
import contextlib
import gc
import json
import socket
import sys
import time
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import uvloop
from structlog.testing import capture_logs

from gateway.clock import SECOND
from gateway.delivery.outcome import Moment, decide
from gateway.delivery.retry import RetrySchedule
from gateway.egress.sender import Answer, Sender
from gateway.model import AttemptError
from gateway.settings import Egress
from tests.fakes import START, due
from tests.integration.gallery import GALLERY, Exhibit
from tests.receiver import Receiver

LOOPBACK = Egress(allow=("127.0.0.0/8",))
TIMEOUT_SECONDS = 0.5
LATE_SECONDS = 1.0  # that a busy machine may be late by
AT_ONCE = 50
MAX_BYTES = 1024 * 1024  # of memory, for each open request
SCHEDULE = RetrySchedule(delays=(60.0,), jitter=0.0, max_retry_after=3600.0)


@contextlib.asynccontextmanager
async def shown(exhibit: Exhibit) -> AsyncIterator[tuple[Receiver, str]]:
    """The receiver, and its URL."""
    async with Receiver.open(certificate=exhibit.certificate, reads=exhibit.reads, greeting=exhibit.greeting) as receiver:
        if exhibit.step:
            receiver.script("/", [exhibit.step] if callable(exhibit.step) else exhibit.step)
        url = receiver.url()
        yield receiver, url.replace("http:", "https:") if exhibit.is_https else url


async def visit(exhibit: Exhibit, sender: Sender, url: str) -> Answer:
    """The answer to the last of its requests."""
    body = b"x" * exhibit.body_bytes
    for _ in range(exhibit.requests - 1):
        await sender.send(url, {}, body, organization_id="org")
    return await sender.send(url, {}, body, organization_id="org")


def open_files() -> Counter[str]:
    """What this process has open."""
    links: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links[entry.readlink().name] += 1
    return links


@contextlib.asynccontextmanager
async def nothing_left_behind() -> AsyncIterator[None]:
    """Afterwards there are no other tasks and open files than before it, nothing was logged and no exception went unheard."""
    unheard: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unheard.append(context))
    gc.collect()  # what earlier tests have left is not this one's
    tasks, files = asyncio.all_tasks(), open_files()
    with capture_logs() as logs:
        yield
        async with asyncio.timeout(LATE_SECONDS):
            # What is closed ends in one of the next turns of the loop; no event tells of it.
            while asyncio.all_tasks() - tasks or open_files() - files:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        gc.collect()  # a future whose exception nobody has looked at says so when it goes
    assert unheard == []
    assert logs == []


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.parametrize("exhibit", GALLERY, ids=lambda exhibit: exhibit.name)
async def test_it_ends_in_time_with_its_name_on_record(exhibit: Exhibit):
    """Within the timeout for everything there is the status that was answered, or an error that says what came in its place."""
    await look_at(exhibit)


async def look_at(exhibit: Exhibit) -> None:
    async with nothing_left_behind(), shown(exhibit) as (receiver, url):
        tls = receiver.client_tls if exhibit.is_trusted else None
        async with Sender(LOOPBACK, timeout_seconds=TIMEOUT_SECONDS, tls=tls) as sender:
            started = time.monotonic()
            answer = await visit(exhibit, sender, url)
            assert time.monotonic() - started < exhibit.requests * TIMEOUT_SECONDS + LATE_SECONDS
        assert (answer.status, answer.error) == exhibit.outcome, answer
        if answer.error is not None:
            assert answer.error_message
            assert answer.error_message.isprintable()
            assert answer.error_message.endswith(".")


@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_all_of_it_holds_on_uvloop():
    """The gateway runs on uvloop, the tests above on asyncio's own loop."""

    async def everything() -> None:
        async with Receiver.open():
            pass  # the loop has now opened what it opens once
        for exhibit in GALLERY:
            await look_at(exhibit)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(everything())


@pytest.mark.parametrize(
    "exhibit", [each for each in GALLERY if each.name.startswith("Retry-After")], ids=lambda exhibit: exhibit.name
)
async def test_whatever_pause_is_asked_for_the_next_attempt_has_its_time(exhibit: Exhibit):
    """Never before the schedule's, and never more than the longest pause after it."""
    async with shown(exhibit) as (_, url), Sender(LOOPBACK, timeout_seconds=TIMEOUT_SECONDS) as sender:
        verdict = decide(await visit(exhibit, sender, url), due(), SCHEDULE, Moment(wall=START, steady=START), Random(0))
    assert verdict.due_at is not None
    assert START + 60 * SECOND <= verdict.due_at <= START + 3660 * SECOND
    assert verdict.pause_until is None or START < verdict.pause_until <= START + 3600 * SECOND


async def test_a_name_server_that_never_answers():
    """It costs the few seconds that a lookup may take."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        egress = Egress(nameservers=(f"127.0.0.1:{silent.getsockname()[1]}",))
        async with nothing_left_behind(), Sender(egress, timeout_seconds=5.0) as sender:
            answer = await sender.send("http://receiver.example/", {}, b"", organization_id="org")
    assert answer.error is AttemptError.DNS_FAILED
    assert answer.error_message == "The host's name could not be resolved: no answer from the name servers within 3 s."


@pytest.mark.timeout(180)
async def test_an_open_request_costs_less_than_a_mebibyte():
    """Fifty of each at once, sent by a process that does nothing else, which tells how much it has grown meanwhile at most."""
    reading = [exhibit for exhibit in GALLERY if not exhibit.is_trusted]
    async with contextlib.AsyncExitStack() as receivers:
        urls = [(await receivers.enter_async_context(shown(exhibit)))[1] for exhibit in reading]
        visitor = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.integration.gallery_visitor", str(AT_ONCE), str(TIMEOUT_SECONDS), stdin=PIPE, stdout=PIPE
        )
        orders = [{"url": url, "body_bytes": exhibit.body_bytes} for url, exhibit in zip(urls, reading, strict=True)]
        stdout, _ = await visitor.communicate(json.dumps(orders).encode())
    assert visitor.returncode == 0
    grown = dict(zip((exhibit.name for exhibit in reading), json.loads(stdout), strict=True))
    assert len(grown) == len(reading)
    # What is to be sent is there once, whatever the receiver does.
    sent = {exhibit.name: exhibit.body_bytes for exhibit in reading}
    assert {name: size for name, size in grown.items() if size / AT_ONCE - sent[name] > MAX_BYTES} == {}
