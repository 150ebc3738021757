"""Inside stays inside: real attempts at every spelling of a forbidden target, of which none is dialled.

The proof is at the socket: Python's audit events say what the process connects to (tests/socket_watch.py), and a canary on
loopback, whose port the targets have, sees nobody. `127.0.0.2`, which the operator allows, stands for what is public.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import uvloop

from gateway.egress.addresses import AddressGuard
from gateway.egress.resolver import GuardedResolver
from gateway.egress.sender import Answer, Sender
from gateway.model import AttemptError
from gateway.settings import Egress
from tests.forbidden_targets import ADDRESSES, HOSTS, INSIDE, NAMES, URLS
from tests.http_proxy import HttpProxy
from tests.name_server import NameServer
from tests.receiver import Receiver, Step, close, ok, redirect
from tests.socket_watch import SocketWatch, watching

PUBLIC = "127.0.0.2"
METADATA = "http://169.254.169.254/latest/meta-data/"
STRICT = Egress()
REFUSED = {AttemptError.ADDRESS_FORBIDDEN, AttemptError.CONNECTION_FAILED, AttemptError.DNS_FAILED}


class Canary:
    """Listens on loopback, on both families where there are two, and counts who comes."""

    def __init__(self) -> None:
        self.port = 0
        self._visits: asyncio.Queue[None] = asyncio.Queue()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls) -> AsyncIterator["Canary"]:
        canary = cls()
        async with contextlib.AsyncExitStack() as servers:
            first = await servers.enter_async_context(await asyncio.start_server(canary._visit, "127.0.0.1", 0))
            canary.port = first.sockets[0].getsockname()[1]
            with contextlib.suppress(OSError):  # a machine without IPv6
                await servers.enter_async_context(await asyncio.start_server(canary._visit, "::1", canary.port))
            yield canary

    def _visit(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._visits.put_nowait(None)
        writer.close()

    async def saw_nobody(self) -> bool:
        """Whether a visit of the test's own is the first one there is."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.close()
        await self._visits.get()
        await asyncio.sleep(0)
        return self._visits.empty()


class Trial:
    """A sender that knows the test's names, and what it dialled."""

    def __init__(self, sender: Sender, watch: SocketWatch, names: NameServer, canary: Canary) -> None:
        self.names = names
        self.canary = canary
        self._sender = sender
        self._watch = watch

    async def send(self, url: str) -> Answer:
        return await self._sender.send(url, {"Content-Type": "application/json"}, b"{}", organization_id="org")

    async def is_refused(self, url: str) -> bool:
        """Whether *url* is refused without a socket being made. Names that nobody knows are refused for that."""
        self.forget()
        answer = await self.send(url)
        assert (self.dialled, self._watch.made) == (set(), 0), f"{url!r} was dialled"
        return answer.error in REFUSED and answer.status is None

    @property
    def dialled(self) -> set[str]:
        """The addresses."""
        return {host for host, _ in self._watch.dialled}

    def forget(self) -> None:
        self._watch.dialled.clear()
        self._watch.made = 0


@contextlib.asynccontextmanager
async def trying(
    names: Mapping[str, Sequence[str]] | None = None, *, egress: Egress = STRICT, connection_seconds: float = 300.0
) -> AsyncIterator[Trial]:
    async with Canary.open() as canary, NameServer.open(names or {}) as server:
        make_resolver = functools.partial(GuardedResolver, nameservers=[server.address], kept_seconds=0.0)
        async with Sender(
            egress, timeout_seconds=5, make_resolver=make_resolver, connection_seconds=connection_seconds
        ) as sender:
            with watching() as watch:
                yield Trial(sender, watch, server, canary)
        assert await canary.saw_nobody()


def hosts_of_this_machine() -> Iterator[str]:
    """The names in /etc/hosts of addresses inside."""
    guard = AddressGuard([], [])
    for line in Path("/etc/hosts").read_text().splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        if address and not guard.allows(address):
            yield from names


