"""The operation on backups: for operators at the machine, since it writes a file there."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import structlog
from msgspec import Meta

from gateway.api.dialects import Answer
from gateway.api.json_body import NO_NUL
from gateway.api.operations import Call, Operation, TenantIn, one
from gateway.api.parts import ApiParts
from gateway.api.problems import UNAVAILABLE, Problem, invalid
from gateway.errors import BackupRefused, StoreUnavailable
from gateway.model import AuditAction
from gateway.registry.audit import Note

log = structlog.get_logger()

MAX_PATH = 4_095
"""Bytes that a path may have: PATH_MAX, limits.h, without the NUL at its end."""


class NewBackup(msgspec.Struct, frozen=True):
    """A backup to make."""

    path: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_PATH,
            pattern=NO_NUL,
            description="an absolute path, of a file that is not there yet, on the gateway's machine",
        ),
    ]


class BackupView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A backup as the API shows it."""

    object: Literal["backup"] = "backup"
    path: str
    bytes: int
    seconds: Annotated[float, Meta(description="that it took")]


class Backups:
    """Copies the store into files of the gateway's machine."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts

    def operations(self) -> list[Operation]:
        """What can be done with backups."""
        return [
            Operation(
                name="create_backup",
                method="POST",
                path="/backups",
                permission=None,
                handler=self.create,
                summary="Copy the store into a new file on the gateway's machine",
                description="Answered once the copy is whole and on disk.",
                body=NewBackup,
                answers=(one(BackupView, 201),),
                tenant_in=TenantIn.NOWHERE,
                for_all_tenants=True,
                for_operators=True,
            )
        ]

    async def create(self, call: Call) -> Answer:
        body = call.read_body(NewBackup)
        if not body.values.get("path", "/").startswith("/"):
            body.refuse("path", "must be absolute")
        path = body.whole().path
        if self._parts.backup is None:
            raise invalid(
                [("path", "is of no use: the store is a PostgreSQL, which is backed up with its own tools (`pg_dump`)")]
            )
        began = self._parts.clock.monotonic()
        try:
            size = await self._parts.backup(Path(path))
        except BackupRefused as error:
            raise invalid([("path", str(error))]) from error
        except StoreUnavailable as error:
            # Whoever asks is the operator: why it failed is for him.
            raise Problem(UNAVAILABLE, str(error), headers=[("Retry-After", str(error.retry_after_seconds))]) from error
        seconds = round(self._parts.clock.monotonic() - began, 3)
        await self._note(call, path)
        return call.dialect.one(BackupView(path=path, bytes=size, seconds=seconds), status=201)

    async def _note(self, call: Call, path: str) -> None:
        """Writes down whose backup it is. The backup is there, whether the store can take that or not."""
        try:
            await self._parts.writer.change(Note(AuditAction.BACKUP_CREATED, path, call.actor, call.now))
        except StoreUnavailable as error:
            log.warning("audit.missed", action=AuditAction.BACKUP_CREATED, target_id=path, actor=call.actor.id, error=str(error))
