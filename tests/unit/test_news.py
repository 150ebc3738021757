"""Keeping up with what other nodes commit."""

import asyncio

import pytest

from gateway.cluster.news import NewsWatch
from gateway.errors import SecretUnreadable, Stopping
from gateway.store.protocol import News
from tests.cluster_fakes import FakeProcess


class Encrypted(FakeProcess):
    """Its news has secrets that it cannot read."""

    def __init__(self) -> None:
        """It works on no store."""

    async def news(self) -> News:
        raise SecretUnreadable("the key is lacking")


async def never(_event: asyncio.Event, _seconds: float) -> None:
    await asyncio.Event().wait()


async def test_a_node_that_cannot_read_what_others_encrypt_ends():
    """It would not learn of any change from then on: of keys that are revoked, or of another URL."""

    async def reload() -> None:
        """There is nothing to be read."""

    watch = NewsWatch(
        cluster=Encrypted(), heard=lambda _: None, reload=reload, reread=lambda: None, woken=lambda: None, pause=never
    )
    looking = asyncio.create_task(watch.run())
    with pytest.raises(SecretUnreadable, match="the key is lacking"):
        await looking
    with pytest.raises(Stopping):
        await watch.look_now()
