"""Deliveries through an egress proxy, over real sockets."""

import asyncio
import base64
import contextlib
import functools
import socket
import time
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
import uvloop
from structlog.testing import capture_logs

from gateway.egress.proxy import read_proxy
from gateway.egress.resolver import GuardedResolver
from gateway.egress.sender import Answer, Sender
from gateway.model import AttemptError
from gateway.settings import Egress
from tests import http_proxy
from tests.http_proxy import HttpProxy, connect, refuse, say
from tests.name_server import NameServer
from tests.receiver import Receiver, close, garbage, ok, reset

HEADERS = {"Content-Type": "application/json"}
BODY = b'{"id":"whev_1"}'
PASSWORD = "hunter2:/@?"


@contextlib.asynccontextmanager
async def sending(
    proxy: HttpProxy | str,
    *,
    allow: tuple[str, ...] = ("127.0.0.0/8",),
    ports: tuple[int, ...] = (),
    timeout_seconds: float = 5.0,
    trusting: Receiver | None = None,
    names: NameServer | None = None,
) -> AsyncIterator[Sender]:
    url = proxy if isinstance(proxy, str) else proxy.url
    make_resolver = GuardedResolver if names is None else functools.partial(GuardedResolver, nameservers=[names.address])
    async with Sender(
        Egress(allow=allow, allowed_ports=ports, proxy=url),
        timeout_seconds=timeout_seconds,
        tls=trusting.client_tls if trusting else None,
        make_resolver=make_resolver,
    ) as sender:
        yield sender


async def send(sender: Sender, url: str) -> Answer:
    return await sender.send(url, HEADERS, BODY, organization_id="org")


# What the proxy is asked for


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_the_proxy_is_asked_for_the_judged_address(tls: bool):  # noqa: FBT001
    """The gateway has looked the name up; the receiver is told the name all the same, and its certificate has to be for it."""
    async with HttpProxy.open() as proxy, Receiver.open(tls=tls) as receiver:
        async with sending(proxy, trusting=receiver if tls else None) as sender:
            answer = await send(sender, receiver.url("/hook", host="localhost"))
        assert (answer.status, answer.error) == (200, None)
        assert proxy.request_lines == [f"CONNECT 127.0.0.1:{receiver.port} HTTP/1.1"]
        assert dict(proxy.headers[0]) == {"Host": f"127.0.0.1:{receiver.port}"}
        (request,) = receiver.requests
        assert (request.path, request.body, request.headers["Host"]) == ("/hook", BODY, f"localhost:{receiver.port}")


async def test_a_certificate_has_to_be_for_the_host():
    """Though the proxy was asked for an address that the certificate is for."""
    async with HttpProxy.open() as proxy, Receiver.open(tls=True) as receiver, sending(proxy, trusting=receiver) as sender:
        answer = await send(sender, receiver.url(host="hook.localhost"))
        assert answer.error is AttemptError.TLS_FAILED
        assert "not valid for 'hook.localhost'" in (answer.error_message or "")
        assert not receiver.requests


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_tunnel_is_used_again(tls: bool):  # noqa: FBT001
    """For the same host, and for no other."""
    async with HttpProxy.open() as proxy, Receiver.open(tls=tls) as receiver:
        async with sending(proxy, trusting=receiver if tls else None) as sender:
            for host in ("127.0.0.1", "127.0.0.1", "localhost", "127.0.0.1"):
                assert (await send(sender, receiver.url(host=host))).status == 200
        assert len(proxy.asked) == proxy.connections == receiver.connections == 2


async def test_a_stale_tunnel_is_no_failure_of_the_endpoint():
    """The request is sent again at once through a new tunnel, as without a proxy."""
    async with HttpProxy.open() as proxy, Receiver.open() as receiver, sending(proxy) as sender:
        receiver.script("/", [ok(), close(), ok(body=b"second")])
        await send(sender, receiver.url())
        answer = await send(sender, receiver.url())
        assert (answer.status, answer.body, answer.resent) == (200, b"second", True)
        assert len(proxy.asked) == 2


async def test_the_proxy_is_told_who_asks():
    """With the user and password of its URL, where special characters are written as %3A and so on."""
    async with HttpProxy.open() as proxy, Receiver.open() as receiver:
        async with sending(f"http://gateway:{quote(PASSWORD, safe='')}@127.0.0.1:{proxy.port}") as sender:
            assert (await send(sender, receiver.url())).status == 200
        expected = base64.b64encode(f"gateway:{PASSWORD}".encode()).decode()
        assert proxy.headers[0]["Proxy-Authorization"] == f"Basic {expected}"
        assert "Proxy-Authorization" not in receiver.requests[0].headers


