"""What the benchmark sends, and how both of its ends find their way in it."""

import json

import pytest

from gateway.delivery.body import render_body
from gateway.model import AcceptedEvent, Mode, Tenant
from gateway.settings import Api
from scripts.benchmarks.bare_client import post_request
from scripts.benchmarks.http_message import Unreadable, find_message
from scripts.benchmarks.payload import EVENT_TYPE, ORGANIZATION, delivery_body, event_data, find_sent_at


def test_two_messages_in_one_read_are_told_apart():
    """The second begins where the first ends."""
    first, second = post_request("/a", b"one"), post_request("/b", b"")
    data = first + second
    assert find_message(data, 0) == (len(first) - 3, len(first))
    assert find_message(data, len(first)) == (len(data), len(data))


@pytest.mark.parametrize("missing", [1, 3, 5, 40])
def test_a_message_of_which_a_part_is_missing_is_waited_for(missing):
    """Whether the cut goes through its body or its head."""
    assert find_message(post_request("/a", b"four")[:-missing], 0) is None


def test_a_message_without_a_length_is_refused():
    """It would be counted wrong."""
    with pytest.raises(Unreadable):
        find_message(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0)


def test_the_time_of_sending_is_found_again():
    """In the data and in the body of a delivery, both of which are JSON; and nowhere else."""
    for made in (event_data(123_456_789), delivery_body(123_456_789)):
        assert json.loads(made)
        assert find_sent_at(made, 0, len(made)) == 123_456_789
    assert find_sent_at(b'{"sentAt":"yesterday, as it were"}', 0, 34) is None
    assert find_sent_at(b"{}", 0, 2) is None


def test_the_baseline_posts_what_the_gateway_would_send():
    """Bodies of the same size, or the comparison would not be fair."""
    event = AcceptedEvent(
        id="whev_0AbCdEfGhIjKlMnOpQrStUvW",
        tenant=Tenant(ORGANIZATION, Mode.LIVE),
        type=EVENT_TYPE,
        timestamp=1_774_449_000_000,
        external_id=None,
        data=event_data(7),
        created_at=1_774_449_000_000,
    )
    assert render_body(event, Api().versions[-1]) == delivery_body(7)