def test_the_campaign_is_large():
    """Spellings of forbidden targets, each counted once."""
    targets = {*HOSTS, *NAMES, *URLS, *(f"{address} by a name" for address in ADDRESSES)}
    assert len(targets) >= 120
    assert len({address for address in ADDRESSES if not AddressGuard([], []).allows(address)}) == len(ADDRESSES)


# By literal


@pytest.mark.parametrize("host", HOSTS, ids=ascii)
async def test_a_literal_is_never_dialled(host: str):
    """Every range at its first, middle and last address; every embedding; every spelling that some resolver would take."""
    async with trying() as trial:
        assert await trial.is_refused(f"http://{host}:{trial.canary.port}/")
        assert await trial.is_refused(f"https://{host}/")


@pytest.mark.parametrize("url", URLS, ids=ascii)
async def test_a_url_that_hides_its_host_is_never_dialled(url: str):
    """User names, fragments, backslashes, odd ports and schemes: whatever a URL's parts are taken to be."""
    async with trying() as trial:
        assert await trial.is_refused(url.format(port=trial.canary.port))


# By name


@pytest.mark.parametrize("host", [*NAMES, *hosts_of_this_machine()], ids=ascii)
async def test_a_well_known_name_is_never_dialled(host: str):
    """Of this machine, its hosts file, and the metadata services of clouds, where their names lead there."""
    plain = {name.lower().rstrip("."): addresses for name, addresses in NAMES.items() if addresses}
    async with trying(plain) as trial:
        assert await trial.is_refused(f"http://{host}:{trial.canary.port}/")


@pytest.mark.parametrize("address", ADDRESSES)
async def test_a_name_that_leads_inside_is_never_dialled(address: str):
    """By itself, as another name (CNAME), and among public addresses."""
    names = {"inside.example": [address], "mixed.example": [PUBLIC, address], "last.example": [address, PUBLIC]}
    async with trying(names, egress=Egress(allow=(f"{PUBLIC}/32",))) as trial:
        trial.names.aliases["alias.example"] = "inside.example"
        for name in ("inside.example", "mixed.example", "last.example", "alias.example"):
            answer = await trial.send(f"http://{name}:{trial.canary.port}/")
            assert answer.error is AttemptError.ADDRESS_FORBIDDEN
        assert trial.dialled == set()


# By a name that changes


async def test_a_name_that_changes_between_the_check_and_the_dial_gains_nothing():
    """What was judged is what is dialled: there is one lookup, and the name's next answer is not asked for."""
    async with (
        Receiver.open(host=PUBLIC) as receiver,
        trying({"rebinding.example": [PUBLIC]}, egress=Egress(allow=(f"{PUBLIC}/32",))) as trial,
    ):
        trial.names.then["rebinding.example"] = ["127.0.0.1"]
        assert (await trial.send(receiver.url(host="rebinding.example"))).status == 200
        assert trial.dialled == {PUBLIC}
        assert trial.names.names["rebinding.example"] == ["127.0.0.1"], "it leads inside by now"


async def test_a_name_that_changes_between_attempts_is_judged_anew():
    """Public at the first attempt, inside at the second."""
    egress = Egress(allow=(f"{PUBLIC}/32",))
    async with (
        Receiver.open(host=PUBLIC) as receiver,
        trying({"rebinding.example": [PUBLIC]}, egress=egress, connection_seconds=0.0) as trial,
    ):
        url = receiver.url(host="rebinding.example")
        assert (await trial.send(url)).status == 200
        trial.names.names["rebinding.example"] = ["127.0.0.1"]
        assert (await trial.send(url)).error is AttemptError.ADDRESS_FORBIDDEN
        assert trial.dialled == {PUBLIC}


async def test_an_idle_connection_leads_where_it_was_judged_to():
    """After the name has changed it is used until its age is reached, and dials nothing."""
    async with (
        Receiver.open(host=PUBLIC) as receiver,
        trying({"rebinding.example": [PUBLIC]}, egress=Egress(allow=(f"{PUBLIC}/32",))) as trial,
    ):
        url = receiver.url(host="rebinding.example")
        await trial.send(url)
        trial.forget()
        trial.names.names["rebinding.example"] = ["127.0.0.1"]
        assert (await trial.send(url)).status == 200
        assert receiver.connections == 1
        assert trial.dialled == set()


