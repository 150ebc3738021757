"""`gateway check`: what is wrong, or worth knowing, about the settings and the store; also beside a running gateway."""

import asyncio
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import click
import msgspec
from msgspec.structs import replace

from gateway.cli.open_files import files_allowed, files_needed
from gateway.cli.options import json_option, settings_options
from gateway.cli.output import cell, print_json
from gateway.errors import GatewayError
from gateway.settings import IN_CLEAR, MAX_SOCKET_PATH, Secrets, Settings, Store

_OTHER_CONNECTIONS = 5  # of a node to PostgreSQL, beside its pools: leases, news, waking and being woken, partitions


class Weight(StrEnum):
    """What a finding means for whoever runs the gateway."""

    OK = "ok"
    NOTE = "note"  # works, but perhaps not as meant
    FAULT = "fault"  # does not work


class Finding(msgspec.Struct, frozen=True):
    """One thing that was found, in a sentence."""

    weight: Weight
    sentence: str


@click.command("check")
@json_option
@settings_options
def command(*, settings: Settings, as_json: bool) -> None:
    """Look at the settings and the store, and say what is wrong. Changes nothing. Ends with 1 when something is.

    A setting that is unknown or has a wrong value ends it at once, as it would `gateway serve`.
    """
    _quieten(settings)
    found = [
        Finding(Weight.OK, "every setting is known and has a possible value"),
        *settings_findings(settings),
        *secrets_findings(settings.secrets),
        *machine_findings(settings),
        *asyncio.run(store_findings(settings)),
    ]
    findings = [Finding(finding.weight, cell(finding.sentence)) for finding in found]
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            click.echo(f"{finding.weight:<5}  {finding.sentence}")
    if any(finding.weight is Weight.FAULT for finding in findings):
        raise click.exceptions.Exit(1)


def _quieten(settings: Settings) -> None:
    """What the store would log on its way is told as a finding, or is none."""
    from gateway.telemetry import logs  # noqa: PLC0415 - so that --help is quick

    logs.configure(replace(settings.log, level="error"))


def settings_findings(settings: Settings) -> Iterator[Finding]:
    """Settings that are possible each, but do not go together."""
    delivery, intake, events = settings.delivery, settings.intake, settings.events
    if delivery.drain_seconds <= delivery.timeout_seconds:
        yield Finding(
            Weight.NOTE,
            f"delivery.drain_seconds ({delivery.drain_seconds:g}) is not longer than delivery.timeout_seconds "
            f"({delivery.timeout_seconds:g}): a stop may cut attempts off, and they are sent again after the next start",
        )
    if delivery.max_in_flight_per_endpoint > delivery.max_in_flight:
        yield Finding(
            Weight.NOTE, "delivery.max_in_flight_per_endpoint is more than delivery.max_in_flight allows for all together"
        )
    if events.max_data_bytes > settings.http.max_body_bytes:
        yield Finding(
            Weight.NOTE, "http.max_body_bytes is less than events.max_data_bytes: the largest events cannot be sent to the API"
        )
    if events.max_data_bytes > intake.max_queue_bytes // 2:
        # One organization may hold half of the queue.
        yield Finding(
            Weight.FAULT, "intake.max_queue_bytes is less than twice events.max_data_bytes: the largest events never fit"
        )
    if any(network.endswith("/0") for network in settings.egress.allow):
        yield Finding(Weight.NOTE, "egress.allow lets deliveries go to every address, those inside this network included")
    yield from _authorities_findings(settings.egress.ca_file)
    yield from _operations_findings(settings)
    yield from _catalogue_findings(settings)


def _authorities_findings(ca_file: str) -> Iterator[Finding]:
    if not ca_file:
        return
    from gateway.egress.connector import tls_context  # noqa: PLC0415 - so that --help is quick

    try:
        tls_context(ca_file)
    except GatewayError as error:
        yield Finding(Weight.FAULT, str(error))
    else:
        yield Finding(Weight.OK, f"the certificates in {ca_file} are trusted on top of the system's")


