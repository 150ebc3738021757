"""`gateway endpoints`: who gets which events. The API calls an endpoint a webhook."""

from collections.abc import Sequence

import click

from gateway.cli.client import with_api
from gateway.cli.options import command_like_this, json_option, limit_option, settings_options, tenant_options
from gateway.cli.output import print_json, print_list, print_record
from gateway.cli.tenant import TenantChoice
from gateway.settings import Settings

_COLUMNS = (
    ("ID", "id"),
    ("ACTIVE", "isActive"),
    ("URL", "url"),
    ("EVENTS", "events"),
    ("DESCRIPTION", "description"),
    ("VERSION", "apiVersion"),
    ("CREATED", "createdAt"),
)
_events_option = click.option(
    "--event",
    "events",
    multiple=True,
    metavar="TYPE",
    help="An event type it gets: `invoice.created`, `invoice.*` or `*`; may be repeated.",
)
_headers_option = click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="'NAME: VALUE'",
    callback=lambda _, __, values: _headers(values),
    help="A header that goes with each delivery; may be repeated. Its value is shown nowhere; *** keeps one that is there.",
)


def _headers(lines: Sequence[str]) -> dict[str, str]:
    """`Name: value` each. Raises UsageError, without the value."""
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise click.UsageError("a --header is written as 'NAME: VALUE'")
        if name in headers:
            raise click.UsageError(f"the --header {name} is there twice")
        headers[name] = value.strip(" \t")
    return headers


def _refuse_both(one: str, is_one: object, other: str, is_other: object) -> None:
    if is_one and is_other:
        raise click.UsageError(f"give either {one} or {other}, not both")


@click.group("endpoints")
def command() -> None:
    """Create, show, change, delete and test endpoints, and rotate their secrets."""


@command.command("create")
@click.argument("url")
@_events_option
@click.option("--description", metavar="TEXT", help="What people call it.")
@click.option("--api-version", metavar="VERSION", help="Pins the version of what it gets.")
@_headers_option
@tenant_options
@json_option
@settings_options
def create(
    *,
    settings: Settings,
    tenant: TenantChoice,
    url: str,
    events: Sequence[str],
    description: str | None,
    api_version: str | None,
    headers: dict[str, str],
    as_json: bool,
) -> None:
    """Make an endpoint at URL and show it with its signing secret, which is shown this once."""
    if not events:
        raise click.UsageError("say with --event which events it gets ('*' for all of them)")
    body: dict[str, object] = {"url": url, "events": list(events), "description": description, "apiVersion": api_version}
    if headers:
        body["headers"] = headers
    webhook = with_api(settings, lambda api: api.request("POST", "webhooks", tenant=tenant, body=body), makes_store=True)
    if as_json:
        print_json(webhook)
    else:
        print_record(webhook, leave_out=("object",))


@command.command("list")
@tenant_options
@limit_option
@json_option
@settings_options
def list_(*, settings: Settings, tenant: TenantChoice, limit: int, as_json: bool) -> None:
    """List endpoints, newest first."""
    webhooks, has_more = with_api(settings, lambda api: api.list("webhooks", tenant=tenant, limit=limit))
    print_list(webhooks, _COLUMNS, as_json=as_json, has_more=has_more)


@command.command("show")
@click.argument("webhook_id", metavar="ID")
@tenant_options
@json_option
@settings_options
def show(*, settings: Settings, tenant: TenantChoice, webhook_id: str, as_json: bool) -> None:
    """Show the endpoint ID."""
    webhook = with_api(settings, lambda api: api.request("GET", "webhooks", webhook_id, tenant=tenant))
    if as_json:
        print_json(webhook)
    else:
        print_record(webhook, leave_out=("object",))