async def test_what_is_sent_again_after_a_stale_connection_is_judged_anew():
    """The receiver hangs up just when its name has come to lead inside."""
    async with (
        Receiver.open(host=PUBLIC) as receiver,
        trying({"rebinding.example": [PUBLIC]}, egress=Egress(allow=(f"{PUBLIC}/32",))) as trial,
    ):
        receiver.script("/", [ok(), close()])
        url = receiver.url(host="rebinding.example")
        await trial.send(url)
        trial.names.names["rebinding.example"] = ["127.0.0.1"]
        answer = await trial.send(url)
        assert (answer.error, answer.resent) == (AttemptError.ADDRESS_FORBIDDEN, True)
        assert trial.dialled == {PUBLIC}


# By redirect


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", [lambda _: METADATA, lambda port: f"http://localhost:{port}/", lambda port: f"//127.1:{port}/"])
async def test_a_redirect_leads_nowhere(code: int, where: Callable[[int], str]):
    """To a metadata service, to loopback: it is on record, and that is all."""
    async with Receiver.open(host=PUBLIC) as receiver, trying(egress=Egress(allow=(f"{PUBLIC}/32",))) as trial:
        step: Step = redirect(where(trial.canary.port), code=code)
        receiver.script("/", [step])
        answer = await trial.send(receiver.url())
        assert (answer.status, answer.error) == (code, AttemptError.REDIRECT)
        assert trial.dialled == {PUBLIC}


# What the operator says


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "0x7f.1", "[::ffff:127.0.0.1]", "localhost", "inside.example", "\uff11\u30020.0.0"]
)
async def test_deny_wins_over_allow_at_the_dial(host: str):
    """All of loopback is allowed but one address, which stays where it is."""
    egress = Egress(allow=("127.0.0.0/8", "::1/128"), deny=("127.0.0.1/32", "::1/128", "1.0.0.0/8"))
    async with trying({"inside.example": ["127.0.0.1"]}, egress=egress) as trial, Receiver.open(host=PUBLIC) as receiver:
        assert await trial.is_refused(f"http://{host}:{trial.canary.port}/")
        assert (await trial.send(receiver.url())).status == 200
        assert trial.dialled == {PUBLIC}


async def test_a_denied_public_address_is_never_dialled():
    """`egress.deny` is for what the operator knows better: here all that is public, by number and by name."""
    egress = Egress(deny=("0.0.0.0/0", "::/0"))
    async with trying({"public.example": ["93.184.215.14", "2606:4700::1"]}, egress=egress) as trial:
        for host in ("93.184.215.14", "public.example", "[2606:4700::1]", "[::ffff:93.184.215.14]"):
            assert await trial.is_refused(f"http://{host}/")


# Everywhere else


async def test_the_watch_sees_what_is_dialled():
    """The proof would fail if something were: an allowed address is on its record."""
    async with Receiver.open(host=PUBLIC) as receiver, trying(egress=Egress(allow=(f"{PUBLIC}/32",))) as trial:
        await trial.send(receiver.url())
        assert trial.dialled == {PUBLIC}


async def test_a_proxy_is_never_asked_for_any_of_them():
    """With `egress.proxy` the gateway judges as it does without one: the proxy sees no connection."""
    async with HttpProxy.open() as proxy, trying(egress=Egress(proxy=proxy.url)) as trial:
        for host in HOSTS:
            assert await trial.is_refused(f"http://{host}:{trial.canary.port}/")
        assert proxy.connections == 0


def test_all_of_it_holds_on_uvloop():
    """The gateway runs on uvloop, these tests on asyncio's own loop."""

    async def everything() -> None:
        await test_the_watch_sees_what_is_dialled()
        async with trying({f"inside{number}.example": [address] for number, address in enumerate(ADDRESSES)}) as trial:
            for host in [*HOSTS, *NAMES, *(f"inside{number}.example" for number in range(len(ADDRESSES)))]:
                assert await trial.is_refused(f"http://{host}:{trial.canary.port}/")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(everything())


def test_inside_is_inside():
    assert not any(AddressGuard([], []).allows(address) for address in INSIDE)
