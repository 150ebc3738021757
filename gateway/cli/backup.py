"""`gateway backup`: a copy of the embedded store, also while a gateway runs on it."""

import os
from pathlib import Path

import click

from gateway.cli.client import with_api
from gateway.cli.options import json_option, settings_options
from gateway.cli.output import cell, print_json
from gateway.settings import MIB, Settings


@click.command("backup")
@click.argument("file", metavar="FILE", type=click.Path())
@json_option
@settings_options
def command(*, settings: Settings, file: str, as_json: bool) -> None:
    """Copy the embedded store into the new FILE, also while a gateway runs on it, which goes on meanwhile.

    The copy holds everything that was accepted before the command began. It appears under its name once it is whole, sound and on
    disk, for its owner only: it holds signing secrets. To go back to it, stop the gateway and put it in the place of the store's
    file, without the `-wal` and `-shm` files that are beside that.
    """
    if not settings.is_embedded and not os.environ.get("GATEWAY_URL"):
        raise click.ClickException(
            "the store is a PostgreSQL, which is backed up with its own tools: `pg_dump`, or base backups with archived WAL"
        )
    path = str(Path(file).absolute())
    made = with_api(settings, lambda api: api.request("POST", "backups", body={"path": path}, takes_long=True))
    if as_json:
        print_json(made)
    else:
        click.echo(cell(f"Backed the store up to {path}: {made['bytes'] / MIB:.1f} MiB in {made['seconds']:.1f} s."))
