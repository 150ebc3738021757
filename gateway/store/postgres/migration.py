"""Making the schema, and looking whether a server is one that the store may be kept on."""

from collections.abc import Mapping

import msgspec
import structlog

from gateway import settings
from gateway.errors import SchemaMismatch, StoreUnavailable
from gateway.store import migrate as migrations
from gateway.store.postgres.connection import DIALECT, Database, Session, opening

log = structlog.get_logger()

OLDEST_VERSION = 14

_LOCK = 0x77656268736368  # whoever migrates holds it: the others come after, and find nothing left to do
_SECONDS = 3_600.0  # a migration may take its time
_MIGRATIONS_TABLE = """
CREATE TABLE IF NOT EXISTS migrations (number integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL)
"""

_MIGRATED = """
SELECT to_regclass('migrations')::text, 3 = (
  SELECT count(*) FROM pg_attribute
  WHERE attrelid = to_regclass('migrations') AND attname IN ('number', 'name', 'checksum') AND NOT attisdropped
)
"""

# Extensions may have theirs: managed servers come with some.
_TABLES = """
SELECT relname::text FROM pg_class
WHERE (relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) OR oid = to_regclass('migrations'))
  AND relkind IN ('r', 'p', 'f', 'v', 'm')
  AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')
ORDER BY relname LIMIT 4
"""
_TABLES_NAMED = 3


class Inspection(msgspec.Struct, frozen=True):
    """What was found."""

    migration: int  # the last one that was applied; 0: the database is empty
    pending: int  # migrations that are still to be applied
    server_version: str


async def migrate(configured: settings.Store) -> int:
    """Applies the migrations that are pending, all of them in one transaction; how many it was.

    Raises SchemaMismatch, StoreUnavailable.
    """
    database = Database(configured)
    async with database.single() as session:
        await _require_safe_server(session)
        role = await _read(session, "SELECT current_user::text")
    async with database.single(database.owner_url, seconds=_SECONDS) as session:
        await require_writable(session)
        await session.begin(opening(seconds=_SECONDS))
        await session.script(f"SELECT pg_advisory_xact_lock({_LOCK})")
        # Asked first: a role that may not make tables can still find that there are none to make.
        applied = await _applied(session)
        pending = migrations.pending(migrations.available(DIALECT), applied or {})
        if applied is None:
            await session.script(_MIGRATIONS_TABLE)
        for migration in pending:
            await session.script(migration.sql)
            record = "INSERT INTO migrations (number, name, checksum) VALUES ($1, $2, $3)"
            await session.fetch(record, (migration.number, migration.name, migration.checksum))
            log.info("store.migrated", number=migration.number, name=migration.name)
        if pending:
            await _grant(session, role)
        await session.end()
    return len(pending)


async def _grant(session: Session, role: str) -> None:
    """Lets the role that works use what another one, the owner, has made."""
    ((owner, quoted, schema),) = await session.fetch(
        "SELECT current_user::text, quote_ident($1), quote_ident(current_schema())", (role,)
    )
    if owner != role:
        await session.script(
            f"GRANT USAGE ON SCHEMA {schema} TO {quoted}; "
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {quoted}"
        )


async def inspect(configured: settings.Store) -> Inspection:
    """A look at the store that changes nothing. Raises SchemaMismatch, StoreUnavailable."""
    async with Database(configured).single() as session:
        await _require_safe_server(session)
        version = await _read(session, "SHOW server_version")
        await session.begin(opening(seconds=configured.statement_seconds, mode="READ ONLY"))
        applied = await _applied(session) or {}
        await session.end()
    pending = migrations.pending(migrations.available(DIALECT), applied)
    return Inspection(max(applied, default=0), len(pending), version)


async def _applied(session: Session) -> Mapping[int, str] | None:
    """The checksums of the migrations that were applied, by number; None when there is no table of them yet.

    Raises SchemaMismatch when somebody else uses the database.
    """
    # In this order: somebody may be at it just now.
    tables = [str(row[0]) for row in await session.fetch(_TABLES)]
    ((table, is_ours),) = await session.fetch(_MIGRATED)
    if tables and not is_ours:
        more = ", …" if len(tables) > _TABLES_NAMED else ""
        raise SchemaMismatch(
            f"the database has tables of something else in it ({', '.join(tables[:_TABLES_NAMED])}{more}): "
            f"the store needs a database of its own"
        )
    if table is None:
        return None
    return {int(row[0]): str(row[1]) for row in await session.fetch("SELECT number, checksum FROM migrations")}


async def _read(session: Session, sql: str) -> str:
    await session.begin(opening(seconds=session.seconds, mode="READ ONLY"))
    ((value,),) = await session.fetch(sql)
    await session.end()
    return str(value)


async def _require_safe_server(session: Session) -> None:
    """Raises StoreUnavailable when the server is too old, only follows another, may lose what it has committed, or cannot
    keep every text."""
    version = int(await _read(session, "SHOW server_version_num"))
    if version < OLDEST_VERSION * 10_000:
        raise StoreUnavailable(f"the store needs PostgreSQL {OLDEST_VERSION} or newer, and this is {version // 10_000}")
    if await _read(session, "SELECT pg_is_in_recovery()") == "True":
        raise StoreUnavailable("the store's server is a standby, which cannot be written to; name its primary in `store.url`")
    await require_writable(session)
    if (encoding := await _read(session, "SHOW server_encoding")) != "UTF8":
        raise StoreUnavailable(
            f"the store's database is encoded in {encoding}, which has not every character: make it anew with ENCODING 'UTF8'"
        )
    for name in ("fsync", "synchronous_commit"):
        # `local` is as good as `on` here: the commit is on this server's disk, and more was not promised.
        if await _read(session, f"SHOW {name}") == "off":
            raise StoreUnavailable(
                f"the store's server has `{name}` off, so that a crash loses events that were accepted; turn it on "
                f"(it may be set for the server, the database or the role)"
            )
    if await _read(session, "SHOW full_page_writes") == "off":
        # Right on a file system that never tears a page (ZFS), and nowhere else: theirs to know.
        log.warning("store.full_page_writes_off")


async def require_writable(session: Session) -> None:
    """Raises StoreUnavailable when the database, or the role, is set to be read only."""
    if await _read(session, "SHOW default_transaction_read_only") == "on":
        raise StoreUnavailable(
            "the store is read only: `default_transaction_read_only` is on (it may be set for the server, the database, the "
            "role or in the URL)"
        )
