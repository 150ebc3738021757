"""Whether both stores hold the same: every row of each is read again and compared, in the order of keys."""

import hashlib
import itertools
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from gateway.store.copying.source import Source
from gateway.store.copying.tables import Record, Table
from gateway.store.copying.target import Target
from gateway.store.copying.watch import Watch

_REST_ROWS = 100  # read at once of what the source does not have

_encode = msgspec.msgpack.Encoder().encode


class Comparison(msgspec.Struct, frozen=True):
    """A table as it was read from both stores."""

    table: str
    source_rows: int
    target_rows: int
    source_checksum: str  # of all columns of all rows, in the order of keys
    target_checksum: str
    first_difference: tuple[Any, ...] | None  # the lowest key whose row is not the same, or not in both

    @property
    def is_same(self) -> bool:
        return self.first_difference is None and self.source_checksum == self.target_checksum


class Checksum:
    """Of rows in their order, however they are cut into pages."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.rows = 0

    def add(self, records: Sequence[Record]) -> None:
        self._hash.update(b"".join(map(_encode, records)))
        self.rows += len(records)

    @property
    def text(self) -> str:
        return self._hash.hexdigest()


def first_difference(table: Table, expected: Sequence[Record], found: Sequence[Record]) -> tuple[Any, ...] | None:
    """The lowest key at which two pages that begin at the same place differ. Pure."""
    for pair in itertools.zip_longest(expected, found):
        if pair[0] != pair[1]:
            return min(table.key_of(record) for record in pair if record is not None)
    return None


async def compare(table: Table, source: Source, target: Target, watch: Watch) -> Comparison:
    """Reads *table* from both; the target is in a transaction."""
    ours, theirs = Checksum(), Checksum()
    difference: tuple[Any, ...] | None = None
    async with target.in_order_of_keys(table) as fetch, aclosing(source.in_order_of_keys(table)) as pages:
        async for page in pages:
            # As many as the source's bounds allow: where both hold the same they are as large.
            found = await fetch(len(page.records))
            difference = difference or first_difference(table, page.records, found)
            ours.add(page.records)
            theirs.add(found)
            watch.advanced(len(page.records))
        while found := await fetch(_REST_ROWS):
            difference = difference or first_difference(table, (), found)
            theirs.add(found)
    return Comparison(table.name, ours.rows, theirs.rows, ours.text, theirs.text, difference)
