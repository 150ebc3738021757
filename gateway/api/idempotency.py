"""Requests with an `Idempotency-Key`: the work is done once, and its first answer given again for 24 hours.

The record commits with the work. It holds hashes, and the answer encrypted under a key that only a repeat of the
request can present: the store alone reveals no secret that an answer held.
"""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.api.dialects import Answer
from gateway.api.problems import IDEMPOTENCY_IN_PROGRESS, IDEMPOTENCY_KEY_MISMATCH, Problem, invalid
from gateway.clock import DAY, Timestamp
from gateway.errors import StoreUnavailable
from gateway.model import IdempotentAnswer, Reservation
from gateway.store.protocol import Change, Changer, Transaction

T = TypeVar("T")

KEPT_FOR = DAY
MAX_KEY = 255

_NONCE_LENGTH = 12

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Answer)


class Answers(Protocol):
    """What is kept of idempotent requests."""

    async def reserve(self, reservation: Reservation, now: Timestamp) -> IdempotentAnswer | Reservation | None:
        """Reserves the key for this node: None, or the kept answer, or the reservation of another node."""

    async def release(self, reservation: Reservation) -> None:
        """Ends a reservation that came to no answer."""


class Identity(msgspec.Struct, frozen=True):
    """What makes two requests the same one."""

    key_hash: bytes
    request_hash: bytes
    cipher_key: bytes

    def __repr__(self) -> str:
        return f"Identity({self.key_hash.hex()!r})"


def identify(*, actor: str, credential: str, key: str, request: tuple[bytes, ...]) -> Identity:
    """The identity of a request by *actor*, who presented *credential* and the idempotency *key*.

    *request* is its method, path without the prefix, query, tenant and body. Raises a 400 for a key that is none.
    """
    if not 1 <= len(key) <= MAX_KEY:
        raise invalid([("Idempotency-Key", f"must have 1 to {MAX_KEY} characters")])
    secret = _joined(_encoded(credential), _encoded(key))
    return Identity(
        key_hash=hashlib.sha256(_joined(_encoded(actor), _encoded(key))).digest(),
        request_hash=hashlib.sha256(_joined(*request)).digest(),
        cipher_key=HKDF(algorithm=SHA256(), length=32, salt=None, info=b"gateway: idempotent answer").derive(secret),
    )


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")  # how aiohttp reads header bytes that are no UTF-8


def _joined(*parts: bytes) -> bytes:
    """*parts* in one, such that no other parts give the same."""
    return b"".join(b"%d:%s" % (len(part), part) for part in parts)


class Ticket:
    """The right to do the work of one request. Ended when the request is answered, whatever became of it."""

    def __init__(self, identity: Identity, expires_at: Timestamp) -> None:
        self.identity = identity
        self.is_working = False
        self.is_sealed = False
        self.looked_up = asyncio.Event()
        self._expires_at = expires_at

    def seal(self, answer: Answer) -> IdempotentAnswer:
        """The record of *answer*, to be committed with the work."""
        self.is_sealed = True
        nonce = os.urandom(_NONCE_LENGTH)
        identity = self.identity
        content = AESGCM(identity.cipher_key).encrypt(nonce, _encoder.encode(answer), identity.request_hash)
        return IdempotentAnswer(identity.key_hash, identity.request_hash, nonce + content, self._expires_at)


def unseal(identity: Identity, kept: IdempotentAnswer) -> Answer:
    """The first answer. Raises a 409 when it was given to another request."""
    if kept.request_hash != identity.request_hash:
        raise _mismatch()
    nonce, content = kept.answer[:_NONCE_LENGTH], kept.answer[_NONCE_LENGTH:]
    try:
        return _decoder.decode(AESGCM(identity.cipher_key).decrypt(nonce, content, identity.request_hash))
    except InvalidTag:
        raise _mismatch() from None


def _under_way(identity: Identity, first_request_hash: bytes) -> Problem:
    if first_request_hash != identity.request_hash:
        return _mismatch()
    return Problem(IDEMPOTENCY_IN_PROGRESS, "the first request with this Idempotency-Key is still under way")


def _mismatch() -> Problem:
    return Problem(IDEMPOTENCY_KEY_MISMATCH, "this Idempotency-Key was sent with another request before; use a new one")


class Idempotency:
    """The requests under way on this node, and those answered before."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._tickets: dict[bytes, Ticket] = {}

    async def begin(self, identity: Identity, now: Timestamp) -> Ticket | Answer:
        """The right to do the work, or the first answer when it was done before.

        Raises a 409 when the key belongs to another request, or the first one is still under way.
        """
        while (other := self._tickets.get(identity.key_hash)) is not None:
            if other.is_working:
                raise _under_way(identity, other.identity.request_hash)
            # Another is looking for the first answer as well, which is no work under way.
            await other.looked_up.wait()
        # Held before the look-up: between the two no other request can do the work and be gone again.
        ticket = self._tickets[identity.key_hash] = Ticket(identity, now + KEPT_FOR)
        try:
            found = await self._answers.reserve(Reservation(identity.key_hash, identity.request_hash), now)
            ticket.is_working = found is None
        finally:
            if not ticket.is_working:
                del self._tickets[identity.key_hash]
            ticket.looked_up.set()
        if isinstance(found, Reservation):
            raise _under_way(identity, found.request_hash)
        return ticket if found is None else unseal(identity, found)

    async def end(self, ticket: Ticket, *, is_answered: bool) -> None:
        """The request of *ticket* is over; when it was refused or failed, the key is free for another."""
        identity = ticket.identity
        try:
            if not (is_answered and ticket.is_sealed):
                # One that cannot be released lapses by itself.
                with contextlib.suppress(StoreUnavailable):
                    await self._answers.release(Reservation(identity.key_hash, identity.request_hash))
        finally:
            del self._tickets[identity.key_hash]


class Sealed(msgspec.Struct, Generic[T], frozen=True):
    """A change whose answer is kept in the same commit."""

    change: Change[T]
    render: Callable[[T], Answer]
    ticket: Ticket

    async def apply(self, transaction: Transaction) -> Answer:
        answer = self.render(await self.change.apply(transaction))
        await transaction.save_answer(self.ticket.seal(answer))
        return answer


async def commit(writer: Changer, change: Change[T], render: Callable[[T], Answer], ticket: Ticket | None) -> Answer:
    """The answer to a committed *change*, kept when the request has a *ticket*."""
    if ticket is None:
        return render(await writer.change(change))
    return await writer.change(Sealed(change, render, ticket))
