"""`gateway audit-log`: who changed what, when and from where."""

import click

from gateway.cli.client import JsonObject, with_api
from gateway.cli.options import json_option, limit_option, settings_options, tenant_options_with_help
from gateway.cli.output import cell, print_list
from gateway.cli.tenant import TenantChoice
from gateway.model import AuditAction
from gateway.settings import Settings

_COLUMNS = (
    ("WHEN", "createdAt"),
    ("ACTION", "action"),
    ("TARGET", "targetId"),
    ("BY", "actor"),
    ("FROM", "address"),
    ("ORGANIZATION", "organizationId"),
    ("MODE", "mode"),
    ("CHANGES", "changes"),
)


@click.command("audit-log")
@tenant_options_with_help(
    organization="Only this organization's, of one mode.",
    mode="Which of the organization's two worlds, with --organization; live when absent.",
)
@click.option("--actor", metavar="ID", help="Only by this API key, or by `operator`, `process` or `gateway`.")
@click.option("--action", type=click.Choice([action.value for action in AuditAction]), help="Only of this kind.")
@click.option("--target", "target_id", metavar="ID", help="Only to this endpoint, delivery, key, organization or file.")
@click.option("--since", metavar="TIME", help="Only done at or after this time, as ISO 8601.")
@click.option("--until", metavar="TIME", help="Only done before this time, as ISO 8601.")
@limit_option
@json_option
@settings_options
def command(
    *,
    settings: Settings,
    tenant: TenantChoice,
    actor: str | None,
    action: str | None,
    target_id: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List who changed what, newest first: in an organization, or anywhere."""
    query = {"actor": actor, "action": action, "targetId": target_id, "since": since, "until": until}
    everybody = tenant.organization is None and tenant.mode is None
    entries, has_more = with_api(
        settings, lambda api: api.list("audit-log", tenant=None if everybody else tenant, query=query, limit=limit)
    )
    shown = entries if as_json else [{**entry, "changes": _in_words(entry["changes"])} for entry in entries]
    print_list(shown, _COLUMNS, as_json=as_json, has_more=has_more)


def _in_words(changes: JsonObject) -> list[str]:
    """`url: https://a.example → https://b.example`, of each field."""
    words = []
    for field, change in changes.items():
        if {"from", "to"} <= change.keys():
            words.append(f"{field}: {cell(change['from'])} → {cell(change['to'])}")
        else:
            words += [f"{field} {verb}: {cell(names)}" for verb, names in change.items()]
    return words
