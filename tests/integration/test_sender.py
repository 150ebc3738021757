"""The sender against receivers that behave, misbehave and are not there, over real sockets."""

import asyncio
import contextlib
import gc
import gzip
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from gateway.egress.connector import MAX_INTERIM_ANSWERS
from gateway.egress.exchange import KEPT_BODY_BYTES
from gateway.egress.sender import Answer, Sender
from gateway.model import AttemptError
from gateway.settings import Egress
from gateway.version import VERSION
from tests.receiver import (
    Receiver,
    Step,
    after,
    big_headers,
    close,
    close_after_answer,
    cut_body,
    drip_headers,
    endless_body,
    garbage,
    hang,
    hanging_body,
    interim_answers,
    ok,
    redirect,
    reset,
    status,
    two_answers,
    until,
)

LOOPBACK = Egress(allow=("127.0.0.0/8",))
HEADERS = {"Content-Type": "application/json", "webhook-id": "whev_1"}
BODY = b'{"id":"whev_1"}'


@contextlib.asynccontextmanager
async def open_sender(
    egress: Egress = LOOPBACK, *, timeout_seconds: float = 5.0, trusting: Receiver | None = None
) -> AsyncIterator[Sender]:
    tls = trusting.client_tls if trusting else None
    async with Sender(egress, timeout_seconds=timeout_seconds, tls=tls) as sender:
        yield sender


async def send(sender: Sender, url: str, *, body: bytes = BODY) -> Answer:
    return await sender.send(url, HEADERS, body, organization_id="org")


async def answer_to(*steps: Step, timeout_seconds: float = 5.0) -> Answer:
    """The answer to one request of a receiver that follows *steps*."""
    async with Receiver.open() as receiver, open_sender(timeout_seconds=timeout_seconds) as sender:
        receiver.script("/", steps)
        return await send(sender, receiver.url())


