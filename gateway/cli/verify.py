"""`gateway verify`: whether a webhook that was received is signed with a secret. Needs no gateway."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from gateway import signing
from gateway.cli.options import json_option, settings_options
from gateway.cli.output import print_json
from gateway.clock import isoformat
from gateway.settings import Settings

_STANDARD = "webhook-signature"


class Finding(msgspec.Struct, frozen=True):
    """What one signature is worth."""

    header: str
    holds: bool
    reason: str | None = None  # why it does not hold, when that can be told


def judge(secret: str, headers: Mapping[str, str], body: bytes, *, prefix: str) -> list[Finding]:
    """A finding for each signature in *headers* (their names in lower case). *prefix* is that of the first family."""
    findings = []
    first = f"{prefix}-Signature"
    if (signature := headers.get(first.lower())) is not None:
        holds = signature.isascii() and signing.verify_hex(secret, body, signature)
        findings.append(Finding(first, holds, None if holds else _hint(secret, body, signature)))
    if _STANDARD in headers:
        findings.append(_judge_standard(secret, headers, body))
    return findings


def _judge_standard(secret: str, headers: Mapping[str, str], body: bytes) -> Finding:
    missing = [name for name in ("webhook-id", "webhook-timestamp") if name not in headers]
    if missing:
        return Finding(_STANDARD, holds=False, reason=f"it covers {' and '.join(missing)}, which was not given")
    timestamp, signature = headers["webhook-timestamp"], headers[_STANDARD]
    if not (timestamp.isascii() and timestamp.isdecimal()):
        return Finding(_STANDARD, holds=False, reason="webhook-timestamp is not a whole number of seconds")
    try:
        holds = signature.isascii() and signing.verify(
            secret, body, message_id=headers["webhook-id"], timestamp=int(timestamp), signature=signature
        )
    except ValueError as error:
        return Finding(_STANDARD, holds=False, reason=str(error))
    return Finding(_STANDARD, holds)


def _hint(secret: str, body: bytes, signature: str) -> str | None:
    stripped = body.rstrip(b"\r\n")
    if stripped != body and signature.isascii() and signing.verify_hex(secret, stripped, signature):
        return "it holds without the line break at the end of the body, which was not part of what was sent"
    return None


def _parse_headers(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    headers = {}
    for text in texts:
        name, separator, value = text.partition(":")
        if not separator or not name.strip():
            raise click.BadParameter(f"{text!r} is not `NAME: VALUE`")
        headers[name.strip().lower()] = value.strip()
    return headers


@click.command("verify")
@click.argument("body", type=click.File("rb"), default="-")
@click.option(
    "--header",
    "headers",
    multiple=True,
    required=True,
    metavar="'NAME: VALUE'",
    callback=_parse_headers,
    help="A header as it was received; once for each. Those that do not matter may be given, too.",
)
@click.option(
    "--secret-file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=False, path_type=Path),
    metavar="FILE",
    help="The endpoint's secret. Without it GATEWAY_WEBHOOK_SECRET of the environment is taken.",
)
@click.option("--secret", envvar="GATEWAY_WEBHOOK_SECRET", hidden=True)  # hidden: others would see it among the processes
@click.option("--tolerance", type=click.FloatRange(min=0), metavar="SECONDS", help="Also refuse what was signed longer ago.")
@json_option
@settings_options
def command(
    *,
    settings: Settings,
    body: BinaryIO,
    headers: dict[str, str],
    secret_file: Path | None,
    secret: str | None,
    tolerance: float | None,
    as_json: bool,
) -> None:
    """Verify the webhook whose raw body is in the file BODY (standard input when absent or `-`).

    Says of each of its signatures whether it holds. Ends with 0 when there is one and all of them hold, else with 1.
    """
    if secret_file is not None:
        secret = _read_secret(secret_file)
    if not secret or not secret.strip():
        raise click.UsageError("give the secret with --secret-file or in GATEWAY_WEBHOOK_SECRET")
    prefix = settings.delivery.signature_header_prefix
    findings = judge(secret.strip(), headers, body.read(), prefix=prefix)
    age = _age(headers)
    is_old = tolerance is not None and (age is None or abs(age) > tolerance)
    if as_json:
        print_json(
            {"signatures": findings, "ageSeconds": age, "valid": bool(findings) and not is_old and all(f.holds for f in findings)}
        )
    else:
        for finding in findings:
            reason = f": {finding.reason}" if finding.reason else ""
            click.echo(f"{finding.header} {'holds' if finding.holds else 'does not hold'}{reason}")
        if age is not None:
            click.echo(f"signed at {isoformat(int(headers['webhook-timestamp']) * 1_000)}, {age:.0f} s ago")
    if not findings:
        raise click.ClickException(f"there is neither {prefix}-Signature nor {_STANDARD} among the headers")
    if not all(finding.holds for finding in findings):
        raise click.ClickException("the webhook is not what was signed with this secret")
    if is_old:
        raise click.ClickException(f"webhook-timestamp is missing or not within {tolerance:g} s of now")


def _read_secret(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{file} holds no secret: it is not text") from error


def _age(headers: Mapping[str, str]) -> float | None:
    """How many seconds ago the attempt was signed."""
    timestamp = headers.get("webhook-timestamp", "")
    return time.time() - int(timestamp) if timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= 11 else None
