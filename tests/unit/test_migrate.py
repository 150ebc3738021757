"""Migrations: which are still to be applied, and what is refused."""

import pytest

from gateway.errors import SchemaMismatch
from gateway.store import migrate
from gateway.store.migrate import Migration

FIRST = Migration(1, "initial", "CREATE TABLE a (x);")
SECOND = Migration(2, "more", "CREATE TABLE b (x);")


def test_an_empty_store_gets_all():
    """All migrations are pending on a store that has none, in order."""
    assert migrate.pending([FIRST, SECOND], {}) == [FIRST, SECOND]


def test_only_what_is_missing_is_pending():
    """What was applied as it is now is not applied again."""
    assert migrate.pending([FIRST, SECOND], {1: FIRST.checksum}) == [SECOND]
    assert migrate.pending([FIRST, SECOND], {1: FIRST.checksum, 2: SECOND.checksum}) == []


def test_a_changed_migration_is_refused():
    """A migration whose file was changed after it was applied is named in a sentence that says what to do."""
    with pytest.raises(SchemaMismatch) as refused:
        migrate.pending([FIRST, SECOND], {1: Migration(1, "initial", "CREATE TABLE a (y);").checksum})
    assert "migration 1 (initial) was changed" in str(refused.value)
    assert "restore the file" in str(refused.value)


def test_a_newer_store_is_refused():
    """A store that a newer version has migrated is not touched by this one."""
    with pytest.raises(SchemaMismatch) as refused:
        migrate.pending([FIRST], {1: FIRST.checksum, 2: SECOND.checksum})
    assert "has migration 2, which this version of the gateway does not know" in str(refused.value)


def test_the_migrations_that_are_there():
    """The package holds numbered migrations without a gap, each with its text."""
    found = migrate.available("sqlite")
    assert [migration.number for migration in found] == list(range(1, len(found) + 1))
    assert found[0].name == "initial"
    assert "CREATE TABLE events" in found[0].sql


def test_a_checksum_speaks_for_the_whole_text():
    """Two texts that differ in one letter have different checksums; a name makes no difference."""
    assert Migration(1, "a", "x").checksum != Migration(1, "a", "y").checksum
    assert Migration(1, "a", "x").checksum == Migration(1, "b", "x").checksum
