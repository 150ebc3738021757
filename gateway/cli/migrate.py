"""`gateway migrate`: brings the store's schema up to date, as `gateway serve` does by itself."""

import asyncio

import click
from msgspec.structs import replace

from gateway.cli.options import settings_options
from gateway.cli.output import cell
from gateway.settings import Settings, Store


@click.command("migrate")
@settings_options
def command(*, settings: Settings) -> None:
    """Bring the store's schema up to date; makes the store when there is none.

    No gateway may be running on an embedded store. On PostgreSQL nodes may go on; it is done as the role of `store.migrate_url`,
    when there is one, else of `store.url`, all or nothing, and by one at a time.
    """
    from gateway.telemetry import logs  # noqa: PLC0415 - so that --help is quick

    logs.configure(replace(settings.log, level="warning"))
    work = _migrate_file(settings) if settings.is_embedded else _migrate_server(settings.store)
    click.echo(cell(asyncio.run(work)))


async def _migrate_file(settings: Settings) -> str:
    from gateway.store.backend import open_store  # noqa: PLC0415 - so that --help is quick
    from gateway.store.sqlite import inspection  # noqa: PLC0415

    path = settings.store_path
    before = await inspection.look_at(path) if inspection.exists(path) else None
    async with open_store(settings):
        pass
    after = await inspection.look_at(path)
    return _told(f"the store {path}", None if before is None else before.migration, after.migration)


async def _migrate_server(store: Store) -> str:
    from gateway.store.backend import require_postgres  # noqa: PLC0415 - so that --help is quick

    require_postgres()
    from gateway.store import postgres  # noqa: PLC0415 - its driver may be missing

    before = await postgres.inspect(store)
    await postgres.migrate(store)
    after = await postgres.inspect(store)
    return _told(f"the store on PostgreSQL {after.server_version}", before.migration or None, after.migration)


def _told(store: str, before: int | None, after: int) -> str:
    if before is None:
        return f"Made {store}, at migration {after}."
    if before == after:
        return f"{store[0].upper()}{store[1:]} was up to date, at migration {after}."
    return f"Brought {store} from migration {before} to {after}."
