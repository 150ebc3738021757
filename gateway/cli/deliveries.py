"""`gateway deliveries`: what became of events, and another try."""

import click
import msgspec

from gateway.cli.client import JsonObject, with_api
from gateway.cli.options import json_option, limit_option, settings_options, tenant_options
from gateway.cli.output import cell, print_json, print_list, print_record
from gateway.cli.tenant import TenantChoice
from gateway.model import DeliveryState
from gateway.settings import Settings

_COLUMNS = (
    ("ID", "id"),
    ("STATE", "state"),
    ("EVENT", "event"),
    ("TRIES", "attemptCount"),
    ("STATUS", "lastStatus"),
    ("ERROR", "lastError"),
    ("NEXT TRY", "nextAttemptAt"),
    ("CREATED", "createdAt"),
    ("ENDPOINT", "webhookId"),
)
_ATTEMPT_COLUMNS = (
    ("TRY", "number"),
    ("BY", "trigger"),
    ("STARTED", "startedAt"),
    ("MS", "durationMs"),
    ("STATUS", "status"),
    ("FENCED", "fenced"),
    ("ERROR", "error"),
    ("MESSAGE", "errorMessage"),
    ("ANSWER", "responseBody"),
)


@click.group("deliveries")
def command() -> None:
    """Show deliveries and retry them."""


@command.command("list")
@tenant_options
@click.option("--endpoint", "webhook_id", metavar="ID", help="Only to this endpoint.")
@click.option("--event-id", metavar="ID", help="Only of this event.")
@click.option("--event", "event_type", metavar="TYPE", help="Only of events of this type.")
@click.option("--state", type=click.Choice([state.value for state in DeliveryState]), help="Only in this state.")
@click.option("--since", metavar="TIME", help="Only made at or after this time, as ISO 8601.")
@click.option("--until", metavar="TIME", help="Only made before this time, as ISO 8601.")
@limit_option
@json_option
@settings_options
def list_(
    *,
    settings: Settings,
    tenant: TenantChoice,
    webhook_id: str | None,
    event_id: str | None,
    event_type: str | None,
    state: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List deliveries, newest first."""
    query = {
        "webhookId": webhook_id,
        "eventId": event_id,
        "event": event_type,
        "state": state,
        "since": since,
        "until": until,
    }
    deliveries, has_more = with_api(settings, lambda api: api.list("deliveries", tenant=tenant, query=query, limit=limit))
    print_list(deliveries, _COLUMNS, as_json=as_json, has_more=has_more)


@command.command("show")
@click.argument("delivery_id", metavar="ID")
@tenant_options
@json_option
@settings_options
def show(*, settings: Settings, tenant: TenantChoice, delivery_id: str, as_json: bool) -> None:
    """Show the delivery ID: its state, what was sent, and each attempt with its answer."""
    delivery = with_api(settings, lambda api: api.request("GET", "deliveries", delivery_id, tenant=tenant))
    if as_json:
        print_json(delivery)
        return
    print_record(delivery, leave_out=("object", "body", "attempts"))
    click.echo(f"\nBody:\n{_as_sent(delivery)}\n\nAttempts:")
    print_list(delivery.get("attempts") or [], _ATTEMPT_COLUMNS, as_json=False)


def _as_sent(delivery: JsonObject) -> str:
    body = delivery.get("body")
    return cell(body if isinstance(body, str) else msgspec.json.encode(body).decode())


@command.command("retry")
@click.argument("delivery_id", metavar="ID")
@tenant_options
@json_option
@settings_options
def retry(*, settings: Settings, tenant: TenantChoice, delivery_id: str, as_json: bool) -> None:
    """Send the delivery ID once more, now, whatever its state. No automatic attempt is moved by it."""
    delivery = with_api(settings, lambda api: api.request("POST", "deliveries", delivery_id, "retry", tenant=tenant))
    if as_json:
        print_json(delivery)
    else:
        click.echo(f"Queued one more attempt of {delivery['id']}, which is {delivery['state']}.")