def secrets_findings(secrets: Secrets) -> Iterator[Finding]:
    """How secrets are going to be stored."""
    if not secrets.encryption_key:
        yield Finding(
            Weight.NOTE,
            "secrets.encryption_key is empty: signing secrets are stored in clear from now on; "
            "`gateway secrets new-key` prints a key",
        )
    elif secrets.encryption_key[0] == IN_CLEAR:
        yield Finding(Weight.NOTE, f"secrets.encryption_key begins with `{IN_CLEAR}`: signing secrets are stored in clear")


def _operations_findings(settings: Settings) -> Iterator[Finding]:
    if not settings.operations.url:
        return
    from gateway.egress.addresses import AddressGuard, literal_address  # noqa: PLC0415 - so that --help is quick

    address = literal_address(urlsplit(settings.operations.url).hostname or "")
    if address is not None and not AddressGuard(settings.egress.allow, settings.egress.deny).allows(str(address)):
        yield Finding(
            Weight.FAULT,
            f"operations.url leads to {address}, a private or reserved address: nothing is sent there unless egress.allow has it",
        )


def _catalogue_findings(settings: Settings) -> Iterator[Finding]:
    if not settings.events.catalogue:
        return
    from gateway.publishing.event_types import Catalogue  # noqa: PLC0415 - so that --help is quick

    try:
        catalogue = Catalogue.load(Path(settings.events.catalogue))
    except GatewayError as error:
        yield Finding(Weight.FAULT, str(error))
    else:
        yield Finding(Weight.OK, f"the catalogue {settings.events.catalogue} has {len(catalogue.types)} event types")


def machine_findings(settings: Settings) -> Iterator[Finding]:
    """What the settings ask of this machine."""
    socket = settings.socket_path
    if socket is not None and len(os.fsencode(socket)) > MAX_SOCKET_PATH:
        yield Finding(
            Weight.FAULT,
            f"the path of the operators' socket, {socket}, is longer than {MAX_SOCKET_PATH} bytes; "
            f"set http.socket to a shorter one",
        )
    needed, allowed = files_needed(settings), files_allowed()
    if allowed < needed:
        yield Finding(
            Weight.NOTE,
            f"a process here may open {allowed} files (`ulimit -Hn`), fewer than the {needed} that http.max_connections = "
            f"{settings.http.max_connections} and delivery.max_in_flight = {settings.delivery.max_in_flight} may take together",
        )
    yield _event_loop_finding()


def _event_loop_finding() -> Finding:
    from gateway.cli.serve import is_sound  # noqa: PLC0415 - so that --help is quick

    try:
        version = metadata.version("uvloop")
    except metadata.PackageNotFoundError:
        return Finding(Weight.NOTE, "uvloop is not installed: asyncio's own event loop is used, which is slower")
    if not is_sound(version):
        return Finding(
            Weight.NOTE, f"uvloop {version} is refused for its faults: asyncio's own event loop is used; install 0.23 or later"
        )
    return Finding(Weight.OK, f"uvloop {version} is used")


async def store_findings(settings: Settings) -> list[Finding]:
    """The state of the store: of the embedded one asked of the gateway when one is running, else seen in the file."""
    try:
        if settings.is_embedded:
            return await _embedded_findings(settings)
        return await _shared_findings(settings)
    except GatewayError as error:
        return [Finding(Weight.FAULT, str(error))]


async def _shared_findings(settings: Settings) -> list[Finding]:
    from gateway.store.backend import require_postgres  # noqa: PLC0415 - so that --help is quick

    require_postgres()
    return [*await _gateway_findings(settings.socket_path), *await _server_findings(settings)]