def open_sockets() -> int:
    """How many sockets this process has."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += entry.readlink().name.startswith("socket:")
    return count


# What is sent


async def test_the_request_is_what_was_asked_for_and_nothing_more():
    """No Accept, no Accept-Encoding, no cookies: only what the caller gave, Host, Content-Length and User-Agent."""
    async with Receiver.open() as receiver, open_sender() as sender:
        receiver.script(None, [ok(headers={"Set-Cookie": "a=b"})])
        await send(sender, receiver.url("/hook?a=%20b&c"))
        await send(sender, receiver.url("/hook?a=%20b&c"))
        for request in receiver.requests:
            assert request.method == "POST"
            assert request.path == "/hook?a=%20b&c"
            assert request.body == BODY
            assert dict(request.headers) == {
                **HEADERS,
                "Host": f"127.0.0.1:{receiver.port}",
                "Content-Length": str(len(BODY)),
                "User-Agent": f"webhook-gateway/{VERSION}",
            }


async def test_a_connection_is_used_again():
    async with Receiver.open() as receiver, open_sender() as sender:
        receiver.script(None, [ok(body=b"thanks"), status(204), ok(), status(500, body=b"oh")])
        for _ in range(8):
            await send(sender, receiver.url())
        assert receiver.connections == 1


# What came of it


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299, 400, 401, 404, 410, 429, 500, 503, 599, 799])
async def test_a_plain_status_is_no_error(code: int):
    answer = await answer_to(status(code, body=b"" if code == 204 else b"why"))
    assert answer.status == code
    assert answer.error is None
    assert answer.error_message is None
    assert answer.body == (b"" if code == 204 else b"why")
    assert not answer.resent


async def test_headers_and_retry_after_are_kept():
    answer = await answer_to(status(503, headers={"Retry-After": "120", "X-One": "1"}))
    assert answer.retry_after == "120"
    assert answer.headers == [("Retry-After", "120"), ("X-One", "1"), ("Content-Length", "0")]


async def test_header_bytes_that_are_not_text_can_be_stored():
    """They become U+FFFD: lone surrogates could not be written as JSON."""
    answer = await answer_to(status(429, headers={"X-Odd": "caf\xe9", "Retry-After": "\xff1"}))
    assert answer.headers is not None
    assert dict(answer.headers)["X-Odd"] == "caf\ufffd"
    assert answer.retry_after == "\ufffd1"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(code: int):
    async with Receiver.open() as elsewhere, Receiver.open() as receiver, open_sender() as sender:
        receiver.script("/", [redirect(elsewhere.url("/secret"), code=code)])
        answer = await send(sender, receiver.url())
        assert answer.status == code
        assert answer.error is AttemptError.REDIRECT
        assert answer.headers is not None
        assert dict(answer.headers)["Location"] == elsewhere.url("/secret")
        assert elsewhere.connections == 0


async def test_a_compressed_body_is_kept_as_it_came():
    packed = gzip.compress(b"0" * 10_000_000)
    answer = await answer_to(ok(body=packed, headers={"Content-Encoding": "gzip"}))
    assert answer.body == packed[:KEPT_BODY_BYTES]


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (reset(), AttemptError.CONNECTION_RESET),
        (close(), AttemptError.CONNECTION_RESET),
        (garbage(b"HTTP/1.1 200 O"), AttemptError.CONNECTION_RESET),
        (garbage(b"HTTP/1.1 200 OK\r\nContent-Le"), AttemptError.CONNECTION_RESET),
        (garbage(), AttemptError.INVALID_RESPONSE),
        (garbage(b"SSH-2.0-OpenSSH_9.2p1\r\n"), AttemptError.INVALID_RESPONSE),
        (garbage(b"HTTP/1.1 2xx OK\r\n\r\n"), AttemptError.INVALID_RESPONSE),
        (garbage(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), AttemptError.INVALID_RESPONSE),
        (garbage(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), AttemptError.INVALID_RESPONSE),
        (big_headers(bytes_each=9_000, count=1), AttemptError.INVALID_RESPONSE),
        (big_headers(bytes_each=10, count=101), AttemptError.INVALID_RESPONSE),
        (big_headers(bytes_each=8_000, count=5), AttemptError.INVALID_RESPONSE),
    ],
)
async def test_what_is_no_answer_has_a_name(step: Step, error: AttemptError):
    answer = await answer_to(step)
    assert answer.error is error
    assert answer.error_message
    assert answer.error_message.endswith(".")
    assert "\n" not in answer.error_message
    assert answer.status is None
    assert answer.headers is None
    assert answer.body is None
    assert not answer.resent, "the connection was a fresh one"


# Status and headers decide, whatever becomes of the body


async def test_a_body_is_kept_up_to_its_limit():
    for size in (1, KEPT_BODY_BYTES - 1, KEPT_BODY_BYTES, KEPT_BODY_BYTES + 1, 3_000_000):
        answer = await answer_to(ok(body=b"x" * size))
        assert answer.status == 200
        assert answer.body == b"x" * min(size, KEPT_BODY_BYTES)


async def test_the_rest_of_an_endless_body_is_not_read():
    """The connection is dropped, and the answer counts."""
    async with Receiver.open() as receiver, open_sender() as sender:
        receiver.script("/", [endless_body()])
        answer = await send(sender, receiver.url())
        assert (answer.status, answer.error) == (200, None)
        assert answer.body == b"x" * KEPT_BODY_BYTES
        await receiver.wait_until(lambda: receiver.open_connections == 0, "the connection is dropped")


async def test_a_body_that_is_cut_off_is_no_error():
    answer = await answer_to(cut_body(code=201, body=b"half of it"))
    assert (answer.status, answer.error, answer.body) == (201, None, b"half of it")


async def test_a_body_that_stops_coming_is_no_error():
    """The time for everything runs out, but the status was there."""
    answer = await answer_to(hanging_body(code=500, body=b"the beginning"), timeout_seconds=0.2)
    assert (answer.status, answer.error, answer.body) == (500, None, b"the beginning")


async def test_a_body_that_breaks_the_rules_of_chunks_is_no_error():
    """Also when it comes along with the head, and without waiting for more of it."""
    started = time.monotonic()
    answer = await answer_to(garbage(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"))
    assert (answer.status, answer.error) == (200, None)
    assert time.monotonic() - started < 1.0


# Time


@pytest.mark.parametrize(
    "step", [hang(), drip_headers(), interim_answers(1, then=hang())], ids=["hang", "dripped headers", "interim, then hang"]
)
async def test_everything_together_may_take_the_timeout_and_no_longer(step: Step):
    started = time.monotonic()
    answer = await answer_to(step, timeout_seconds=0.3)
    assert answer.error is AttemptError.TIMEOUT
    assert answer.error_message == "The endpoint did not answer within 0.3 s."
    assert 0.3 <= time.monotonic() - started < 1.0


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_a_peer_that_never_reads_holds_nothing_beyond_the_timeout():
    """Neither the attempt nor the socket with what could not be sent."""
    async with Receiver.open(reads=False) as receiver, open_sender(timeout_seconds=0.3) as sender:
        before = open_sockets()
        answer = await send(sender, receiver.url(), body=b"x" * 30_000_000)
        assert answer.error is AttemptError.TIMEOUT
        assert receiver.connections == 1
        await asyncio.sleep(0)  # asyncio closes an aborted socket in the turn after
        assert open_sockets() == before + 1, "only the receiver's end is left"


# Interim answers


@pytest.mark.parametrize("seconds", [0.0, 0.001], ids=["in one piece", "one by one"])
async def test_a_few_interim_answers_are_fine(seconds: float):
    answer = await answer_to(interim_answers(MAX_INTERIM_ANSWERS, seconds=seconds, then=ok(body=b"done")))
    assert (answer.status, answer.body) == (200, b"done")
    answer = await answer_to(interim_answers(MAX_INTERIM_ANSWERS + 1, seconds=seconds, then=ok(body=b"done")))
    assert answer.error is AttemptError.INVALID_RESPONSE


async def test_interim_answers_without_end_are_cut_off():
    async with Receiver.open() as receiver, open_sender() as sender:
        receiver.script("/", [interim_answers()])
        answer = await send(sender, receiver.url())
        assert answer.error is AttemptError.INVALID_RESPONSE
        assert answer.error_message == "The endpoint sent more than 32 KiB of headers, or 16 interim answers."
        await receiver.wait_until(lambda: receiver.open_connections == 0, "the connection is dropped")


async def test_interim_answers_without_end_do_not_slow_down_others():
    """Aiohttp reads them for ever: one receiver that streams them once slowed a healthy endpoint to seconds."""
    async with Receiver.open() as spammer, Receiver.open() as healthy, open_sender() as sender:
        spammer.script("/", [interim_answers()])
        async with asyncio.TaskGroup() as spam:
            for _ in range(8):
                spam.create_task(send(sender, spammer.url()))
            answers = [await send(sender, healthy.url()) for _ in range(50)]
        assert {answer.status for answer in answers} == {200}


async def test_an_answer_that_nobody_asked_for_is_not_given_to_the_next_request():
    """Neither one that comes along with the answer before it, nor one that comes while the connection is idle."""
    now = asyncio.Event()
    async with Receiver.open() as receiver, open_sender() as sender:
        receiver.script("/", [two_answers(), two_answers(now), ok()])
        assert (await send(sender, receiver.url())).status == 200
        assert (await send(sender, receiver.url())).status == 200
        now.set()
        await receiver.wait_until(lambda: receiver.open_connections == 0, "the connection is dropped")
        assert (await send(sender, receiver.url())).status == 200
        assert receiver.connections == 3


# Connections that do not come about


async def test_a_port_where_nobody_listens_refuses():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with open_sender() as sender:
            answer = await send(sender, f"http://127.0.0.1:{unused.getsockname()[1]}/")
    assert answer.error is AttemptError.CONNECTION_REFUSED
    assert answer.error_message == "The endpoint refused the connection."


@pytest.mark.parametrize("host", ["nothing.invalid", "a" * 64 + ".invalid", "xn--.invalid", "0x1ffffffff"])
async def test_a_name_that_does_not_resolve(host: str):
    async with open_sender() as sender:
        answer = await send(sender, f"http://{host}/")
    assert answer.error is AttemptError.DNS_FAILED
    assert answer.error_message
    assert answer.error_message.startswith("The host's name could not be resolved: ")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.1/",
        "http://2130706433/",
        "http://017700000001/",
        "http://0177.0.0.1/",
        "http://1.2.3.4.5/",
        "http://[::1/",
        "http:///hook",
        "http://.localhost/",
        "http://a..b/",
        "http://127.0.0.1:99999/",
        "/hook",
        "",
        "ftp://127.0.0.1/",
        "ws://127.0.0.1/",
        "unix:///run/socket",
    ],
)
async def test_a_url_that_cannot_be_used_is_the_connection_that_failed(url: str):
    async with open_sender() as sender:
        answer = await send(sender, url)
    assert answer.error is AttemptError.CONNECTION_FAILED
    assert answer.error_message
    assert answer.error_message.startswith("The URL")


async def test_http_is_not_sent_when_https_is_required():
    async with Receiver.open() as receiver, open_sender(Egress(allow=("127.0.0.0/8",), require_https=True)) as sender:
        answer = await send(sender, receiver.url())
        assert answer.error is AttemptError.CONNECTION_FAILED
        assert answer.error_message == "The URL must begin with https://."
        assert receiver.connections == 0


# Addresses


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "LOCALHOST", "hook.localhost", "0x7f000001", "0x7f.1", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"],
)
@pytest.mark.parametrize("egress", [Egress(), Egress(allow=("127.0.0.0/8", "::1/128"), deny=("127.0.0.0/8", "::1/128"))])
async def test_a_forbidden_address_is_never_dialled(host: str, egress: Egress):
    """However it is spelled, and whatever name leads to it: the receiver sees no connection."""
    async with Receiver.open() as receiver, open_sender(egress) as sender:
        answer = await send(sender, receiver.url(host=host))
        assert answer.error is AttemptError.ADDRESS_FORBIDDEN
        assert answer.error_message == "The host's address is not one that the gateway may reach."
        assert receiver.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "hook.localhost", "0x7f000001", "[::ffff:127.0.0.1]"])
async def test_an_allowed_address_is_reached_by_every_name(host: str):
    """`localhost` is also ::1, which is not allowed here; the allowed one will do."""
    async with Receiver.open() as receiver, open_sender() as sender:
        answer = await send(sender, receiver.url(host=host))
        assert (answer.status, answer.error) == (200, None)


async def test_lookups_of_one_organization_do_not_hold_up_another():
    """Its line is full, and the other's name is resolved all the same."""
    async with Receiver.open() as receiver, open_sender() as sender:
        async with sender._resolver._turn("busy"), contextlib.AsyncExitStack() as line:
            for _ in range(7):
                await line.enter_async_context(sender._resolver._turn("busy"))
            waiting = asyncio.create_task(sender.send(receiver.url(host="localhost"), HEADERS, BODY, organization_id="busy"))
            other = await sender.send(receiver.url(host="localhost"), HEADERS, BODY, organization_id="idle")
            assert other.status == 200
            assert not waiting.done()
        assert (await waiting).status == 200
        assert not sender._resolver._lines


