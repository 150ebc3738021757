"""Encrypting anew what the store holds of secrets, with the key that encrypts now: in small steps, beside everything else."""

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from gateway.store.protocol import Changer, Resealed, Transaction
from gateway.store.sealing import Sealing

STEP = 100  # endpoints


class Sealed(Protocol):
    """A store that holds secrets."""

    @property
    def sealing(self) -> Sealing:
        """The keys that it has."""

    @property
    def wipe(self) -> Callable[[], Awaitable[None]] | None:
        """See `store.protocol.Store.wipe`."""


class Reencrypted(msgspec.Struct, frozen=True):
    """What it has come to."""

    key_name: str | None  # of the key that everything is encrypted with now; None: it is in clear
    seen: int  # endpoints, deleted ones included
    resealed: int  # those of them that had been stored otherwise


class Reseal(msgspec.Struct, frozen=True):
    """Encrypts anew what is stored of the endpoints with the next ids above *after*."""

    after: str

    async def apply(self, transaction: Transaction) -> Resealed:
        return await transaction.reseal_endpoints(self.after, limit=STEP)


async def reencrypt(changer: Changer, store: Sealed) -> Reencrypted:
    """Encrypts everything anew that is not encrypted with the first key; nothing of what it was stays in the store's files.

    Raises StoreUnavailable, Stopping; what was done by then stays, and the next one goes on."""
    seen = resealed = 0
    after: str | None = ""
    while after is not None:
        step = await changer.change(Reseal(after))
        seen, resealed, after = seen + step.seen, resealed + step.resealed, step.last
    if store.wipe is not None:
        await store.wipe()
    return Reencrypted(store.sealing.current, seen, resealed)
