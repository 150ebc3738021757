"""`gateway keys`: who may use the API."""

from collections.abc import Sequence

import click

from gateway.cli.client import Api, JsonObject, with_api
from gateway.cli.options import json_option, limit_option, settings_options, tenant_options_with_help
from gateway.cli.output import print_json, print_list
from gateway.cli.tenant import TenantChoice
from gateway.registry.keys import PERMISSIONS
from gateway.settings import Settings

_COLUMNS = (
    ("ID", "id"),
    ("PREFIX", "prefix"),
    ("NAME", "name"),
    ("ORGANIZATION", "organizationId"),
    ("MODE", "mode"),
    ("PERMISSIONS", "permissions"),
    ("CREATED", "createdAt"),
    ("EXPIRES", "expiresAt"),
    ("LAST USED", "lastUsedAt"),
)


@click.group("keys")
def command() -> None:
    """Create, list and revoke API keys."""


@command.command("create")
@tenant_options_with_help(
    organization="Whose key it is. Needed unless an API key says it, or --service is given.",
    mode="Which of the organization's two worlds the key is for; needed with --organization.",
)
@click.option("--service", is_flag=True, help="A key for internal publishers and operators, which reaches every organization.")
@click.option(
    "--permission",
    "permissions",
    multiple=True,
    type=click.Choice(PERMISSIONS),
    help="Restrict the key to this; may be repeated. Everything when absent.",
)
@click.option("--name", help="What people call it.")
@click.option("--expires-in-days", type=click.IntRange(min=1), metavar="DAYS", help="Never when absent.")
@json_option
@settings_options
def create(
    *,
    settings: Settings,
    tenant: TenantChoice,
    service: bool,
    permissions: Sequence[str],
    name: str | None,
    expires_in_days: int | None,
    as_json: bool,
) -> None:
    """Make a key and print it, alone, on standard output. It is shown this once."""
    if service and (tenant.organization or tenant.mode):
        raise click.UsageError("a --service key has no --organization or --mode of its own")
    if not service and tenant.organization and not tenant.mode:
        raise click.UsageError("say with --mode whether the key is for live or sandbox")

    async def add(api: Api) -> JsonObject:
        body: dict[str, object] = {"service": True} if service else dict(api.tenant_fields(tenant))
        if permissions:
            body["permissions"] = _by_resource(permissions)
        if name is not None:
            body["name"] = name
        if expires_in_days is not None:
            body["expiresInDays"] = expires_in_days
        return await api.request("POST", "keys", body=body)

    key = with_api(settings, add, makes_store=True)
    if as_json:
        print_json(key)
    else:
        click.echo(key["apiKey"])


def _by_resource(permissions: Sequence[str]) -> dict[str, list[str]]:
    """`{"webhook": ["read", "write"]}`, as the API wants it."""
    verbs: dict[str, list[str]] = {}
    for permission in dict.fromkeys(permissions):
        resource, _, verb = permission.partition(":")
        verbs.setdefault(resource, []).append(verb)
    return verbs


@command.command("list")
@tenant_options_with_help(
    organization="Only this organization's, of one mode.",
    mode="Which of the organization's two worlds, with --organization; live when absent.",
)
@limit_option
@json_option
@settings_options
def list_(*, settings: Settings, tenant: TenantChoice, limit: int, as_json: bool) -> None:
    """List keys, newest first: an organization's, or everybody's."""
    everybody = tenant.organization is None and tenant.mode is None
    keys, has_more = with_api(settings, lambda api: api.list("keys", tenant=None if everybody else tenant, limit=limit))
    shown = keys if as_json else [{**key, "permissions": _in_words(key.get("permissions"))} for key in keys]
    print_list(shown, _COLUMNS, as_json=as_json, has_more=has_more)


def _in_words(permissions: object) -> object:
    if isinstance(permissions, dict):
        return [f"{resource}:{verb}" for resource, verbs in permissions.items() for verb in verbs]
    return "everything" if permissions is None else permissions


@command.command("revoke")
@click.argument("key_id", metavar="ID")
@json_option
@settings_options
def revoke(*, settings: Settings, key_id: str, as_json: bool) -> None:
    """End the key ID at once."""
    answer = with_api(settings, lambda api: api.request("DELETE", "keys", key_id))
    if as_json:
        print_json(answer)
    else:
        click.echo(f"Revoked {key_id}.")
