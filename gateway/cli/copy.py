"""`gateway copy`: moves everything from an embedded store into a PostgreSQL."""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import click
from msgspec.structs import replace

from gateway.cli.options import settings_options
from gateway.cli.output import cell, table
from gateway.errors import StoreUnavailable
from gateway.settings import Settings, Store

if TYPE_CHECKING:  # loaded when it is going to run, so that --help is quick
    from gateway.store.copying.copying import Copied
    from gateway.store.copying.verification import Comparison

_INTERRUPTED = 130  # what shells expect of a process that was interrupted
_LINE_SECONDS = 5.0
_FROM = "sqlite:///"
_TO = ("postgresql://", "postgres://")
_COLUMNS = [("TABLE", "table"), ("ROWS", "rows"), ("THERE", "there"), ("CHECKSUM", "checksum"), ("SAME", "same")]


def _source(context: click.Context, parameter: click.Parameter, url: str) -> str:
    if not url.startswith(_FROM) or url == _FROM:
        raise click.BadParameter(f"it must be `{_FROM}PATH`; an absolute path makes four slashes.", context, parameter)
    return url


def _target(context: click.Context, parameter: click.Parameter, url: str) -> str:
    if not url.startswith(_TO):
        # The value is not shown: it may hold a password.
        raise click.BadParameter(f"it must be `{_TO[0]}HOST/DATABASE`.", context, parameter)
    return url


@click.command("copy")
@click.option("--from", "source", required=True, metavar="URL", callback=_source, help="The embedded store: sqlite:///PATH.")
@click.option(
    "--to",
    "target",
    required=True,
    metavar="URL",
    envvar="GATEWAY_COPY_TO",
    show_envvar=True,
    callback=_target,
    help="An empty database: postgresql://USER:PASSWORD@HOST/DATABASE. Others on this machine see the words of a command "
    "line, so a URL with a password belongs in the environment.",
)
@settings_options
def command(*, settings: Settings, source: str, target: str) -> None:
    """Move everything from the embedded store into a PostgreSQL, what waits to be sent included.

    No gateway may run on either. The store that is copied stays as it is, apart from being brought up to date. When the
    command is interrupted, or a database goes away, the same command goes on where it ended, as long as no gateway has
    used the store meanwhile. At the end all of it is read again from both and compared; until then no node starts on the
    database.

    Secrets that are encrypted stay so: `secrets.encryption_key` has to have their keys, here and on the nodes.

    The rest of what is said about the database, such as store.migrate_url, is taken from the settings.
    """
    path = replace(settings, store=Store(url=source)).store_path
    settings = replace(settings, store=replace(settings.store, url=target))
    with _Progress() as progress:
        try:
            copied = asyncio.run(_copy(path, settings, progress))
        except KeyboardInterrupt:
            progress.say("Interrupted: the same command goes on from here.")
            raise click.exceptions.Exit(_INTERRUPTED) from None
        except StoreUnavailable as error:
            hint = "; the same command goes on from here" if progress.has_begun else ""
            raise click.ClickException(f"{error}{hint}") from error
    _report(copied)


async def _copy(path: Path, settings: Settings, progress: "_Progress") -> "Copied":
    from gateway.store.backend import require_postgres  # noqa: PLC0415 - so that --help is quick

    require_postgres()
    from gateway.store.copying.copying import copy  # noqa: PLC0415 - its driver may be missing
    from gateway.store.copying.source import Source  # noqa: PLC0415
    from gateway.store.copying.target import Target  # noqa: PLC0415
    from gateway.store.sealing import Sealing  # noqa: PLC0415
    from gateway.telemetry import logs  # noqa: PLC0415

    logs.configure(replace(settings.log, level="warning"))
    async with Source.open(path, Sealing.of(settings.secrets)) as source:
        if source.migrated_from is not None:
            progress.say(f"Brought the store {path} up to date first, from migration {source.migrated_from}.")
        async with Target.open(settings.store) as target:
            progress.say(f"Copying {path} into {_without_secrets(settings.store.url)}.")
            return await copy(source, target, progress)


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # there may be several hosts, each with a port


def _report(copied: "Copied") -> None:
    if not copied.comparisons:
        click.echo("This store was copied into this database before: everything was there, and nothing was done now.")
        return
    items = [
        {
            "table": each.table,
            "rows": f"{each.source_rows:,}",
            "there": f"{each.target_rows:,}",
            "checksum": each.source_checksum,
            "same": each.is_same,
        }
        for each in copied.comparisons
    ]
    for line in table(items, _COLUMNS, width=None):
        click.echo(line)
    different = [each for each in copied.comparisons if not each.is_same]
    if different:
        raise click.ClickException(_differences(different))
    click.echo(f"Everything is there: {copied.rows:,} rows, the same in both. Nodes may be started on the database.")


def _differences(comparisons: Sequence["Comparison"]) -> str:
    each = [
        f"{comparison.table} is not the same in both, first at {cell(list(comparison.first_difference or ()))}"
        for comparison in comparisons
    ]
    return "; ".join(each) + ": make the database anew and copy again"


class _Progress:
    """See `store.copying.watch.Watch`: a bar on a terminal, else a line now and then; both on standard error."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._work = ""
        self._rows = self._done = self._earlier = 0
        self._began = self._line_at = 0.0
        self.has_begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_bar()

    def say(self, text: str) -> None:
        self._end_bar()
        click.echo(cell(text), err=True)

    def began(self, work: str, rows: int, done: int) -> None:
        self.has_begun = True
        self._work, self._rows, self._done, self._earlier = work, rows, done, done
        self._began = self._line_at = time.monotonic()
        if done:
            self.say(f"{work}: {done:,} of {rows:,} rows were done before.")
        if sys.stderr.isatty():
            self._bar = click.progressbar(length=rows, label=work, show_pos=True, file=sys.stderr)
            self._bar.__enter__()
            self._bar.update(done)

    def advanced(self, rows: int) -> None:
        self._done += rows
        if self._bar is not None:
            self._bar.update(rows)
        elif time.monotonic() - self._line_at > _LINE_SECONDS:
            self._line_at = time.monotonic()
            share = self._done / max(self._rows, 1)
            self.say(f"{self._work}: {self._done:,} of {self._rows:,} rows ({share:.0%}), {self._speed()}.")

    def ended(self) -> None:
        self.say(f"{self._work}: {self._done:,} rows, {self._speed()}.")

    def _speed(self) -> str:
        seconds = max(time.monotonic() - self._began, 0.001)
        return f"{(self._done - self._earlier) / seconds:,.0f} rows/s"

    def _end_bar(self) -> None:
        if self._bar is not None:
            bar, self._bar = self._bar, None
            bar.__exit__(None, None, None)
