"""`gateway nodes`: who shares the store."""

import click

from gateway.cli.client import with_api
from gateway.cli.options import json_option, limit_option, settings_options
from gateway.cli.output import print_list
from gateway.settings import Settings

_COLUMNS = (
    ("ID", "id"),
    ("NAME", "name"),
    ("VERSION", "version"),
    ("BUCKETS", "buckets"),
    ("STARTED", "startedAt"),
    ("RENEWED", "renewedAt"),
    ("THIS", "isThis"),
)


@click.command("nodes")
@limit_option
@json_option
@settings_options
def command(*, settings: Settings, limit: int, as_json: bool) -> None:
    """List the nodes that share the store, in the order in which they began.

    BUCKETS is how many of the 64 that endpoints are spread over a node holds, RENEWED when it last said that it lives, by the
    database's clock. THIS marks the node that answers.
    """
    nodes, has_more = with_api(settings, lambda api: api.list("nodes", limit=limit))
    print_list(nodes, _COLUMNS, as_json=as_json, has_more=has_more)
