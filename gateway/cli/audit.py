"""`gateway audit`: proves from the store that nothing that was accepted is missing, or says what is; also beside a running
gateway."""

import asyncio
import time
from collections.abc import Callable

import click
import msgspec
from msgspec.structs import replace

from gateway.audit.audit import Audit, Totals, span_of
from gateway.audit.finding import Finding
from gateway.cli.options import json_option, settings_options
from gateway.cli.output import cell, print_json
from gateway.clock import Timestamp, isoformat, parse_timestamp
from gateway.settings import Settings


class _Told(msgspec.Struct, frozen=True, rename="camel"):
    """A finding, for programs."""

    kind: str
    organization_id: str
    mode: str
    id: str
    detail: str
    meaning: str
    remedy: str


class _Report(msgspec.Struct, frozen=True, rename="camel"):
    """An audit, for programs."""

    since: str
    until: str
    seconds: float
    tenants: int
    revisions: int
    events: int
    deliveries: int
    attempts: int
    findings: list[_Told]


def _time(context: click.Context, parameter: click.Parameter, text: str | None) -> Timestamp | None:
    try:
        return None if text is None else parse_timestamp(text)
    except ValueError:
        raise click.BadParameter(
            "it must be a date with a time in ISO 8601, such as 2026-03-25T14:30:00Z.", context, parameter
        ) from None


@click.command("audit")
@click.option("--organization", metavar="ORG", help="Only this one's, in both modes.")
@click.option("--since", metavar="TIME", callback=_time, help="Only what was made at or after this time, as ISO 8601.")
@click.option("--until", metavar="TIME", callback=_time, help="Only what was made before this time, as ISO 8601.")
@json_option
@settings_options
def command(
    *, settings: Settings, organization: str | None, since: Timestamp | None, until: Timestamp | None, as_json: bool
) -> None:
    """Prove from the store that nothing accepted was lost. Changes nothing, and may be run beside the gateways at any time.

    Each event has a delivery for each endpoint that wanted it when it was accepted; each delivery is in a state that its attempts
    and its endpoint have led to; each attempt has its place. What is not so is told in a line of its own: what it is, where, what
    it means and what to do. Ends with 1 when there is any such line.

    It reads all of the last `retention.days`: about half a minute of processor time for a million deliveries.
    """
    from gateway.telemetry import logs  # noqa: PLC0415 - so that --help is quick

    logs.configure(replace(settings.log, level="error"))
    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        if not as_json:
            click.echo(cell(finding.sentence))

    report = asyncio.run(_audit(settings, organization, since, until, tell))
    if as_json:
        print_json(replace(report, findings=list(map(_told, findings))))
    else:
        click.echo(_summary(report, len(findings)))
    if findings:
        raise click.exceptions.Exit(1)


async def _audit(
    settings: Settings,
    organization_id: str | None,
    since: Timestamp | None,
    until: Timestamp | None,
    tell: Callable[[Finding], None],
) -> _Report:
    from gateway.store.backend import open_record  # noqa: PLC0415 - so that --help is quick

    began_at = time.monotonic()
    async with open_record(settings) as record:
        span = span_of(record.now, retention_days=settings.retention.days, since=since, until=until)
        if since is not None and since < span.since:
            click.echo(
                f"History is kept for retention.days = {settings.retention.days}: only what was made since "
                f"{isoformat(span.since)} is looked at.",
                err=True,
            )
        audit = Audit(record, span, tell, organization_id=organization_id)
        await audit.run()
    return _report(audit.totals, isoformat(span.since), isoformat(span.until), time.monotonic() - began_at)


def _report(totals: Totals, since: str, until: str, seconds: float) -> _Report:
    return _Report(since=since, until=until, seconds=round(seconds, 3), findings=[], **msgspec.structs.asdict(totals))


def _told(finding: Finding) -> _Told:
    return _Told(
        kind=finding.kind.word,
        organization_id=finding.tenant.organization_id,
        mode=finding.tenant.mode,
        id=finding.id,
        detail=finding.detail,
        meaning=finding.kind.meaning,
        remedy=finding.kind.remedy,
    )


def _summary(report: _Report, count: int) -> str:
    looked_at = (
        f"{report.events:,} events, {report.deliveries:,} deliveries, {report.attempts:,} attempts and {report.revisions:,} "
        f"revisions of {report.tenants:,} tenants since {report.since}, in {report.seconds:.1f} s"
    )
    if count:
        return f"{count:,} things are not as they have to be: looked at {looked_at}."
    return f"Nothing is missing: looked at {looked_at}."
