"""Names of hosts to addresses, judged. Over aiodns, since the few threads of the default resolver let six dead names stop
everybody."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import ContextVar

import aiodns
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.egress.addresses import AddressGuard, literal_address

LOOKUP_SECONDS = 3.0
TURN_SECONDS = 2.0
LOOKUPS_PER_ORGANIZATION = 8
# Every address of a name is judged; no more than these are dialled, since aiohttp tries n of them n² / 2 times.
MAX_ADDRESSES = 6
_KEPT_SECONDS = 30.0
_FAILURE_KEPT_SECONDS = 2.0
# A name whose servers said nothing is asked for again after this, so that dead names leave lookups to the others; one that has
# answered before goes by its last addresses for so long (serve stale, RFC 8767).
_SILENCE_KEPT_SECONDS = 10.0
STALE_SECONDS = 300.0
_MAX_KEPT = 10_000
_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV

ORGANIZATION: ContextVar[str] = ContextVar("organization", default="")
"""The organization that the current request is for: each has its own line of lookups."""


class ForbiddenAddress(OSError):
    """The address is not one that the gateway may reach."""

    def __init__(self) -> None:
        # One constant message: of errors with different texts, connecting to several addresses makes a plain OSError.
        super().__init__("the address is not one that the gateway may reach")


class NameNotResolved(OSError):
    """The host has no address, or its name servers did not answer."""


class _Line:
    """An organization's lookups: so many at once, the rest in turn."""

    __slots__ = ("slots", "users")

    def __init__(self) -> None:
        self.slots = asyncio.Semaphore(LOOKUPS_PER_ORGANIZATION)
        self.users = 0


class _Outcome:
    """What became of a lookup, and until when that holds."""

    __slots__ = ("addresses", "failure", "stale_until", "until")

    def __init__(self, addresses: list[str], failure: str | None, until: float, stale_until: float) -> None:
        self.addresses = addresses  # none: forbidden, unless there is a failure
        self.failure = failure
        self.until = until
        self.stale_until = stale_until  # the addresses will do until then when no newer ones can be had


class GuardedResolver(AbstractResolver):
    """Resolves names for the connector, which must not cache them: a cache of its own would let an organization wait
    behind another's lookup. The names in /etc/hosts, `localhost` among them, are answered by c-ares itself."""

    def __init__(
        self,
        guard: AddressGuard,
        *,
        nameservers: Sequence[str] | None = None,
        kept_seconds: float = _KEPT_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._guard = guard
        self._kept_seconds = kept_seconds
        self._now = now
        # None: those of the system.
        self._aiodns = aiodns.DNSResolver(nameservers, asyncio.get_running_loop(), timeout=1.0, tries=2)
        self._lines: dict[tuple[str, bool], _Line] = {}
        self._kept: dict[str, _Outcome] = {}

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """The addresses of *host*. Raises ForbiddenAddress when any of them is forbidden, NameNotResolved when it has none."""
        outcome = self._recall(host)
        if outcome is None:
            stale = self._stale(host)
            try:
                # Names that have answered stand in a line of their own, which names that are dead do not get into.
                async with self._turn(ORGANIZATION.get(), has_answered=stale is not None):
                    # It may have been looked up while this waited for its turn.
                    outcome = self._recall(host) or await self._look_up(host, family)
            except NameNotResolved:
                if stale is None:
                    raise
                outcome = stale
        if outcome.failure is not None:
            raise NameNotResolved(outcome.failure)
        if not outcome.addresses:
            raise ForbiddenAddress
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=_NUMERIC,
            )
            for address in outcome.addresses
        ]

    async def close(self) -> None:
        """Gives up what is being looked up."""
        await self._aiodns.close()

    @contextlib.asynccontextmanager
    async def _turn(self, organization_id: str, *, has_answered: bool = False) -> AsyncIterator[None]:
        line = self._lines.setdefault((organization_id, has_answered), _Line())
        line.users += 1
        try:
            try:
                async with asyncio.timeout(TURN_SECONDS):
                    await line.slots.acquire()
            except TimeoutError:
                raise NameNotResolved("too many other names of the organization are being looked up") from None
            try:
                yield
            finally:
                line.slots.release()
        finally:
            line.users -= 1
            if not line.users:
                del self._lines[organization_id, has_answered]

    async def _look_up(self, host: str, family: socket.AddressFamily) -> _Outcome:  # noqa: PLR0911 - a table of cases
        literal = literal_address(host)
        if literal is not None:
            # 0x7f000001 and the like: no name, whatever name servers say.
            return self._keep(host, self._judge(host, [str(literal)]), None)
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                answer = await self._aiodns.getaddrinfo(host, family=family, type=socket.SOCK_STREAM)
        except aiodns.error.DNSError as error:
            if error.args[:1] == (aiodns.error.ARES_ETIMEOUT,):
                return self._keep_silent(host)
            return self._keep(host, [], str(error.args[1]) if len(error.args) > 1 else "the lookup failed")
        except TimeoutError:
            return self._keep_silent(host)
        except UnicodeError:
            return self._keep(host, [], "it is not a host name")
        addresses = [node.addr[0].decode("ascii") for node in answer.nodes]
        if not addresses:
            return self._keep(host, [], "it has no address")
        return self._keep(host, self._judge(host, addresses), None)

    def _judge(self, host: str, addresses: list[str]) -> list[str]:
        allowed = [address for address in addresses if self._guard.allows(address)]
        # c-ares answers `localhost` with ::1 and 127.0.0.1 by itself (RFC 6761), so there the allowed one will do. Of
        # all other names one forbidden answer is enough: mixing them with allowed ones is how rebinding is tried.
        is_loopback = host.rpartition(".")[2].lower() == "localhost"
        return allowed[:MAX_ADDRESSES] if is_loopback or len(allowed) == len(addresses) else []

    def _recall(self, host: str) -> _Outcome | None:
        outcome = self._kept.get(host)
        return outcome if outcome is not None and outcome.until > self._now() else None

    def _stale(self, host: str) -> _Outcome | None:
        """What *host* answered when it last did, if that is not too long ago."""
        outcome = self._kept.get(host)
        return outcome if outcome is not None and outcome.stale_until > self._now() else None

    def _keep_silent(self, host: str) -> _Outcome:
        """Nobody answered: its last addresses will do for a while, if it has any."""
        until = self._now() + _SILENCE_KEPT_SECONDS
        stale = self._stale(host)
        if stale is not None:
            return self._remember(host, _Outcome(stale.addresses, None, until, stale.stale_until))
        return self._remember(host, _Outcome([], f"no answer from the name servers within {LOOKUP_SECONDS:g} s", until, 0))

    def _keep(self, host: str, addresses: list[str], failure: str | None) -> _Outcome:
        now = self._now()
        kept_seconds = self._kept_seconds if addresses else min(self._kept_seconds, _FAILURE_KEPT_SECONDS)
        return self._remember(host, _Outcome(addresses, failure, now + kept_seconds, now + STALE_SECONDS if addresses else 0))

    def _remember(self, host: str, outcome: _Outcome) -> _Outcome:
        self._kept.pop(host, None)
        self._kept[host] = outcome
        if len(self._kept) > _MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        return outcome
