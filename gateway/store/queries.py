"""Named SQL statements, read from the `.sql` files of a dialect: `-- name: claim_due`, then the statement.

A statement that takes many rows at once has the parameters of one row in double brackets: `VALUES [[(?, ?)]]`."""

import re
from collections.abc import Mapping
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(dialect: str) -> Mapping[str, str]:
    """The statements of *dialect* (a folder beside this module's `sql`) by name.

    Raises ValueError when a name stands twice.
    """
    statements: dict[str, str] = {}
    folder = files("gateway.store") / "sql" / dialect
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        parts = _NAME.split(file.read_text(encoding="utf-8"))
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            if name in statements:
                raise ValueError(f"the statement {name} stands twice in {dialect}")
            statements[name] = text.strip().removesuffix(";")
    return statements


def with_rows(statement: str, count: int) -> str:
    """*statement* with its bracketed group standing *count* times."""
    before, rest = statement.split("[[")
    group, after = rest.split("]]")
    return before + ", ".join([group] * count) + after