@command.command("update")
@click.argument("webhook_id", metavar="ID")
@click.option("--url", metavar="URL", help="Where it is from the next attempt on.")
@_events_option
@click.option("--description", metavar="TEXT", help="What people call it; empty clears it.")
@click.option("--api-version", metavar="VERSION", help="Pins the version of what it gets; `none` follows the organization's.")
@_headers_option
@click.option("--no-headers", is_flag=True, help="Send none of its headers any more; --header replaces them all.")
@click.option("--enable", is_flag=True, help="Deliver to it again, with a clean slate.")
@click.option("--disable", is_flag=True, help="Deliver nothing to it, and cancel what waits for it.")
@tenant_options
@json_option
@settings_options
def update(
    *,
    settings: Settings,
    tenant: TenantChoice,
    webhook_id: str,
    url: str | None,
    events: Sequence[str],
    description: str | None,
    api_version: str | None,
    headers: dict[str, str],
    no_headers: bool,
    enable: bool,
    disable: bool,
    as_json: bool,
) -> None:
    """Change what is given of the endpoint ID; the rest stays as it is."""
    _refuse_both("--enable", enable, "--disable", disable)
    _refuse_both("--header", headers, "--no-headers", no_headers)
    body: dict[str, object] = {}
    if url is not None:
        body["url"] = url
    if events:
        body["events"] = list(events)
    if description is not None:
        body["description"] = description or None
    if api_version is not None:
        body["apiVersion"] = None if api_version == "none" else api_version
    if headers or no_headers:
        body["headers"] = headers or None
    if enable or disable:
        body["isActive"] = enable
    if not body:
        raise click.UsageError("say what to change")
    webhook = with_api(settings, lambda api: api.request("PATCH", "webhooks", webhook_id, tenant=tenant, body=body))
    if as_json:
        print_json(webhook)
    else:
        print_record(webhook, leave_out=("object",))


@command.command("delete")
@click.argument("webhook_id", metavar="ID")
@tenant_options
@json_option
@settings_options
def delete(*, settings: Settings, tenant: TenantChoice, webhook_id: str, as_json: bool) -> None:
    """Delete the endpoint ID for good; what waits for it is canceled."""
    answer = with_api(settings, lambda api: api.request("DELETE", "webhooks", webhook_id, tenant=tenant))
    if as_json:
        print_json(answer)
    else:
        click.echo(f"Deleted {webhook_id}.")


@command.command("rotate")
@click.argument("webhook_id", metavar="ID")
@click.option(
    "--overlap-seconds",
    type=click.IntRange(0, 604_800),
    metavar="N",
    help="How long the old secret stays in force, too: up to 7 days (604800), a day when absent; with 0 it goes at once.",
)
@click.option("--finish", is_flag=True, help="Make no new secret, but let the old one go now.")
@tenant_options
@json_option
@settings_options
def rotate(
    *, settings: Settings, tenant: TenantChoice, webhook_id: str, overlap_seconds: int | None, finish: bool, as_json: bool
) -> None:
    """Give the endpoint ID a new signing secret, and show it with that, this once.

    Until the overlap ends the old secret is in force, too: `webhook-signature` has a signature of each, and the other
    signature header is made with the old one. Once the receiver has the new secret, `--finish` ends the overlap.
    """
    if finish and overlap_seconds is not None:
        raise click.UsageError("give either --overlap-seconds or --finish, not both")
    body: dict[str, object] = {"finish": True} if finish else {}
    if overlap_seconds is not None:
        body["overlapSeconds"] = overlap_seconds
    webhook = with_api(
        settings, lambda api: api.request("POST", "webhooks", webhook_id, "rotate-secret", tenant=tenant, body=body)
    )
    if as_json:
        print_json(webhook)
    else:
        print_record(webhook, leave_out=("object",))


@command.command("test")
@click.argument("webhook_id", metavar="ID")
@tenant_options
@json_option
@settings_options
def test(*, settings: Settings, tenant: TenantChoice, webhook_id: str, as_json: bool) -> None:
    """Send the endpoint ID a `webhook.test` event, once, now. Ends with 1 when it is not answered with a 2xx."""
    result = with_api(settings, lambda api: api.request("POST", "webhooks", webhook_id, "test", tenant=tenant))
    if as_json:
        print_json(result)
    elif result["success"]:
        click.echo(f"Delivered ({result['deliveryId']}).")
    if not result["success"]:
        show = command_like_this("deliveries", "show", result["deliveryId"])
        raise click.ClickException(f"the endpoint did not take it; `{show}` says why")
