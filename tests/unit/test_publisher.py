"""What the room behind the doors accepts, and what it refuses with every fault named."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from gateway.errors import InvalidEvent
from gateway.ids import IdMaker
from gateway.model import AcceptedEvent, Event, Mode, Tenant
from gateway.publishing.event_queue import Seal
from gateway.publishing.event_types import Catalogue
from gateway.publishing.publisher import Publisher
from gateway.publishing.writer import Writer
from gateway.settings import Events
from tests.fakes import START, FakeClock


class RecordingWriter:
    """Commits nothing, and remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[Sequence[AcceptedEvent], Seal | None]] = []

    async def publish(self, events: Sequence[AcceptedEvent], *, seal: Seal | None = None) -> Sequence[AcceptedEvent]:
        self.given.append((events, seal))
        return events


def publisher(*, writer: RecordingWriter | None = None, catalogue: Catalogue | None = None, most: int = 100) -> Publisher:
    return Publisher(
        writer=cast("Writer", writer or RecordingWriter()),
        ids=IdMaker(FakeClock()),
        settings=Events(max_data_bytes=most),
        catalogue=catalogue,
    )


def event(**fields: Any) -> Event:
    return Event(**{"type": "invoice.paid", "data": b"{}", "organization_id": "acme", **fields})


def test_an_event_is_accepted():
    """What is accepted has an id, the time, its tenant, and its data to the byte."""
    accepted = publisher().accept(event(data=b' { "a" : 1 } ', mode=Mode.SANDBOX, external_id="x", timestamp=5))
    assert accepted.id.startswith("whev_")
    assert accepted.tenant == Tenant("acme", Mode.SANDBOX)
    assert (accepted.type, accepted.data, accepted.external_id) == ("invoice.paid", b' { "a" : 1 } ', "x")
    assert (accepted.timestamp, accepted.created_at, accepted.duplicate) == (5, START, False)


def test_an_event_without_a_time_happened_now():
    """An absent timestamp is the time of acceptance; the epoch itself is a timestamp like any other."""
    assert publisher().accept(event()).timestamp == START
    assert publisher().accept(event(timestamp=0)).timestamp == 0


def test_ids_grow_with_acceptance():
    """Events that are accepted one after another sort in that order."""
    subject = publisher()
    made = [subject.accept(event()).id for _ in range(100)]
    assert made == sorted(set(made))


def test_a_mapping_is_encoded():
    """In process, data may be a mapping: it is encoded once."""
    assert publisher().accept(event(data={"a": [1, "é"]})).data == '{"a":[1,"é"]}'.encode()


@pytest.mark.parametrize(
    ("fields", "faulty"),
    [
        ({"type": "invoice"}, ["event"]),
        ({"type": "Invoice.Paid"}, ["event"]),
        ({"mode": "test"}, ["mode"]),
        ({"organization_id": ""}, ["organizationId"]),
        ({"organization_id": "x" * 256}, ["organizationId"]),
        ({"organization_id": "a\0b"}, ["organizationId"]),
        ({"external_id": ""}, ["externalId"]),
        ({"external_id": "x" * 256}, ["externalId"]),
        ({"timestamp": -1}, ["timestamp"]),
        ({"timestamp": 253_402_300_800_000}, ["timestamp"]),
        ({"data": b""}, ["data"]),
        ({"data": b"[]"}, ["data"]),
        ({"data": b'"{"'}, ["data"]),
        ({"data": b"null"}, ["data"]),
        ({"data": b"{"}, ["data"]),
        ({"data": b"{} {}"}, ["data"]),
        ({"data": b'{"a":\xff}'}, ["data"]),
        ({"data": b'{"a":"\xff"}'}, ["data"]),
        ({"data": b'{"a":"\\ud800"}'}, ["data"]),
        ({"data": b"\xef\xbb\xbf{}"}, ["data"]),
        ({"data": b'{"a":' * 10 + b"1"}, ["data"]),
        ({"data": {"a": object()}}, ["data"]),
        ({"data": {"a": "\ud800"}}, ["data"]),
        ({"type": "x", "external_id": "", "timestamp": -1, "data": b"1"}, ["event", "externalId", "timestamp", "data"]),
    ],
)
def test_every_fault_is_named(fields: dict[str, Any], faulty: list[str]):
    """What is wrong is refused, all of it in one answer, and nothing gets an id."""
    with pytest.raises(InvalidEvent) as refused:
        publisher().accept(event(**fields))
    assert [field for field, _ in refused.value.faults] == faulty
    assert not refused.value.too_large


@pytest.mark.parametrize("length", [1, 255])
def test_lengths_at_the_limit_are_accepted(length: int):
    """255 characters are a good organization and a good external id, whatever the letters."""
    accepted = publisher().accept(event(organization_id="é" * length, external_id="é" * length))
    assert accepted.external_id == "é" * length


def test_data_over_its_limit():
    """Data at the limit is accepted; a byte more is refused as too large."""
    subject = publisher(most=20)
    assert subject.accept(event(data=b'{"a":"' + b"x" * 12 + b'"}'))
    with pytest.raises(InvalidEvent) as refused:
        subject.accept(event(data=b'{"a":"' + b"x" * 13 + b'"}'))
    assert refused.value.too_large
    assert refused.value.faults == [("data", "has 21 bytes; the limit is 20")]


def test_deep_data_does_not_break_it():
    """JSON that is nested without end is refused like any other that cannot be read."""
    with pytest.raises(InvalidEvent):
        publisher(most=10**6).accept(event(data=b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"))


@pytest.mark.parametrize("sign", [b"", b"-"])
def test_a_number_of_too_many_digits_is_named(sign: bytes):
    """Data is a JSON object with it, too; 4,300 digits are fine, with the sign counted as one."""
    longest = sign.ljust(4_300, b"1")
    publisher(most=5_000).accept(event(data=b'{"a":[%s]}' % longest))
    with pytest.raises(InvalidEvent) as refused:
        publisher(most=5_000).accept(event(data=b'{"a":[%s1]}' % longest))
    assert refused.value.faults == [("data", "holds a number of more than 4,300 digits, the sign counted as one")]


def test_a_catalogue_limits_the_types():
    """With a catalogue, a type that it does not have is refused by its name."""
    subject = publisher(catalogue=Catalogue({"invoice.paid": "Paid."}))
    assert subject.accept(event())
    with pytest.raises(InvalidEvent) as refused:
        subject.accept(event(type="invoice.sent"))
    assert "'invoice.sent' is not in the catalogue" in str(refused.value)


async def test_publishing_hands_over_to_the_writer():
    """All events of a publication go to the writer together, with what seals them."""
    writer = RecordingWriter()
    subject = publisher(writer=writer)
    events = [subject.accept(event()) for _ in range(3)]
    assert await subject.publish(events) == events
    assert writer.given == [(events, None)]
