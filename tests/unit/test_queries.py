"""Named statements in files."""

import re
from pathlib import Path

import pytest

import gateway.store
from gateway.store import queries

STORE = Path(gateway.store.__file__).parent


def test_statements_are_found_by_name():
    """Each `-- name:` begins a statement, which ends without a semicolon and without its name."""
    statements = queries.load("sqlite")
    assert statements["endpoint_by_id"] == "SELECT * FROM endpoints WHERE id = :id"
    assert all(not statement.endswith(";") and "-- name" not in statement for statement in statements.values())


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_every_statement_is_used(dialect: str):
    """No statement is left over that no code names: `x_scan_end` goes with `x`."""
    code = "".join(path.read_text() for path in (*STORE.glob("*.py"), *(STORE / dialect).glob("*.py")))
    named = set(re.findall(r'"(\w+)"', code))
    unused = {name for name in queries.load(dialect) if name.removesuffix("_scan_end") not in named}
    assert not unused


def test_a_statement_of_many_rows():
    """The group in double brackets stands as often as there are rows."""
    assert queries.with_rows("INSERT INTO t VALUES [[(?, ?)]] RETURNING x", 3) == (
        "INSERT INTO t VALUES (?, ?), (?, ?), (?, ?) RETURNING x"
    )