# TLS


async def test_tls_with_a_trusted_certificate():
    async with Receiver.open(tls=True) as receiver, open_sender(trusting=receiver) as sender:
        for host in ("127.0.0.1", "localhost"):
            assert (await send(sender, receiver.url(host=host))).status == 200


async def test_a_certificate_that_nobody_vouches_for():
    async with Receiver.open(tls=True) as receiver, open_sender() as sender:
        answer = await send(sender, receiver.url())
        assert answer.error is AttemptError.TLS_FAILED
        assert answer.error_message == "The endpoint's certificate does not hold: self-signed certificate."
        assert not receiver.requests


async def test_a_certificate_for_another_name():
    async with Receiver.open(tls=True) as receiver, open_sender(trusting=receiver) as sender:
        answer = await send(sender, receiver.url(host="hook.localhost"))
        assert answer.error is AttemptError.TLS_FAILED
        assert "not valid for 'hook.localhost'" in (answer.error_message or "")


async def test_a_port_that_speaks_no_tls():
    async with Receiver.open() as receiver, open_sender() as sender:
        answer = await send(sender, receiver.url().replace("http:", "https:"))
        assert answer.error is AttemptError.TLS_FAILED


# Stale connections


@pytest.mark.parametrize("step", [reset(), close()], ids=["reset", "closed"])
async def test_a_request_that_met_a_stale_connection_is_sent_again_at_once(step: Step):
    """On a fresh connection, and the answer says so: it is not the endpoint's failure."""
    async with Receiver.open() as receiver, open_sender() as sender:
        receiver.script("/", [ok(), step, ok(body=b"second")])
        assert not (await send(sender, receiver.url())).resent
        answer = await send(sender, receiver.url())
        assert (answer.status, answer.body, answer.resent) == (200, b"second", True)
        assert [request.connection for request in receiver.requests] == [1, 1, 2]
        assert receiver.requests[2].headers["Connection"] == "close"