async def test_the_next_address_is_asked_for_when_one_cannot_be_reached():
    """A name with several addresses fails only when the proxy can connect to none of them."""
    names = {"endpoint.example": ["127.0.0.1", "127.0.0.2"]}
    async with (
        NameServer.open(names) as server,
        HttpProxy.open() as proxy,
        Receiver.open(host="0.0.0.0") as receiver,
        sending(proxy, names=server) as sender,
    ):
        proxy.script([refuse(503), connect(), refuse(503)])
        url = receiver.url(host="endpoint.example")
        assert (await send(sender, url)).status == 200
        assert {asked.partition(":")[0] for asked in proxy.asked} == {"127.0.0.1", "127.0.0.2"}


# What is never asked for


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0x7f.1", "inside.example", "mixed.example", "169.254.169.254"]
)
async def test_the_proxy_is_never_asked_for_a_forbidden_address(host: str):
    """Though the proxy itself is at one: it is named by the operator."""
    names = {"inside.example": ["10.0.0.1"], "mixed.example": ["93.184.215.14", "127.0.0.1"]}
    async with NameServer.open(names) as server, HttpProxy.open() as proxy, sending(proxy, allow=(), names=server) as sender:
        answer = await send(sender, f"http://{host}/")
        assert answer.error is AttemptError.ADDRESS_FORBIDDEN
        assert proxy.connections == 0


async def test_the_proxy_is_never_asked_for_a_forbidden_port():
    """`egress.allowed_ports` is about the endpoint; the proxy's own port is its operator's choice."""
    async with HttpProxy.open() as proxy, Receiver.open() as receiver:
        async with sending(proxy, ports=(443,)) as sender:
            answer = await send(sender, receiver.url())
            assert answer.error is AttemptError.ADDRESS_FORBIDDEN
            assert answer.error_message == "The URL's port is not one that the gateway may reach."
            assert proxy.connections == 0
        async with sending(proxy, ports=(receiver.port,)) as sender:
            assert (await send(sender, receiver.url())).status == 200


async def test_nothing_but_the_proxy_is_dialled():
    """The socket is refused for any other place, should a way to one ever be found."""
    async with HttpProxy.open() as proxy, Receiver.open() as receiver, sending(proxy) as sender:
        await send(sender, receiver.url())
        for to in (("127.0.0.1", receiver.port), ("127.0.0.2", proxy.port)):
            with pytest.raises(OSError, match="may reach"):
                sender._pooled._make_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", to))


async def test_the_proxies_of_the_environment_are_never_used(monkeypatch: pytest.MonkeyPatch):
    """Whatever HTTP_PROXY and its like say; nor does NO_PROXY let a delivery pass by the proxy that is set."""
    async with HttpProxy.open() as other, HttpProxy.open() as proxy, Receiver.open() as receiver:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, other.url)
        async with Sender(Egress(allow=("127.0.0.0/8",)), timeout_seconds=5.0) as sender:
            assert (await send(sender, receiver.url())).status == 200
        assert other.connections == 0
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setenv("no_proxy", "*")
        async with sending(proxy) as sender:
            assert (await send(sender, receiver.url())).status == 200
        assert (other.connections, proxy.connections) == (0, 1)


# What goes wrong


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (refuse(403), "The egress proxy refused to connect to the endpoint (403)."),
        (refuse(407), "The egress proxy asks for another user name and password than it was given (407)."),
        (refuse(502), "The egress proxy could not connect to the endpoint (502)."),
        (refuse(503), "The egress proxy could not connect to the endpoint (503)."),
        (refuse(301), "The egress proxy refused to connect to the endpoint (301)."),
        (say(b""), "The egress proxy closed the connection before its answer."),
        (say(b"HTTP/1.1 200 O"), "The egress proxy closed the connection before its answer."),
        (say(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n"), "The egress proxy's answer is not HTTP."),
        (say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), "The egress proxy's answer is not HTTP."),
        (say(b"HTTP/1.1 200 OK\r\n" + b"X-Much: more\r\n" * 2_000), "The egress proxy's answer is not HTTP."),
    ],
)
async def test_a_failure_of_the_proxy_is_told_from_one_of_the_endpoint(step: http_proxy.Step, sentence: str):
    """It has a name of its own on record, and a sentence that says what to look at."""
    async with HttpProxy.open() as proxy, Receiver.open() as receiver, sending(proxy) as sender:
        proxy.script([step])
        answer = await send(sender, receiver.url())
        assert (answer.error, answer.error_message) == (AttemptError.PROXY_FAILED, sentence)
        assert (answer.status, answer.resent) == (None, False)
        assert not receiver.requests


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (reset(), AttemptError.CONNECTION_RESET),
        (close(), AttemptError.CONNECTION_RESET),
        (garbage(), AttemptError.INVALID_RESPONSE),
    ],
)
async def test_a_failure_of_the_endpoint_is_its_own_through_a_proxy_too(step, error: AttemptError):
    async with HttpProxy.open() as proxy, Receiver.open() as receiver, sending(proxy) as sender:
        receiver.script("/", [step])
        assert (await send(sender, receiver.url())).error is error


