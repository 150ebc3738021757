"""What a database had to do for the deliveries of a phase: statements, round trips, transactions, bytes."""

from collections.abc import Iterable

import msgspec

from scripts.benchmarks.postgres_server import PostgresServer, database_of

EXTENSION = "pg_stat_statements"
"""What counts statements; a server has to load it at its start."""

# What it says of each statement: its beginning, and how often it ran. BEGIN, SET and COMMIT are statements to it, too.
_STATEMENTS = """
SELECT coalesce(json_agg(json_build_array(left(ltrim(query), 40), calls)), '[]')
FROM pg_stat_statements(true) AS s JOIN pg_database AS d ON d.oid = s.dbid WHERE d.datname = '{database}' AND s.toplevel
"""
_TOTALS = """
SELECT pg_snapshot_xmax(pg_current_snapshot()), pg_current_wal_insert_lsn() - '0/0', pg_database_size('{database}')
"""


class Statements(msgspec.Struct, frozen=True):
    """How many were run."""

    statements: int
    round_trips: int
    commits: int  # of transactions of several statements, those that only read included


class DatabaseWork(msgspec.Struct, frozen=True):
    """What was done in a phase."""

    deliveries: int
    events: int
    written: int  # transactions that wrote something
    wal_bytes: int
    disk_bytes: int  # by which the database grew
    statements: Statements | None  # None: nobody counted them


def count(statements: Iterable[tuple[str, int]]) -> Statements:
    """The sums of what ran so often. SET LOCAL, which opens transactions, travels with the BEGIN before it: every other statement
    is sent, and its answer awaited, by itself. Pure."""
    total = trips = commits = 0
    for sql, calls in statements:
        total += calls
        trips += 0 if sql.upper().startswith("SET ") else calls
        commits += calls if sql.upper().startswith("COMMIT") else 0
    return Statements(total, trips, commits)


class DatabaseWatch:
    """Watches one database from its making to `work`."""

    def __init__(self, server: PostgresServer, url: str) -> None:
        """The server counts statements, if it does, from here on."""
        self._server = server
        self._database = database_of(url)
        self._is_counting = server.run_sql(server.admin_url(), f"SELECT 1 FROM pg_extension WHERE extname = '{EXTENSION}'") == "1"
        if self._is_counting:
            server.run_sql(server.admin_url(), "SELECT pg_stat_statements_reset()")
        self._before = self._totals()

    def work(self, *, deliveries: int, events: int) -> DatabaseWork:
        """What was done since, for so many."""
        statements = count(self._statements()) if self._is_counting else None
        written, wal_bytes, disk_bytes = (now - then for now, then in zip(self._totals(), self._before, strict=True))
        return DatabaseWork(deliveries, events, written, wal_bytes, disk_bytes, statements)

    def _statements(self) -> list[tuple[str, int]]:
        found = self._server.run_sql(self._server.admin_url(), _STATEMENTS.format(database=self._database))
        return msgspec.json.decode(found, type=list[tuple[str, int]])

    def _totals(self) -> list[int]:
        found = self._server.run_sql(self._server.admin_url(), _TOTALS.format(database=self._database))
        return [int(number) for number in found.split("|")]
