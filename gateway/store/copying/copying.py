"""A copy from beginning to end: what is on record in steps, each of which stays; then a look at all of it; then what waits,
at once, with the end of the copy."""

from collections.abc import Sequence
from contextlib import aclosing

import msgspec

from gateway.clock import Timestamp
from gateway.store.copying.source import Source
from gateway.store.copying.tables import HISTORY, WORK, Table
from gateway.store.copying.target import Target
from gateway.store.copying.verification import Comparison, compare
from gateway.store.copying.watch import Watch


class Copied(msgspec.Struct, frozen=True):
    """What came of a copy."""

    comparisons: Sequence[Comparison]  # by table; empty when the copy was complete before
    ended_at: Timestamp | None  # None: something is not the same, and the copy is not complete

    @property
    def rows(self) -> int:
        return sum(comparison.source_rows for comparison in self.comparisons)


async def copy(source: Source, target: Target, watch: Watch) -> Copied:
    """Copies everything, going on where an earlier copy of the same source was left off. Nothing is sent from *target*, and
    no node starts on it, until all of it is there and has been compared.

    Raises CopyRefused, StoreUnavailable; run again, it goes on."""
    progress = await target.begin(await source.identity())
    if progress.ended_at is not None:
        return Copied((), progress.ended_at)
    counts = {table.name: await source.count(table) for table in (*HISTORY, *WORK)}
    watch.began("Copying", sum(counts[table.name] for table in HISTORY), sum(progress.counts.values()))
    for table in HISTORY:
        await _copy(table, source, target, watch)
    watch.ended()
    await target.analyze()

    watch.began("Verifying", sum(counts[table.name] for table in HISTORY), 0)
    async with target.reading():
        comparisons = [await compare(table, source, target, watch) for table in HISTORY]
    watch.ended()
    if not all(comparison.is_same for comparison in comparisons):
        return Copied(comparisons, None)

    watch.began("Waiting work", 2 * sum(counts[table.name] for table in WORK), 0)
    async with target.last_step():
        for table in WORK:
            await _copy_at_once(table, source, target, watch)
            comparisons.append(await compare(table, source, target, watch))
        if all(comparison.is_same for comparison in comparisons):
            await target.complete(await source.cursor_key())
    watch.ended()
    return Copied(comparisons, target.progress.ended_at)


async def _copy(table: Table, source: Source, target: Target, watch: Watch) -> None:
    async with aclosing(source.in_order_of_age(table, after=target.progress.place(table))) as pages:
        async for page in pages:
            await target.append(table, page)
            watch.advanced(len(page.records))


async def _copy_at_once(table: Table, source: Source, target: Target, watch: Watch) -> None:
    async with aclosing(source.in_order_of_keys(table)) as pages:
        async for page in pages:
            await target.add(table, page.records)
            watch.advanced(len(page.records))
