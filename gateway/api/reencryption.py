"""The operation that encrypts the store's secrets anew: for operators at the machine, who have its keys."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.api.dialects import Answer
from gateway.api.operations import Call, Operation, TenantIn, one
from gateway.api.parts import ApiParts
from gateway.api.problems import UNAVAILABLE, Problem, invalid
from gateway.api.vocabulary import Count
from gateway.errors import StoreUnavailable
from gateway.model import AuditAction
from gateway.registry.audit import Note
from gateway.settings import IN_CLEAR

_NO_KEY = (
    "is empty: there is no key to encrypt with; `gateway secrets new-key` prints one. A gateway that is running has to be "
    "restarted with it first"
)


class ReencryptionView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A reencryption as the API shows it."""

    object: Literal["reencryption"] = "reencryption"
    key_name: Annotated[str | None, Meta(description="null: the first of the keys is `clear`")]
    webhooks: Annotated[Count, Meta(description="all that there are, deleted ones included")]
    reencrypted: Annotated[Count, Meta(description="those that were in clear before, or encrypted with another key")]
    seconds: Annotated[float, Meta(description="that it took")]


class Reencryption:
    """Encrypts secrets anew."""

    def __init__(self, parts: ApiParts) -> None:
        self._parts = parts

    def operations(self) -> list[Operation]:
        """What can be done with stored secrets."""
        return [
            Operation(
                name="reencrypt_secrets",
                method="POST",
                path="/secrets/reencrypt",
                permission=None,
                handler=self.run,
                summary="Encrypt all secrets in the store anew, with the first of the gateway's keys",
                description="Answered once all of it is done.",
                answers=(one(ReencryptionView),),
                tenant_in=TenantIn.NOWHERE,
                for_all_tenants=True,
                for_operators=True,
            )
        ]

    async def run(self, call: Call) -> Answer:
        call.check()
        if not self._parts.settings.secrets.encryption_key:
            raise invalid([("secrets.encryption_key", _NO_KEY)])
        began = self._parts.clock.monotonic()
        try:
            done = await self._parts.reencrypt()
            target = done.key_name or IN_CLEAR
            await self._parts.writer.change(Note(AuditAction.SECRETS_REENCRYPTED, target, call.actor, call.now))
        except StoreUnavailable as error:
            # Whoever asks is the operator: why it failed is for him.
            raise Problem(UNAVAILABLE, str(error), headers=[("Retry-After", str(error.retry_after_seconds))]) from error
        seconds = round(self._parts.clock.monotonic() - began, 3)
        return call.dialect.one(
            ReencryptionView(key_name=done.key_name, webhooks=done.seen, reencrypted=done.resealed, seconds=seconds)
        )
