"""Idempotency keys whose first request is under way, so that no two processes do the work of one request.

A reservation bears the id of the process that made it, and lasts as long as that process is a node of the cluster: the
reservation of one that was evicted, has left, or never joined (a command that opened the store by itself) may be taken over
at once. What it was made for cannot commit after that: the transaction that stores the answer finds the reservation gone.
"""

from collections.abc import Sequence
from typing import Any

from gateway.clock import HOUR, Timestamp
from gateway.errors import StoreUnavailable
from gateway.model import IdempotentAnswer, Reservation
from gateway.store.postgres.connection import Database, Parameters

KEPT_FOR = HOUR
"""After this a reservation is deleted like an expired answer; no request takes so long."""

_LOOKS = 3


async def reserve(
    database: Database, reservation: Reservation, now: Timestamp, process_ids: Sequence[str]
) -> IdempotentAnswer | Reservation | None:
    """See `store.protocol.Log.reserve`. *process_ids* are all that this process has gone by, the last one now."""
    parameters = {
        "key_hash": reservation.key_hash,
        "request_hash": reservation.request_hash,
        "process_id": process_ids[-1],
        "process_ids": process_ids,
        "expires_at": now + KEPT_FOR,
        "now": now,
    }
    for _ in range(_LOOKS):
        found = await _alone(database, "reserve", parameters)
        if not found:
            continue  # somebody reserved or released it at this very moment; the next look sees who
        is_reserved, request_hash, answer, expires_at = found[0]
        if is_reserved:
            return None
        if answer is None:
            return Reservation(reservation.key_hash, request_hash)
        return IdempotentAnswer(reservation.key_hash, request_hash, answer, expires_at)
    raise StoreUnavailable("others are reserving and releasing the same idempotency key all the time")


async def release(database: Database, reservation: Reservation, process_ids: Sequence[str]) -> None:
    """See `store.protocol.Log.release`."""
    parameters = {
        "key_hash": reservation.key_hash,
        "request_hash": reservation.request_hash,
        "process_ids": process_ids,
    }
    await _alone(database, "release", parameters)


async def _alone(database: Database, name: str, parameters: Parameters) -> list[Any]:
    """The rows of a statement that is a transaction of its own."""
    async with database.write() as session:
        if database.settings.prepared_statements:
            return await session.rows(name, parameters)
        # A pooler may give the messages of one statement to two servers, unless they are in a transaction.
        await database.begin_write(session)
        found = await session.rows(name, parameters)
        await session.end()
        return found
