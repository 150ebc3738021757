"""Connections to the server: how they are made, what is said in a transaction, and what the driver's errors mean.

A session carries no state: whatever a transaction needs is set within it, so that a pooler may hand its connection on.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import asyncpg
import msgspec
from asyncpg.pool import PoolConnectionProxy

from gateway import settings
from gateway.errors import StoreTrouble, StoreUnavailable, TransactionConflict
from gateway.store import queries
from gateway.store.postgres.connecting import refusal

DIALECT = "postgres"
APPLICATION_NAME = "webhook-gateway"

READ_SECONDS = 1.0
"""A read that takes longer is ended."""

GRACE_SECONDS = 1.0
"""A server ends a statement after its time; one that has not even said so by then does not answer at all."""

_CACHED_STATEMENTS = 256
PARAMETER = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)\b")

# Plans are made for the values at hand: only then are the partitions left out that these cannot be in, which a plan for
# all values has to lock, every one of them with its indexes. Compiling takes longer than these statements do.
_PLANNING = "SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL jit = off"

Row = Sequence[Any]
Parameters = Mapping[str, object]

_CONFLICTS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)
# What is wrong with a statement or its values stays what it is: a fault of ours, or a value that cannot be stored.
_FAULTS = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.SyntaxOrAccessError,
    asyncpg.DataError,
    asyncpg.FeatureNotSupportedError,
    ValueError,  # the driver's own errors about values
)


class Statement(msgspec.Struct, frozen=True):
    """SQL as the server takes it, with the names of its parameters in order; and as it was written."""

    sql: str
    names: tuple[str, ...]
    written: str

    def values(self, parameters: Parameters) -> list[object]:
        return [parameters[name] for name in self.names]


def compiled(sql: str) -> Statement:
    """*sql* with its named parameters (`:id`) numbered. Pure."""
    names: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"${names.setdefault(match[1], len(names) + 1)}"

    written = _without_comments(sql)
    return Statement(PARAMETER.sub(number, written), tuple(names), written)


def _without_comments(sql: str) -> str:
    return "\n".join(line for line in sql.splitlines() if not line.lstrip().startswith("--"))


def load_statements() -> Mapping[str, Statement]:
    """The statements of this dialect by name."""
    return {name: compiled(sql) for name, sql in queries.load(DIALECT).items()}


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turns the driver's errors about the server and the way to it into StoreUnavailable, and those about transactions
    that met into TransactionConflict; errors of the statement stay."""
    try:
        yield
    except _CONFLICTS as error:
        raise TransactionConflict(f"the database gave this transaction up: {error}") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise StoreUnavailable(f"the store's role may not do this: {error}") from error
    except asyncpg.InvalidCachedStatementError as error:
        raise StoreUnavailable("the store's schema has just changed") from error  # the driver prepares anew
    except _FAULTS:
        raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise StoreUnavailable(f"the store does not answer: {error}", _trouble(error)) from error
    except TimeoutError as error:
        raise StoreUnavailable("the store does not answer in time", StoreTrouble.SLOW) from error
    except OSError as error:
        sentence = f"the store cannot be reached: {error.strerror or type(error).__name__}"
        raise StoreUnavailable(sentence, StoreTrouble.UNREACHABLE) from error


def _trouble(error: Exception) -> StoreTrouble:
    match error:
        case asyncpg.DiskFullError():
            return StoreTrouble.FULL
        case asyncpg.ReadOnlySQLTransactionError():
            return StoreTrouble.READ_ONLY
        case asyncpg.QueryCanceledError():  # by `statement_timeout`
            return StoreTrouble.SLOW
        case asyncpg.PostgresIOError() | asyncpg.DataCorruptedError() | asyncpg.IndexCorruptedError():
            return StoreTrouble.DAMAGED
        case (
            asyncpg.PostgresConnectionError()
            | asyncpg.OperatorInterventionError()  # it is being stopped, or is starting
            | asyncpg.TooManyConnectionsError()
            | asyncpg.InterfaceError()  # the connection is gone
        ):
            return StoreTrouble.UNREACHABLE
    return StoreTrouble.OTHER


