"""`gateway organizations`: which there are, and which API version each is pinned to."""

import click

from gateway.cli.client import with_api
from gateway.cli.options import json_option, limit_option, settings_options
from gateway.cli.output import print_json, print_list
from gateway.settings import Settings


@click.group("organizations")
def command() -> None:
    """List organizations and pin their API version."""


@command.command("list")
@limit_option
@json_option
@settings_options
def list_(*, settings: Settings, limit: int, as_json: bool) -> None:
    """List the organizations that are pinned or have had an endpoint or a key."""
    organizations, has_more = with_api(settings, lambda api: api.list("organizations", limit=limit))
    print_list(organizations, (("ID", "id"), ("API VERSION", "apiVersion")), as_json=as_json, has_more=has_more)


@command.command("pin")
@click.argument("organization", metavar="ORG")
@click.argument("version")
@json_option
@settings_options
def pin(*, settings: Settings, organization: str, version: str, as_json: bool) -> None:
    """Set what an absent `commet-version` and an unpinned endpoint mean for ORG: a VERSION, or `none` to unpin it."""
    body = {"apiVersion": None if version == "none" else version}
    answer = with_api(settings, lambda api: api.request("PUT", "organizations", organization, body=body), makes_store=True)
    if as_json:
        print_json(answer)
    else:
        click.echo(f"Unpinned {organization}." if version == "none" else f"Pinned {organization} to {version}.")