async def test_a_connection_that_was_closed_while_idle_is_not_used():
    async with Receiver.open() as receiver, open_sender() as sender:
        receiver.script("/", [close_after_answer(), ok()])
        await send(sender, receiver.url())
        await receiver.wait_until(lambda: receiver.open_connections == 0, "the connection is closed")
        answer = await send(sender, receiver.url())
        assert answer.status == 200
        assert receiver.connections == 2


async def test_it_is_sent_again_only_once():
    async with Receiver.open() as receiver, open_sender() as sender:
        receiver.script("/", [ok(), reset()])
        await send(sender, receiver.url())
        answer = await send(sender, receiver.url())
        assert (answer.error, answer.resent) == (AttemptError.CONNECTION_RESET, True)
        assert len(receiver.requests) == 3


async def test_it_is_not_sent_again_when_a_part_of_an_answer_came():
    async with Receiver.open() as receiver, open_sender() as sender:
        receiver.script("/", [ok(), garbage(b"HTTP/1.1 200 O")])
        await send(sender, receiver.url())
        answer = await send(sender, receiver.url())
        assert (answer.error, answer.resent) == (AttemptError.CONNECTION_RESET, False)
        assert answer.error_message == "The endpoint closed the connection in the middle of its answer."
        assert len(receiver.requests) == 2


