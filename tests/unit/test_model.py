"""The states of a delivery: the table of moves agrees with the schema, and with what each statement does to each state."""

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence

import pytest

from gateway.model import MOVES, DeliveryState, DeliveryTrigger, DisabledReason, Mode, RevisionCause
from gateway.store import migrate, queries
from tests.fakes import START, api_key, endpoint, event, tenant

SCHEMA = "\n".join(migration.sql for migration in migrate.available("sqlite"))
SQL = queries.load("sqlite")
Parameters = Sequence[object] | Mapping[str, object]


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA)
    yield connection
    connection.close()


def failure(state: str) -> list[object]:
    return ["acme", "live", "whdl_1", 1, 1, 500, None, START, state, "attempts_exhausted", START]


STATEMENTS: list[tuple[str, Parameters]] = [
    ("record_successes", ["acme", "live", "whdl_1", 1, 1, 200, START]),
    ("record_failures", failure("pending")),
    ("record_failures", failure("failed")),
    ("cancel_passed", {"endpoint_id": "wh_1", "activation": 1, "reason": "endpoint_disabled", "at": START, "limit": 10}),
    ("interrupt_tests", {"before": START, "at": START}),
    ("expire_deliveries", {"after": 0, "last": 100, "at": START}),
]


def moved(
    database: sqlite3.Connection,
    state: DeliveryState,
    trigger: DeliveryTrigger,
    activation: int,
    statement: tuple[str, Parameters],
) -> DeliveryState:
    """Where *statement* takes a delivery in *state*."""
    database.execute("DELETE FROM endpoints")
    database.execute("DELETE FROM deliveries")
    database.execute(
        """INSERT INTO endpoints (
          id, organization_id, mode, url, events, secret, is_active, activation, failed_in_row, created_at)
        VALUES ('wh_1', 'acme', 'live', 'u', '[]', 's', 1, ?, 0, 0)""",
        [activation],
    )
    is_due = state is DeliveryState.PENDING and trigger is not DeliveryTrigger.TEST
    database.execute(
        """INSERT INTO deliveries (organization_id, mode, id, endpoint_id, event_id, event_type, state, "trigger", activation,
        api_version, due_at, created_at) VALUES ('acme', 'live', 'whdl_1', 'wh_1', 'whev_1', 'a.b', ?, ?, 0, 'v', ?, 0)""",
        [state, trigger, START if is_due else None],
    )
    name, parameters = statement
    sql = queries.with_rows(SQL[name], 1) if "[[" in SQL[name] else SQL[name]
    database.execute(sql, parameters)
    ((after,),) = database.execute("SELECT state FROM deliveries").fetchall()
    return DeliveryState(after)


def test_every_statement_is_looked_at():
    """No statement that changes deliveries is missing from the table of this module."""
    changing = {name for name, sql in SQL.items() if "UPDATE deliveries" in sql}
    assert changing == {name for name, _ in STATEMENTS}


def test_statements_make_the_moves_of_the_table_and_no_other(database: sqlite3.Connection):
    """From every state, with every trigger, under a current and a passed activation: all moves of the table are made by
    some statement, and no statement makes another."""
    made: dict[DeliveryState, set[DeliveryState]] = {state: set() for state in DeliveryState}
    for statement in STATEMENTS:
        for state in DeliveryState:
            for trigger in DeliveryTrigger:
                for activation in (0, 1):
                    after = moved(database, state, trigger, activation, statement)
                    if after is not state:
                        made[state].add(after)
    assert made == MOVES


@pytest.mark.parametrize("state", [state for state in DeliveryState if state is not DeliveryState.DELIVERED])
def test_a_success_delivers_from_any_state(database: sqlite3.Connection, state: DeliveryState):
    """What was answered 2xx is delivered, whatever had become of it."""
    assert moved(database, state, DeliveryTrigger.EVENT, 1, STATEMENTS[0]) is DeliveryState.DELIVERED


def test_what_is_delivered_stays_delivered():
    """Delivered is final, and every other state can still become it."""
    assert MOVES[DeliveryState.DELIVERED] == frozenset()
    assert all(DeliveryState.DELIVERED in MOVES[state] for state in DeliveryState if state is not DeliveryState.DELIVERED)


@pytest.mark.parametrize(
    ("column", "members"),
    [
        ("state", DeliveryState),
        ("mode", Mode),
        ("disabled_reason", DisabledReason),
        ("cause", RevisionCause),
        ('"trigger"', DeliveryTrigger),
    ],
)
@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_checks_of_the_schema_name_every_member(dialect: str, column: str, members: type[DeliveryState]):
    """What the schema allows in a column is what the enum has, no more and no less."""
    schema = "\n".join(migration.sql for migration in migrate.available(dialect))
    allowed = re.search(rf"CHECK \({column} IN \(([^)]*)\)\)", schema)
    assert allowed is not None
    assert set(re.findall(r"'(\w+)'", allowed[1])) == {member.value for member in members}


def test_only_what_is_pending_is_due(database: sqlite3.Connection):
    """The schema refuses a due time on anything that is not pending."""
    with pytest.raises(sqlite3.IntegrityError):
        database.execute(
            """INSERT INTO deliveries (organization_id, mode, id, endpoint_id, event_id, event_type, state, "trigger",
            activation, api_version, due_at, created_at)
            VALUES ('acme', 'live', 'x', 'x', 'x', 'a.b', 'failed', 'event', 0, 'v', 1, 0)"""
        )


def test_secrets_and_data_are_not_shown():
    """Printing an endpoint, a key or an event, as a log or a traceback does, shows no secret and no data."""
    texts = [repr(endpoint()), repr(api_key()), repr(event(data=b'{"card":"4242"}'))]
    assert "whsec_" not in texts[0]
    assert "hash" not in texts[1]
    assert "4242" not in texts[2]


def test_tenants():
    """An organization's two modes are two tenants; only one of them is live."""
    live, sandbox = tenant(), tenant(mode=Mode.SANDBOX)
    assert live != sandbox
    assert (live.livemode, sandbox.livemode) == (True, False)