async def test_a_proxy_that_is_not_there():
    """Neither at its address nor under its name."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with sending(f"http://127.0.0.1:{unused.getsockname()[1]}") as sender:
            answer = await send(sender, "http://93.184.215.14/")
    assert answer.error is AttemptError.PROXY_FAILED
    assert answer.error_message == "The egress proxy cannot be reached: connection refused."
    async with NameServer.open({}) as names, sending("http://proxy.example:3128", names=names) as sender:
        answer = await send(sender, "http://93.184.215.14/")
    assert answer.error is AttemptError.PROXY_FAILED
    assert answer.error_message == "The egress proxy's name could not be resolved: Domain name not found."


async def test_a_proxy_may_be_named():
    """Its name may lead inside, since its operator has given it."""
    async with (
        NameServer.open({"proxy.example": ["127.0.0.1"]}) as names,
        HttpProxy.open() as proxy,
        Receiver.open(host="127.0.0.2") as receiver,
        sending(f"http://proxy.example:{proxy.port}", allow=("127.0.0.2/32",), names=names) as sender,
    ):
        assert (await send(sender, receiver.url())).status == 200
        assert proxy.asked == [f"127.0.0.2:{receiver.port}"]


async def test_a_proxy_that_does_not_answer_costs_the_timeout_and_no_more():
    async with HttpProxy.open() as proxy, sending(proxy, timeout_seconds=0.3) as sender:
        proxy.script([http_proxy.hang()])
        started = time.monotonic()
        answer = await send(sender, "http://93.184.215.14/")
        assert answer.error is AttemptError.TIMEOUT
        assert answer.error_message == "The egress proxy did not connect to the endpoint within 0.3 s."
        assert 0.29 <= time.monotonic() - started < 1.0  # uvloop's timers count whole milliseconds


async def test_the_password_of_the_proxy_is_nowhere_to_be_seen():
    """Neither in a repr, nor in what is on record of an attempt, nor in the log."""
    url = f"http://gateway:{quote(PASSWORD, safe='')}@127.0.0.1:1"
    encoded = base64.b64encode(f"gateway:{PASSWORD}".encode()).decode()
    with capture_logs() as logs:
        async with sending(url) as sender:
            answer = await send(sender, "http://93.184.215.14/")
            shown = repr((Egress(proxy=url), read_proxy(url), sender, vars(sender), answer, logs))
    assert answer.error is AttemptError.PROXY_FAILED
    for secret in ("hunter2", encoded, quote(PASSWORD, safe="")):
        assert secret not in shown


# Nothing is left behind


async def test_no_task_and_no_connection_outlives_the_sender():
    """However the tunnels came out."""
    async with HttpProxy.open() as proxy, Receiver.open(tls=True) as receiver:
        async with sending(proxy, timeout_seconds=0.3, trusting=receiver) as sender:
            proxy.script([refuse(502), say(b"x"), http_proxy.hang(), connect()])
            for host in ("127.0.0.1", "127.0.0.1", "127.0.0.1", "hook.localhost", "localhost", "localhost"):
                answer = await send(sender, receiver.url(host=host))
            assert answer.status == 200
        await receiver.wait_until(lambda: receiver.open_connections == 0, "every connection is closed")
        clients = {task for task in asyncio.all_tasks() if task.get_name() == "a client of the proxy"}
        if clients:
            await asyncio.wait(clients, timeout=5)
        assert asyncio.all_tasks() == {asyncio.current_task()}


def test_all_of_it_holds_on_uvloop():
    """The gateway runs on uvloop, these tests on asyncio's own loop."""

    async def everything() -> None:
        for tls in (False, True):
            await test_the_proxy_is_asked_for_the_judged_address(tls)
            await test_a_tunnel_is_used_again(tls)
        await test_a_certificate_has_to_be_for_the_host()
        await test_a_stale_tunnel_is_no_failure_of_the_endpoint()
        await test_a_proxy_that_is_not_there()
        await test_a_proxy_that_does_not_answer_costs_the_timeout_and_no_more()
        await test_no_task_and_no_connection_outlives_the_sender()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(everything())
