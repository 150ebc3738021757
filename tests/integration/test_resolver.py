"""Names are resolved against a real name server, which answers as the tests say."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from gateway.egress.addresses import AddressGuard
from gateway.egress.resolver import (
    LOOKUPS_PER_ORGANIZATION,
    MAX_ADDRESSES,
    ORGANIZATION,
    ForbiddenAddress,
    GuardedResolver,
    NameNotResolved,
)
from tests.name_server import NameServer

PUBLIC = "93.184.215.14"


@contextlib.asynccontextmanager
async def resolving(
    names: dict[str, Sequence[str]], *, allow: Sequence[str] = ()
) -> AsyncIterator[tuple[GuardedResolver, NameServer]]:
    async with NameServer.open(names) as server:
        resolver = GuardedResolver(AddressGuard(allow, ()), nameservers=[server.address])
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
