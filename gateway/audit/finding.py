"""What an audit may find: a name for each kind, what it means, and what to do about it."""

from enum import Enum

import msgspec

from gateway.model import Tenant


class Kind(Enum):
    """A kind of finding: its name, what it means, and what to do. To add one: here, and in the table of docs/operating.md, which
    a test compares."""

    DELIVERY_MISSING = (
        "delivery_missing",
        "the endpoint wanted this event when it was accepted, and there is no delivery to it",
        "publish the event again, under another externalId if it had one",
    )
    DELIVERY_SURPLUS = (
        "delivery_surplus",
        "the endpoint did not want this event when it was accepted, and there is a delivery to it",
        "tell the receiver if it was delivered",
    )
    DELIVERY_DOUBLED = (
        "delivery_doubled",
        "the event has more than one delivery to this endpoint",
        "tell the receiver: it has the event twice, under one webhook-id",
    )
    EVENT_MISSING = (
        "event_missing",
        "the event of this delivery is not on record: no attempt of it can be made",
        "publish the event again from where it came from",
    )
    ENDPOINT_MISSING = (
        "endpoint_missing",
        "the organization has no such endpoint, not even a deleted one",
        "restore the store from a backup, or create the endpoint anew",
    )
    ENDPOINT_DIFFERS = (
        "endpoint_differs",
        "the endpoint is not as its last revision says",
        "update the endpoint to what it should be: that writes a revision",
    )
    REVISION_MISSING = (
        "revision_missing",
        "a change of an endpoint is not on record: what events matched since cannot be proven",
        "restore the store from a backup if it has the revision",
    )
    STATE_UNLAWFUL = (
        "state_unlawful",
        "the delivery's state does not follow from what happened to it",
        "`gateway deliveries show`, then `gateway deliveries retry` if the receiver lacks the event",
    )
    COUNT_WRONG = (
        "count_wrong",
        "the delivery does not count its attempts right, so that it is tried too often or not often enough",
        "`gateway deliveries retry` if the receiver lacks the event",
    )
    ATTEMPT_MISSING = (
        "attempt_missing",
        "the numbers of the delivery's attempts have a gap, or one stands twice",
        "nothing: what the attempt was is lost, and its delivery goes on",
    )
    QUEUE_LACKS_DELIVERY = (
        "queue_lacks_delivery",
        "the delivery waits, and the queue of due work does not have it as it is: it will not be sent when it is due",
        "`gateway deliveries retry`",
    )
    DELIVERY_OF_QUEUE_MISSING = (
        "delivery_of_queue_missing",
        "the queue of due work has what is no pending delivery",
        "look at the delivery; it may be sent once more",
    )
    DELIVERY_OF_ATTEMPT_MISSING = (
        "delivery_of_attempt_missing",
        "the delivery of these attempts is not on record",
        "find out from the attempts' webhook-id which event it was, and publish it again if the receiver lacks it",
    )
    DELIVERY_OF_RETRY_MISSING = (
        "delivery_of_retry_missing",
        "a retry by hand waits for a delivery that is not on record",
        "nothing: it cannot be made",
    )
    EXTERNAL_ID_ASTRAY = (
        "external_id_astray",
        "the external id does not lead to its event: publishing it again would make it happen twice",
        "do not publish it again",
    )

    def __init__(self, word: str, meaning: str, remedy: str) -> None:
        self.word = word
        self.meaning = meaning
        self.remedy = remedy


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it has to be."""

    kind: Kind
    tenant: Tenant
    id: str  # of the event, delivery, endpoint or retry; of a revision its number
    detail: str  # what was found, beside the kind's meaning

    @property
    def sentence(self) -> str:
        """All of it on one line."""
        where = f"{self.tenant.organization_id}/{self.tenant.mode}"
        return f"{self.kind.word} {self.id} ({where}): {self.detail}; {self.kind.meaning}. To do: {self.kind.remedy}."
