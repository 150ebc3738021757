"""What can go wrong, as nouns with a sentence. Each edge translates into these once: drivers' errors in `store`,
aiohttp's in `egress`; `api.problems` turns them into answers."""


class GatewayError(Exception):
    """Anything the gateway refuses or fails to do, in a sentence that a person can act on."""


class SettingsError(GatewayError):
    """A setting is unknown or has a wrong value; the sentence names it."""


class QueueFull(GatewayError):
    """The event queue is full; the publisher should slow down and try again after `retry_after_seconds`."""

    retry_after_seconds = 1


class StoreUnavailable(GatewayError):
    """The store cannot commit or answer at the moment; nothing of the refused request was kept."""

    retry_after_seconds = 2


class Stopping(StoreUnavailable):
    """The gateway is stopping and takes no more work; another node, or this one after its restart, will."""


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


class EndpointNotFound(GatewayError):
    """No such endpoint in this organization and mode."""


class DeliveryNotFound(GatewayError):
    """No such delivery in this organization and mode."""


class KeyNotFound(GatewayError):
    """No such API key within the caller's reach."""


class TooManyEndpoints(GatewayError):
    """The organization has as many endpoints as `limits.endpoints_per_organization` allows."""
