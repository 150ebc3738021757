"""Numbered migrations: which are there, which are applied, and whether what was applied is still what is there. Pure.

A backend applies what `pending` returns, under its own lock, each in one transaction with the row that records it."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files

import msgspec

from gateway.errors import SchemaMismatch

_FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")


class Migration(msgspec.Struct, frozen=True):
    """One step of the schema."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def available(dialect: str) -> Sequence[Migration]:
    """The migrations of *dialect*, in order."""
    found = [
        Migration(int(match[1]), match[2], file.read_text(encoding="utf-8"))
        for file in (files("gateway.store") / "schema" / dialect).iterdir()
        if (match := _FILE_NAME.fullmatch(file.name))
    ]
    return sorted(found, key=lambda migration: migration.number)


def pending(migrations: Sequence[Migration], applied: Mapping[int, str]) -> Sequence[Migration]:
    """Those of *migrations* that are still to be applied; *applied* maps numbers to checksums.

    Raises SchemaMismatch when the store is newer than this program, or a migration is not the one that was applied.
    """
    known = {migration.number: migration for migration in migrations}
    for number, checksum in sorted(applied.items()):
        if number not in known:
            raise SchemaMismatch(
                f"the store's schema has migration {number}, which this version of the gateway does not know; "
                f"run the version that made it, or a newer one"
            )
        if known[number].checksum != checksum:
            raise SchemaMismatch(
                f"migration {number} ({known[number].name}) was changed after it was applied to this store; "
                f"restore the file, and put the change into a new migration"
            )
    return [migration for migration in migrations if migration.number not in applied]
