"""How commands show data: tables that fit the terminal, records, JSON.

Much of it was written by strangers (answers of receivers, above all): control characters never reach the terminal.
Nor do the stand-ins for bytes that are no text, as file names may have, which no stream takes.
"""

import re
import shutil
import sys
from collections.abc import Mapping, Sequence

import click
import msgspec

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_GAP = "  "
_LEAST_WIDTH = 6

Column = tuple[str, str]
"""A heading, and the field that stands below it."""


def print_json(value: object) -> None:
    """*value* for programs. JSON escapes control characters by itself."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_list(
    items: Sequence[Mapping[str, object]], columns: Sequence[Column], *, as_json: bool, has_more: bool = False
) -> None:
    """A list, as JSON or as a table."""
    if as_json:
        print_json(items)
        return
    if items:
        for line in table(items, columns, width=_terminal_width()):
            click.echo(line)
    else:
        click.echo("None.", err=True)
    if has_more:
        click.echo("There are more: raise --limit to see them.", err=True)


def print_record(record: Mapping[str, object], *, leave_out: Sequence[str] = ()) -> None:
    """One thing, a line for each of its fields."""
    shown = {name: value for name, value in record.items() if name not in leave_out}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        click.echo(f"{name.ljust(width)}{_GAP}{cell(value)}")


def cell(value: object) -> str:
    """*value* on one line, with nothing in it that a terminal would obey."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(cell(item) for item in value) or "-"
        case str():
            text = value
        case _:
            text = msgspec.json.encode(value).decode()
    return _CONTROL.sub("·", text)


def table(items: Sequence[Mapping[str, object]], columns: Sequence[Column], *, width: int | None) -> list[str]:
    """The lines of a table. With a *width* the widest columns are cut until it fits, the first one (the id) never."""
    rows = [[heading for heading, _ in columns], *([cell(item.get(field)) for _, field in columns] for item in items)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    if width is not None:
        _narrow(widths, width - len(_GAP) * (len(columns) - 1))
    return [_GAP.join(_fitted(text, wide) for text, wide in zip(row, widths, strict=True)).rstrip() for row in rows]


def _narrow(widths: list[int], room: int) -> None:
    while sum(widths) > room and len(widths) > 1:
        widest = max(range(1, len(widths)), key=widths.__getitem__)
        if widths[widest] <= _LEAST_WIDTH:
            return
        widths[widest] -= 1


def _fitted(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else f"{text[: width - 1]}…"


def _terminal_width() -> int | None:
    """None when the output goes to a file or a program, which can take all of it."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
