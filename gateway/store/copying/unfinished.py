"""What keeps nodes from starting on a database that is still being copied into."""

from typing import TYPE_CHECKING

from gateway.errors import GatewayError

if TYPE_CHECKING:  # the store that asks this when it is opened is not to be loaded by the question
    from gateway.store.postgres.connection import Session


class CopyUnfinished(GatewayError):
    """A copy into this database is under way, or was left off half-way."""


async def refuse_unfinished(session: "Session") -> None:
    """Raises CopyUnfinished when not everything is there yet. *session* is in a transaction."""
    if await session.fetch("SELECT FROM meta WHERE name = 'copying'"):
        raise CopyUnfinished(
            "this database is being copied into, or a copy was left off half-way: run the same `gateway copy` until it says "
            "that everything is there"
        )
