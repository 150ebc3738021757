"""What can go wrong, as nouns with a sentence. Each edge translates into these once: drivers' errors in `store`,
aiohttp's in `egress`; `api.problems` turns them into answers."""

from enum import StrEnum


class GatewayError(Exception):
    """Anything the gateway refuses or fails to do, in a sentence that a person can act on."""


class SettingsError(GatewayError):
    """A setting is unknown or has a wrong value; the sentence names it."""


class QueueFull(GatewayError):
    """The event queue is full; the publisher should slow down and try again after `retry_after_seconds`."""

    retry_after_seconds = 1


class StoreTrouble(StrEnum):
    """What is the matter with a store, in words that anybody may hear: no file, no host, no statement."""

    FULL = "the store's disk is full"
    READ_ONLY = "the store can only be read"
    MOVED = "the store's file was deleted, or another one is in its place"
    LOCKED = "another process has locked the store"
    DAMAGED = "the store's disk does not work, or its file is damaged"
    UNREACHABLE = "the store's server cannot be reached"
    SLOW = "the store does not answer in time"
    OTHER = "the store does not answer"


class StoreUnavailable(GatewayError):
    """The store cannot commit or answer at the moment; nothing of the refused request was kept. `trouble` says what is the
    matter, as far as that is known."""

    retry_after_seconds = 2

    def __init__(self, message: str = "", trouble: StoreTrouble = StoreTrouble.OTHER) -> None:
        super().__init__(message)
        self.trouble = trouble


class Stopping(StoreUnavailable):
    """The gateway is stopping and takes no more work; another node, or this one after its restart, will."""


class SecretUnreadable(StoreUnavailable):
    """A secret in the store is encrypted with a key that `secrets.encryption_key` lacks, or is damaged."""


class TransactionConflict(GatewayError):
    """Two transactions stood in each other's way, and the database gave this one up; it is to be run again."""


class ReservationLapsed(GatewayError):
    """The idempotency key was handed to another request while this one seemed dead; its answer is the one that counts."""

    retry_after_seconds = 1


class StoreLocked(GatewayError):
    """Another gateway process holds the store's file."""


class BackupRefused(GatewayError):
    """A backup cannot be written where it was asked for; the sentence follows the word `path`."""


class SchemaMismatch(GatewayError):
    """The store's schema is newer than this version, or something else's, or a migration was changed after it was applied."""


class InvalidEvent(GatewayError):
    """An event that cannot be accepted; `faults` lists each field with what is wrong with it."""

    def __init__(self, faults: list[tuple[str, str]], *, too_large: bool = False) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message in faults))
        self.faults = faults
        self.too_large = too_large


class InvalidHeaders(GatewayError):
    """Headers of an endpoint that cannot be; `faults` lists each field with what is wrong with it."""

    def __init__(self, faults: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message in faults))
        self.faults = faults


class EndpointNotFound(GatewayError):
    """No such endpoint in this organization and mode."""


class RotationInProgress(GatewayError):
    """The secret before the endpoint's current one is still in force, and two at a time are the most."""


class DeliveryNotFound(GatewayError):
    """No such delivery in this organization and mode."""


class KeyNotFound(GatewayError):
    """No such API key within the caller's reach."""


class TooManyEndpoints(GatewayError):
    """The organization has as many endpoints as `limits.endpoints_per_organization` allows."""


def no_such(what: str, id_: str) -> str:
    """The sentence for an id that is not there; a text that can be no id is not shown."""
    return f"there is no {what} '{id_}'" if id_.isprintable() else f"there is no {what} with this id"
