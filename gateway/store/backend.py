"""Which store the settings name."""

from contextlib import AbstractAsyncContextManager

from gateway.errors import SettingsError
from gateway.settings import Settings
from gateway.store.protocol import Store
from gateway.store.record import Record
from gateway.store.sealing import Sealing


def open_store(settings: Settings) -> AbstractAsyncContextManager[Store]:
    """The store at `store.url`, made and migrated when need be.

    Opening raises StoreLocked, SchemaMismatch, StoreUnavailable, SecretUnreadable; this raises SettingsError when its driver is
    missing.
    """
    # Only what is used is loaded: the one driver is an extra, the other takes a while.
    if settings.is_embedded:
        from gateway.store.sqlite import SqliteStore  # noqa: PLC0415

        return SqliteStore.open(settings.store_path, Sealing.of(settings.secrets))
    require_postgres()
    from gateway.store.postgres import PostgresStore  # noqa: PLC0415

    return PostgresStore.open(settings.store, Sealing.of(settings.secrets))


def open_record(settings: Settings) -> AbstractAsyncContextManager[Record]:
    """All that is on record in the store at `store.url`, to be read beside whoever works on it.

    Opening raises SchemaMismatch, StoreUnavailable; this raises SettingsError when its driver is missing.
    """
    if settings.is_embedded:
        from gateway.store.sqlite.record import SqliteRecord  # noqa: PLC0415 - as above

        return SqliteRecord.open(settings.store_path)
    require_postgres()
    from gateway.store.postgres.record import PostgresRecord  # noqa: PLC0415

    return PostgresRecord.open(settings.store)


def require_postgres() -> None:
    """Raises SettingsError when the driver for PostgreSQL is not installed."""
    try:
        import asyncpg  # noqa: F401, PLC0415
    except ImportError as error:
        raise SettingsError(
            "store.url names a PostgreSQL, whose driver is an extra: install it with `pip install 'webhook-gateway[postgres]'`"
        ) from error