async def test_sending_again_does_not_start_the_clock_again():
    async with Receiver.open() as receiver, open_sender(timeout_seconds=0.4) as sender:
        receiver.script("/", [ok(), reset_after(0.2), hang()])
        await send(sender, receiver.url())
        started = time.monotonic()
        answer = await send(sender, receiver.url())
        assert (answer.error, answer.resent) == (AttemptError.TIMEOUT, True)
        assert 0.4 <= time.monotonic() - started < 0.55


def reset_after(seconds: float) -> Step:
    return after(seconds, reset())


# Nothing is left behind


UNHAPPY = [
    ok(body=b"x" * 100_000),
    hang(),
    reset(),
    close(),
    garbage(),
    endless_body(),
    hanging_body(),
    interim_answers(),
    drip_headers(),
    cut_body(),
    two_answers(),
    ok(),
]


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_no_task_and_no_socket_outlives_the_sender(tls: bool):  # noqa: FBT001
    before = open_sockets()
    async with Receiver.open(tls=tls) as receiver:
        async with open_sender(timeout_seconds=0.3, trusting=receiver if tls else None) as sender:
            for number, step in enumerate(UNHAPPY):
                receiver.script(f"/{number}", [step])
            await asyncio.gather(*(send(sender, receiver.url(f"/{number}")) for number in range(len(UNHAPPY))))
            await send(sender, receiver.url(host="localhost"))
            await send(sender, "http://nothing.invalid/")
        await receiver.wait_until(lambda: receiver.open_connections == 0, "every connection is closed")
        assert asyncio.all_tasks() == {asyncio.current_task()}
    assert open_sockets() == before
    gc.collect()  # what was not closed would warn, and so fail the test


async def test_a_canceled_request_leaves_nothing():
    never = asyncio.Event()
    async with Receiver.open() as receiver, open_sender() as sender:
        receiver.script("/", [until(never)])
        sending = asyncio.create_task(send(sender, receiver.url()))
        await receiver.wait_for(1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await receiver.wait_until(lambda: receiver.open_connections == 0, "the connection is closed")
        assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_all_of_it_holds_on_uvloop():
    """The gateway runs on uvloop, these tests on asyncio's own loop."""

    async def everything() -> None:
        await test_no_task_and_no_socket_outlives_the_sender(tls=False)
        await test_no_task_and_no_socket_outlives_the_sender(tls=True)
        await test_a_request_that_met_a_stale_connection_is_sent_again_at_once(reset())
        await test_a_request_that_met_a_stale_connection_is_sent_again_at_once(close())
        await test_an_answer_that_nobody_asked_for_is_not_given_to_the_next_request()
        await test_interim_answers_without_end_are_cut_off()
        await test_a_peer_that_never_reads_holds_nothing_beyond_the_timeout()
        await test_a_forbidden_address_is_never_dialled("localhost", Egress())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(everything())
