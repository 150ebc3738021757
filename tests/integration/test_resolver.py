"""Names are resolved against a real name server, which answers as the tests say."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from gateway.egress.addresses import AddressGuard
from gateway.egress.resolver import (
    LOOKUPS_PER_ORGANIZATION,
    MAX_ADDRESSES,
    ORGANIZATION,
    STALE_SECONDS,
    ForbiddenAddress,
    GuardedResolver,
    NameNotResolved,
)
from tests.name_server import NameServer

PUBLIC = "93.184.215.14"


class Ahead:
    """A clock that is some seconds ahead of the real one."""

    seconds = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.seconds


@contextlib.asynccontextmanager
async def resolving(
    names: dict[str, Sequence[str]], *, allow: Sequence[str] = (), now: Callable[[], float] = time.monotonic
) -> AsyncIterator[tuple[GuardedResolver, NameServer]]:
    async with NameServer.open(names) as server:
        resolver = GuardedResolver(AddressGuard(allow, ()), nameservers=[server.address], now=now)
        try:
            yield resolver, server
        finally:
            await resolver.close()


async def addresses(resolver: GuardedResolver, host: str) -> set[str]:
    return {found["host"] for found in await resolver.resolve(host, 443)}


async def test_a_name_has_the_addresses_of_both_families():
    async with resolving({"good.example": [PUBLIC, "2606:4700::1"]}) as (resolver, _):
        found = await resolver.resolve("good.example", 443)
        assert {(each["host"], each["port"]) for each in found} == {(PUBLIC, 443), ("2606:4700::1", 443)}


@pytest.mark.parametrize(
    "bad", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::1", "64:ff9b::7f00:1", "::ffff:10.0.0.1"]
)
async def test_one_forbidden_answer_refuses_the_name(bad: str):
    """Whatever else it answers: that is how rebinding is tried."""
    async with resolving({"mixed.example": [PUBLIC, "2606:4700::1", bad]}) as (resolver, _):
        for _ in range(2):  # the second time from memory
            with pytest.raises(ForbiddenAddress):
                await resolver.resolve("mixed.example", 443)


async def test_a_forbidden_answer_that_is_allowed_is_fine():
    async with resolving({"inside.example": ["10.0.0.1", PUBLIC]}, allow=["10.0.0.0/8"]) as (resolver, _):
        assert await addresses(resolver, "inside.example") == {"10.0.0.1", PUBLIC}


async def test_only_some_of_many_addresses_are_tried():
    many = [f"93.184.215.{number}" for number in range(20)]
    async with resolving({"many.example": many, "bad.example": [*many, "127.0.0.1"]}) as (resolver, _):
        assert len(await addresses(resolver, "many.example")) == MAX_ADDRESSES
        with pytest.raises(ForbiddenAddress):
            await resolver.resolve("bad.example", 443)


@pytest.mark.parametrize("host", ["0x5db8d70e", "0135.0270.0327.016", "93.12113678"])
async def test_spellings_of_an_address_are_not_asked_for(host: str):
    """They are the address itself, and judged as such."""
    async with resolving({host: ["127.0.0.1"]}) as (resolver, server):
        assert await addresses(resolver, host) == {PUBLIC}
        with pytest.raises(ForbiddenAddress):
            await resolver.resolve("0x7f.1", 443)
        assert not server.asked


async def test_an_answer_is_remembered():
    async with resolving({"good.example": [PUBLIC]}) as (resolver, server):
        await resolver.resolve("good.example", 443)
        asked = len(server.asked)
        await resolver.resolve("good.example", 80)
        assert len(server.asked) == asked


async def test_a_name_that_does_not_exist():
    async with resolving({}) as (resolver, _):
        with pytest.raises(NameNotResolved, match="Domain name not found"):
            await resolver.resolve("nothing.example", 443)


async def test_silent_name_servers_hold_up_their_organization_and_no_other():
    """3 s at most for each, so many at once; what had no turn within 2 s is refused."""
    dead = {f"dead{number}.example": () for number in range(LOOKUPS_PER_ORGANIZATION + 1)}
    async with resolving({"good.example": [PUBLIC], **dead}) as (resolver, server):

        async def failure(host: str) -> str:
            ORGANIZATION.set("dead")
            with pytest.raises(NameNotResolved) as failed:
                await resolver.resolve(host, 443)
            return str(failed.value)

        started = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            failures = [tasks.create_task(failure(host)) for host in dead]
            await asyncio.sleep(0)  # the tasks above have taken their places in the line
            assert await addresses(resolver, "good.example") == {PUBLIC}
            assert time.monotonic() - started < 1.0
            assert not any(task.done() for task in failures)
        assert time.monotonic() - started < 3.5
        assert len({name for name in server.asked if name in dead}) == LOOKUPS_PER_ORGANIZATION
        refused = [task.result() for task in failures if task.result().startswith("too many other names")]
        assert len(refused) == 1


async def test_names_that_have_answered_do_not_wait_behind_dead_ones():
    """An organization's dead names keep its lookups busy; one that has answered before is looked up again at once."""
    dead = {f"dead{number}.example": () for number in range(2 * LOOKUPS_PER_ORGANIZATION)}
    clock = Ahead()
    async with resolving({"good.example": [PUBLIC], **dead}, now=clock) as (resolver, server):
        await resolver.resolve("good.example", 443)
        clock.seconds += 60
        asked = len(server.asked)
        async with asyncio.TaskGroup() as tasks:
            failures = [tasks.create_task(_fails(resolver, host)) for host in dead]
            await asyncio.sleep(0)  # the tasks above have taken their places in the line
            started = time.monotonic()
            assert await addresses(resolver, "good.example") == {PUBLIC}
            assert time.monotonic() - started < 1.0
            assert server.asked[asked:].count("good.example"), "it was remembered"
            for task in failures:
                task.cancel()


async def test_a_name_whose_servers_fall_silent_keeps_its_addresses_for_a_while():
    """For five minutes after its last answer; then it cannot be resolved. A name that is said not to exist has none at once."""
    clock = Ahead()
    async with resolving({"good.example": [PUBLIC], "gone.example": [PUBLIC]}, now=clock) as (resolver, server):
        for host in ("good.example", "gone.example"):
            await resolver.resolve(host, 443)
        clock.seconds += 60
        server.names = {"good.example": ()}
        assert await addresses(resolver, "good.example") == {PUBLIC}
        with pytest.raises(NameNotResolved, match="not found"):
            await resolver.resolve("gone.example", 443)
        clock.seconds += STALE_SECONDS
        with pytest.raises(NameNotResolved, match="no answer"):
            await resolver.resolve("good.example", 443)


async def _fails(resolver: GuardedResolver, host: str) -> None:
    ORGANIZATION.set("")
    with pytest.raises(NameNotResolved):
        await resolver.resolve(host, 443)