async def _server_findings(settings: Settings) -> list[Finding]:
    from gateway.store import postgres  # noqa: PLC0415 - its driver may be missing

    store = settings.store
    found = await postgres.inspect(store)  # raises what makes the server unfit
    name = f"the PostgreSQL {found.server_version} of store.url"
    findings = [Finding(Weight.OK, f"{name} can be reached, and keeps what it has committed")]
    if found.pending:
        words = f"lacks {found.pending} migration(s); `gateway migrate` or `serve` applies them"
        findings.append(Finding(Weight.NOTE, f"the store {words}"))
    else:
        findings.append(Finding(Weight.OK, f"the store is at migration {found.migration}"))
        findings += sealing_findings(settings.secrets, await _sealed_with(store))
    if found.migration and (unfinished := await _unfinished_copy(store)):
        findings.append(unfinished)
    room = await _room(store)
    findings.append(connections_finding(store, most=room.connections, nodes=room.nodes))
    if not room.full_page_writes:
        findings.append(
            Finding(
                Weight.NOTE, f"{name} has `full_page_writes` off: right on a file system that never tears a page, nowhere else"
            )
        )
    if store.migrate_url:
        findings.append(await _owner_finding(store))
    return findings


def connections_finding(store: Store, *, most: int, nodes: int) -> Finding:
    """Whether *most* connections are enough for *nodes* that run now, or for the first one. Pure."""
    each = store.write_connections + store.read_connections + _OTHER_CONNECTIONS
    words = f"a node opens up to {each} connections (store.write_connections + store.read_connections + {_OTHER_CONNECTIONS})"
    if each > most:
        return Finding(Weight.FAULT, f"{words}, and the server lets the store's role open {most}")
    if nodes * each > most:
        return Finding(Weight.NOTE, f"{words}, {nodes} of them run, and the server lets the store's role open {most}")
    return Finding(Weight.OK, f"{words}: there is room for {most // each} of them on the server, and {nodes} run now")


def sealing_findings(secrets: Secrets, sealed_with: Mapping[str | None, int]) -> Iterator[Finding]:
    """Whether what is stored, so many texts encrypted with each key (None: in clear), can be read, and is as it would be stored
    now. Pure."""
    from gateway.store.sealing import Sealing  # noqa: PLC0415 - so that --help is quick

    sealing = Sealing.of(secrets)
    try:
        sealing.require([name for name in sealed_with if name is not None])
    except GatewayError as error:
        yield Finding(Weight.FAULT, str(error))
        return
    what = "secrets and sets of headers of endpoints"
    if current := sealed_with.get(sealing.current, 0):
        how = "in clear" if sealing.current is None else f"encrypted with the key {sealing.current}"
        yield Finding(Weight.OK, f"{current} {what} are stored {how}")
    if others := sum(sealed_with.values()) - current:
        names = [name for name in sealed_with if name != sealing.current]
        how = " and ".join("in clear" if name is None else f"with the key {name}" for name in names)
        yield Finding(Weight.NOTE, f"{others} {what} are still stored {how}: run `gateway secrets reencrypt`")


async def _sealed_with(store: Store) -> Mapping[str | None, int]:
    from gateway.store.postgres.connection import Database, opening  # noqa: PLC0415 - its driver may be missing

    async with Database(store).single() as session:
        await session.begin(opening(seconds=store.statement_seconds, mode="READ ONLY"))
        found = {row[0]: row[1] for row in await session.rows("sealed_with")}
        await session.end()
    return found


class _Room(msgspec.Struct, frozen=True):
    """What a server has room for."""

    connections: int  # that the store's role may open, others' left out of account
    full_page_writes: bool
    nodes: int  # that take part now


_ROOM = """
SELECT least(
    current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
      - coalesce(current_setting('reserved_connections', true)::integer, 0),
    (SELECT CASE WHEN rolconnlimit >= 0 THEN rolconnlimit END FROM pg_roles WHERE rolname = current_user),
    (SELECT CASE WHEN datconnlimit >= 0 THEN datconnlimit END FROM pg_database WHERE datname = current_database())
  ),
  current_setting('full_page_writes')::boolean,
  to_regclass('nodes') IS NOT NULL
"""


async def _room(store: Store) -> _Room:
    from gateway.store.postgres.connection import Database, opening  # noqa: PLC0415 - its driver may be missing

    async with Database(store).single() as session:
        await session.begin(opening(seconds=store.statement_seconds, mode="READ ONLY"))
        ((connections, full_page_writes, has_nodes),) = await session.fetch(_ROOM)
        ((nodes,),) = await session.fetch("SELECT count(*) FROM nodes") if has_nodes else ((0,),)
        await session.end()
    return _Room(connections, full_page_writes, nodes)


