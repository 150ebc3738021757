"""`gateway migrate`: brings the store's schema up to date, as `gateway serve` does by itself on the embedded store."""

import asyncio

import click

from gateway.cli.options import settings_options
from gateway.cli.output import cell
from gateway.settings import Settings


@click.command("migrate")
@settings_options
def command(*, settings: Settings) -> None:
    """Bring the store's schema up to date; makes the store when there is none. No gateway may be running on it."""
    click.echo(cell(asyncio.run(_migrate(settings))))


async def _migrate(settings: Settings) -> str:
    from gateway.store.sqlite import SqliteStore, inspection  # noqa: PLC0415 - so that --help is quick

    path = settings.store_path
    before = await inspection.look_at(path) if inspection.exists(path) else None
    async with SqliteStore.open(path):
        pass
    after = await inspection.look_at(path)
    if before is None:
        return f"Made the store {path}, at migration {after.migration}."
    if before.migration == after.migration:
        return f"The store {path} was up to date, at migration {after.migration}."
    return f"Brought the store {path} from migration {before.migration} to {after.migration}."
