"""The days of history. Events, deliveries and attempts have a partition for each day (UTC) of their ids' time; a day is
pruned by dropping its three, which costs the same however much is in them."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import structlog

from gateway import ids
from gateway.clock import DAY, HOUR, SECOND, Timestamp
from gateway.errors import TransactionConflict
from gateway.store.postgres import rows
from gateway.store.postgres.connection import Database, Session, opening
from gateway.store.postgres.days import day_of

log = structlog.get_logger()

DAYS_AHEAD = 2

_PREFIXES = {"events": ids.EVENT, "deliveries": ids.DELIVERY, "attempts": ids.DELIVERY}
"""What the ids begin with by which each table is cut."""

# Each delivery is changed once at least. Room for that on its own page costs less than what goes elsewhere: the new version
# with an entry in every index. The rest is written once.
_STORAGE = {"events": "fillfactor = 100", "deliveries": "fillfactor = 50", "attempts": "fillfactor = 100"}

_LOCK = 0x7765626870617274
"""Whoever makes or drops partitions holds this lock: once is enough."""

_LOCK_SECONDS = 0.5  # a drop needs the table for itself, and while it waits for that everybody waits behind it
_STATEMENT_SECONDS = 30.0
_STEP = 1_000  # rows that expire in one statement
_EXTERNAL_IDS = 10  # that cost no more than an event with its delivery and attempts


def _name(table: str, day: int) -> str:
    return f"{table}_{datetime.fromtimestamp(day * DAY / SECOND, UTC):%Y%m%d}"


def _day_named(name: str) -> int:
    text = name.rpartition("_")[2]
    return (datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC) - datetime.fromtimestamp(0, UTC)) // timedelta(days=1)


class Partitions:
    """Makes partitions before they are needed, and drops old ones; on connections of its own, as the owner of the tables."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: set[int] = set()

    async def ensure(self, made: Collection[str]) -> None:
        """Has the days of the ids *made* made. Raises StoreUnavailable, TransactionConflict."""
        days = {day_of(min(made)), day_of(max(made))}
        missing = (days if len(days) == 1 else set(map(day_of, made))) - self._known
        if missing:
            async with self._database.single(self._database.owner_url) as session:
                await self._make(session, missing)

    async def ensure_ahead(self) -> None:
        """Has the day that it is by the database's clock made, and the next DAYS_AHEAD."""
        async with self._database.single(self._database.owner_url) as session:
            now = await _now(session)
            today = now // DAY
            await self._make(session, range(today, today + DAYS_AHEAD + 1))

    def forget(self) -> None:
        """A partition that was thought to be there is not: somebody has dropped it."""
        self._known.clear()

    async def _make(self, session: Session, days: Collection[int]) -> None:
        await session.begin(opening(seconds=_STATEMENT_SECONDS, lock_seconds=_LOCK_SECONDS * 4))
        await session.script(f"SELECT pg_advisory_xact_lock({_LOCK})")
        for table, prefix in _PREFIXES.items():
            there = await _days_of(session, table)
            for day in sorted(set(days) - there):
                # Made apart and then attached: that lets writers pass. Both names are ours.
                name, low, high = _name(table, day), ids.floor(prefix, day * DAY), ids.floor(prefix, (day + 1) * DAY)
                await session.script(
                    f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL) WITH ({_STORAGE[table]}); "
                    f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{low}') TO ('{high}')"
                )
        await session.end()
        self._known.update(days)

    async def drop(self, before: Timestamp, *, limit: int) -> bool:
        """Drops the days that ended before *before*, oldest first; whether there is more to do. External ids of a day are
        deleted first, a step for each call, since they may be many; *limit* is the length of a step in rows of events. Raises
        StoreUnavailable."""
        async with self._database.single(self._database.owner_url, seconds=_STATEMENT_SECONDS) as session:
            await session.begin(opening(seconds=_STATEMENT_SECONDS, mode="READ ONLY"))
            days = {day for table in _PREFIXES for day in await _days_of(session, table)}
            await session.end()
            old = sorted(day for day in days if (day + 1) * DAY <= before)
            if not old:
                return False
            for day in old:
                try:
                    await self._expire_day(session, day)
                    if not await self._drop_day(session, day, limit):
                        return True
                except TransactionConflict as error:
                    # Somebody reads it, or is in the middle of something: the next time will do.
                    log.info("partition.in_use", partition=_name("events", day), error=str(error))
                    await session.roll_back()
                    return False
                log.info("partition.dropped", partition=_name("events", day))
        return False

    async def _expire_day(self, session: Session, day: int) -> None:
        """Fails what still waits although its event is about to go, in steps."""
        waiting = {
            # Deliveries are made with their event, or a little later.
            "below": ids.floor(ids.DELIVERY, (day + 1) * DAY + HOUR),
            "events_below": ids.floor(ids.EVENT, (day + 1) * DAY),
            "limit": _STEP,
        }
        while True:
            await session.begin(opening(seconds=_STATEMENT_SECONDS, lock_seconds=_LOCK_SECONDS))
            found = await session.rows("deliveries_of_old_events", waiting)
            if found:
                await _expire(session, found)
            await session.end()
            if not found:
                return

    async def _drop_day(self, session: Session, day: int, limit: int) -> bool:
        """Whether the day is gone; if not, some of its external ids are."""
        deliveries_below, events_below = (ids.floor(prefix, (day + 1) * DAY) for prefix in (ids.DELIVERY, ids.EVENT))
        await session.begin(opening(seconds=_STATEMENT_SECONDS, lock_seconds=_LOCK_SECONDS))
        await session.script(f"SELECT pg_advisory_xact_lock({_LOCK})")
        most = limit * _EXTERNAL_IDS
        is_empty = len(await session.rows("prune_external_ids", {"events_below": events_below, "limit": most})) < most
        if is_empty:
            await session.rows("prune_retries", {"deliveries_below": deliveries_below, "events_below": events_below})
            await session.script("; ".join(f"DROP TABLE IF EXISTS {_name(table, day)}" for table in _PREFIXES))
            self._known.discard(day)
        await session.end()
        return is_empty


async def _expire(session: Session, found: list[tuple[str, str, str]]) -> None:
    """Fails the deliveries *found* (id, organization, mode)."""
    now = (await session.one("database_time"))[0]
    await session.rows("expire_deliveries", {**rows.keys(found), "at": now})
    await session.rows("end_due", {"ids": [row[0] for row in found]})


async def _now(session: Session) -> Timestamp:
    await session.begin(opening(seconds=_STATEMENT_SECONDS, mode="READ ONLY"))
    now = int((await session.one("database_time"))[0])
    await session.end()
    return now


async def _days_of(session: Session, table: str) -> set[int]:
    return {_day_named(row[0]) for row in await session.rows("partitions", {"parent": table})}
