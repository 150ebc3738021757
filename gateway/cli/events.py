"""`gateway events`: publishing from a shell."""

from typing import BinaryIO

import click
import msgspec

from gateway.cli.client import Api, JsonObject, with_api
from gateway.cli.options import json_option, settings_options, tenant_options
from gateway.cli.output import print_json
from gateway.cli.tenant import TenantChoice
from gateway.settings import Settings


@click.group("events")
def command() -> None:
    """Publish events."""


@command.command("publish")
@click.argument("event_type", metavar="TYPE")
@click.option("--data", metavar="JSON", help="What the event says: a JSON object, delivered byte for byte.")
@click.option("--data-file", type=click.File("rb"), metavar="FILE", help="The same from a file; `-` is standard input.")
@click.option("--timestamp", metavar="TIME", help="When it happened, as ISO 8601; now when absent.")
@click.option(
    "--external-id", metavar="ID", help="Your own id of the event; with one it happens once, however often it is published."
)
@tenant_options
@json_option
@settings_options
def publish(
    *,
    settings: Settings,
    tenant: TenantChoice,
    event_type: str,
    data: str | None,
    data_file: BinaryIO | None,
    timestamp: str | None,
    external_id: str | None,
    as_json: bool,
) -> None:
    """Publish an event of TYPE, such as `invoice.created`, and print its id once it is safely stored."""
    if (data is None) == (data_file is None):
        raise click.UsageError("give the event's data with --data or --data-file")
    raw = data.encode(errors="surrogateescape") if data_file is None and data is not None else _read(data_file)
    _check_object(raw)

    async def send(api: Api) -> JsonObject:
        body: dict[str, object] = {"event": event_type, "data": msgspec.Raw(raw), **api.tenant_fields(tenant)}
        if timestamp is not None:
            body["timestamp"] = timestamp
        if external_id is not None:
            body["externalId"] = external_id
        return await api.request("POST", "events", body=body)

    event = with_api(settings, send)
    if as_json:
        print_json(event)
        return
    click.echo(event["id"])
    if event.get("duplicate"):
        click.echo(f"It had been published before, at {event['createdAt']}; nothing is sent again.", err=True)


def _read(file: BinaryIO | None) -> bytes:
    return b"" if file is None else file.read().strip()


def _check_object(raw: bytes) -> None:
    """Only its form: what goes into the request's JSON unread has to be JSON. The gateway judges the rest."""
    try:
        is_object = isinstance(msgspec.json.decode(raw), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise click.UsageError(f"the event's data is not JSON: {error}") from error
    if not is_object:
        raise click.UsageError("the event's data is not a JSON object")