@contextlib.contextmanager
def connecting(url: str) -> Iterator[None]:
    """As `translated`, while connections to *url* are made: nothing is a fault of a statement's then."""
    with translated():
        try:
            yield
        except Exception as error:
            if refused := refusal(error, url):
                raise refused from None  # what was raised may repeat the URL
            raise


class Connection(asyncpg.Connection):
    """A connection that is handed back as it is: everything that was set on it was set for a transaction."""

    def get_reset_query(self) -> str:
        return ""


AnyConnection = Connection | PoolConnectionProxy


class Session:
    """A connection in use: runs statements by name. Whatever gets no answer in time, or is left by its caller, ends the
    connection, which is neither waited for nor used again: a silent network must not hang anybody."""

    def __init__(self, connection: AnyConnection, sql: Mapping[str, Statement], seconds: float) -> None:
        self._connection = connection
        self._sql = sql
        self.seconds = seconds
        self.is_in_transaction = False
        self._is_given_up = False

    async def script(self, sql: str) -> str:
        """Runs statements without parameters, all in one round trip; what the server says of the last one."""
        async with self._answered():
            return str(await self._connection.execute(sql))

    async def rows(self, name: str, parameters: Parameters | None = None) -> list[Any]:
        """The rows of the statement *name*."""
        statement = self._sql[name]
        return await self.fetch(statement.sql, statement.values(parameters or {}))

    async def one(self, name: str, parameters: Parameters | None = None) -> Any:
        """The first row of the statement *name*; None when there is none."""
        found = await self.rows(name, parameters)
        return found[0] if found else None

    async def fetch(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        """The rows of a statement with numbered parameters."""
        async with self._answered():
            return list(await self._connection.fetch(sql, *values))

    async def begin(self, opening: str) -> None:
        """Begins a transaction. *opening* is what `opening` made."""
        self.is_in_transaction = True
        await self.script(opening)

    async def end(self, word: str = "COMMIT") -> None:
        """Ends the transaction. Raises StoreUnavailable also when it was rolled back instead, after a statement that failed."""
        done = await self.script(word)
        self.is_in_transaction = False
        if done != word:
            raise StoreUnavailable("the store rolled a broken transaction back")

    async def roll_back(self) -> None:
        """Ends the transaction, if there is one, whatever state it is in; a connection that cannot is given up."""
        if self.is_in_transaction and not self.is_closed:
            with contextlib.suppress(StoreUnavailable):
                await self.end("ROLLBACK")

    @property
    def is_closed(self) -> bool:
        try:
            return self._is_given_up or bool(self._connection.is_closed())
        except asyncpg.InterfaceError:
            return True  # its pool has taken it back, as it does with one that breaks

    def terminate(self) -> None:
        """Gives the connection up at once."""
        if not self.is_closed:
            self._connection.terminate()
        self._is_given_up = True

    @asynccontextmanager
    async def _answered(self) -> AsyncIterator[None]:
        with translated():
            if self.is_closed:
                raise asyncpg.ConnectionDoesNotExistError("the connection has ended")
            try:
                async with asyncio.timeout(self.seconds + GRACE_SECONDS):
                    yield
            except asyncpg.PostgresError:
                raise  # an answer, too
            except BaseException:
                self.terminate()
                raise


def opening(*, seconds: float, mode: str = "", idle_seconds: float = 0, lock_seconds: float = 0) -> str:
    """What begins a transaction of *mode*, in one round trip: how long its statements, its silences and its waits for
    locks may take (0: as the server has it)."""
    settings = {
        "statement_timeout": seconds,
        "idle_in_transaction_session_timeout": idle_seconds,
        "lock_timeout": lock_seconds,
    }
    limits = [f"SET LOCAL {name} = {max(1, round(value * 1_000))}" for name, value in settings.items() if value]
    return "; ".join([f"BEGIN {mode}".strip(), *limits, _PLANNING])


class Database:
    """The connections of one store."""

    def __init__(self, configured: settings.Store, sql: Mapping[str, Statement] | None = None) -> None:
        self.settings = configured
        self.sql = load_statements() if sql is None else sql
        self._read_pool: asyncpg.Pool | None = None
        self._write_pool: asyncpg.Pool | None = None
        read = opening(seconds=READ_SECONDS, mode="READ ONLY", idle_seconds=READ_SECONDS + configured.statement_seconds)
        self._opening_read = read
        self._opening_snapshot = read.replace("BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ", 1)
        # No longer than a lease: a node that falls silent in the middle of a transaction must not hold locks for longer.
        self.idle_seconds = configured.statement_seconds + 2
        # A wait for a lock ends before its statement's time is up: then it is a conflict, and run again.
        self._opening_write = opening(
            seconds=configured.statement_seconds,
            idle_seconds=self.idle_seconds,
            lock_seconds=configured.statement_seconds / 2,
        )

    @asynccontextmanager
    async def pools(self) -> AsyncIterator[Self]:
        """Has the pools open."""
        with connecting(self.settings.url):
            self._write_pool = await self._pool(self.settings.write_connections)
            self._read_pool = await self._pool(self.settings.read_connections)
        try:
            yield self
        finally:
            # Whoever still uses a connection has been told to stop, and what is open then is rolled back by the server.
            self._write_pool.terminate()
            self._read_pool.terminate()

    async def _pool(self, size: int) -> asyncpg.Pool:
        return await asyncpg.create_pool(
            self.settings.url,
            min_size=0,
            max_size=size,
            max_inactive_connection_lifetime=0,
            **self._arguments(),
        )

    def _arguments(self) -> dict[str, Any]:
        return {
            "timeout": self.settings.connect_seconds,
            "statement_cache_size": _CACHED_STATEMENTS if self.settings.prepared_statements else 0,
            "max_cached_statement_lifetime": 0,
            "connection_class": Connection,
            "server_settings": {"application_name": APPLICATION_NAME},
        }

    @property
    def owner_url(self) -> str:
        """Where migrations and partitions are made."""
        return self.settings.migrate_url or self.settings.url

    async def connect(self, url: str | None = None) -> Connection:
        """A connection that belongs to the caller, who terminates it. Raises StoreUnavailable."""
        url = url or self.settings.url
        with connecting(url):
            # The driver's own limit does not hold for every step of it.
            async with asyncio.timeout(self.settings.connect_seconds + GRACE_SECONDS):
                connection: Connection = await asyncpg.connect(url, **self._arguments())
        return connection

    @asynccontextmanager
    async def single(self, url: str | None = None, *, seconds: float | None = None) -> AsyncIterator[Session]:
        """A session on a connection of its own. Raises StoreUnavailable."""
        connection = await self.connect(url)
        try:
            yield Session(connection, self.sql, seconds or self.settings.statement_seconds)
        finally:
            connection.terminate()

    @asynccontextmanager
    async def read(self, *, snapshot: bool = False) -> AsyncIterator[Session]:
        """A transaction that only reads, whose statements end after READ_SECONDS; with *snapshot* all of them read as of
        the same moment. Raises StoreUnavailable, also when it took too long."""
        async with self.session(self._read_pool, READ_SECONDS) as session:
            await session.begin(self._opening_snapshot if snapshot else self._opening_read)
            yield session
            await session.end()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Session]:
        """A session on one of the connections that write, in no transaction yet; `begin_write` begins one."""
        async with self.session(self._write_pool, self.settings.statement_seconds) as session:
            yield session

    async def begin_write(self, session: Session, *, mode: str = "") -> None:
        """Begins a transaction that writes, unless *mode* says otherwise."""
        await session.begin(self._opening_write.replace("BEGIN", f"BEGIN {mode}", 1) if mode else self._opening_write)

    @asynccontextmanager
    async def session(self, pool: asyncpg.Pool | None, seconds: float) -> AsyncIterator[Session]:
        """A session on a connection of *pool*, in no transaction yet; one that is left open is rolled back."""
        if pool is None:
            raise StoreUnavailable("the store is closed")
        with connecting(self.settings.url):
            # Also bounds the wait for a connection that others have: while the server is silent they would queue up.
            connection = await pool.acquire(timeout=self.settings.connect_seconds + GRACE_SECONDS)
        session = Session(connection, self.sql, seconds)
        try:
            try:
                yield session
            finally:
                await session.roll_back()
        finally:
            with contextlib.suppress(asyncpg.InterfaceError):
                await pool.release(connection)