async def _unfinished_copy(store: Store) -> Finding | None:
    from gateway.store.copying.unfinished import CopyUnfinished, refuse_unfinished  # noqa: PLC0415 - so that --help is quick
    from gateway.store.postgres.connection import Database, opening  # noqa: PLC0415 - its driver may be missing

    async with Database(store).single() as session:
        await session.begin(opening(seconds=store.statement_seconds, mode="READ ONLY"))
        try:
            await refuse_unfinished(session)
        except CopyUnfinished as refusal:
            return Finding(Weight.FAULT, str(refusal))
        await session.end()
    return None


async def _owner_finding(store: Store) -> Finding:
    from gateway.store.postgres.connection import Database  # noqa: PLC0415 - its driver may be missing
    from gateway.store.postgres.migration import require_writable  # noqa: PLC0415

    try:
        async with Database(store).single(store.migrate_url) as session:
            await require_writable(session)
            return Finding(Weight.OK, "store.migrate_url can be reached")
    except GatewayError as error:
        return Finding(Weight.FAULT, f"store.migrate_url: {error}")


async def _gateway_findings(socket: Path | None) -> list[Finding]:
    """The gateway that answers on *socket*, if there is one."""
    from gateway.cli import client  # noqa: PLC0415 - so that --help is quick

    if socket is None or not await client.is_listening(socket):
        return []
    fault = await client.readiness(socket)
    if fault is None:
        return [Finding(Weight.OK, f"a gateway is running on {socket}, and it is ready")]
    return [Finding(Weight.FAULT, f"a gateway is running on {socket}, but it is not ready: {fault}")]


async def _embedded_findings(settings: Settings) -> list[Finding]:
    from gateway.store.sqlite import inspection  # noqa: PLC0415 - so that --help is quick

    path = settings.store_path
    running = await _gateway_findings(settings.socket_path)
    if running:
        is_ready = running[0].weight is Weight.OK
        return [*running, *(await _served_findings(path, settings.secrets) if is_ready else ())]
    if not inspection.exists(path):
        faults = _parent_findings(path)
        return faults or [Finding(Weight.OK, f"there is no store at {path} yet; `gateway serve` makes it")]
    return [*await _file_findings(path, settings.secrets), *_mode_findings(path)]


async def _file_findings(path: Path, secrets: Secrets) -> list[Finding]:
    from gateway.store.sqlite import inspection  # noqa: PLC0415 - so that --help is quick

    found = await inspection.look_at(path)
    if found.damage is not None:
        return [Finding(Weight.FAULT, f"the store {path} is damaged: {found.damage}; restore it from a backup")]
    if found.pending:
        return [
            Finding(
                Weight.NOTE, f"the store {path} lacks {found.pending} migration(s); `gateway migrate` or `serve` applies them"
            )
        ]
    return [
        Finding(Weight.OK, f"the store {path} is sound and at migration {found.migration}; no gateway is running on it"),
        *sealing_findings(secrets, found.sealed_with),
    ]


async def _served_findings(path: Path, secrets: Secrets) -> list[Finding]:
    from gateway.store.sqlite import inspection  # noqa: PLC0415 - so that --help is quick

    if inspection.exists(path):
        return [*sealing_findings(secrets, await inspection.sealed_beside(path)), *_mode_findings(path)]
    return [
        Finding(
            Weight.FAULT,
            f"there is no store at {path}: the running gateway was started with another `store.url`, or its file was removed",
        )
    ]


def _mode_findings(path: Path) -> list[Finding]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return [Finding(Weight.FAULT, f"the store {path} cannot be looked at: {error.strerror}")]
    if mode & 0o077:
        return [Finding(Weight.NOTE, f"others on this machine may read {path} (mode {mode:04o}), which holds signing secrets")]
    return []


def _parent_findings(path: Path) -> list[Finding]:
    there = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        # Permissions do not tell: /proc takes no files, even from root. What is opened here has no name, or loses it at once.
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        return [Finding(Weight.FAULT, f"{there} cannot be written to, so the store cannot be made: {error.strerror}")]
    return []
