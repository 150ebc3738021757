"""Where a request is said to come from."""

from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from gateway.api.client_address import ClientAddresses

PROXIES = ("10.0.0.0/8", "fd00::/8")


class _Transport:
    """A connection from *peer*."""

    def __init__(self, peer: Any) -> None:
        self._peer = peer

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._peer if name == "peername" else default


def request_from(peer: Any, *forwarded: str) -> web.Request:
    headers = CIMultiDict([("X-Forwarded-For", value) for value in forwarded])
    transport: Any = _Transport(peer)
    return make_mocked_request("GET", "/", headers=headers, transport=transport)


def client(peer: Any, *forwarded: str, trusted: tuple[str, ...] = PROXIES) -> str | None:
    return ClientAddresses(trusted).of(request_from(peer, *forwarded))


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        (("198.51.100.7", 4000), (), "198.51.100.7"),
        (("198.51.100.7", 4000), ("203.0.113.9",), "198.51.100.7"),
        (("10.0.0.1", 4000), ("203.0.113.9",), "203.0.113.9"),
        (("10.0.0.1", 4000), ("192.0.2.1, 203.0.113.9",), "203.0.113.9"),
        (("10.0.0.1", 4000), ("192.0.2.1, 203.0.113.9, 10.0.0.2",), "203.0.113.9"),
        (("10.0.0.1", 4000), ("192.0.2.1", "203.0.113.9"), "203.0.113.9"),
        (("10.0.0.1", 4000), (), "10.0.0.1"),
        (("10.0.0.1", 4000), ("unknown",), "10.0.0.1"),
        (("10.0.0.1", 4000), ("10.0.0.3",), "10.0.0.3"),
        (("10.0.0.1", 4000), ("203.0.113.9:5123",), "203.0.113.9"),
        (("10.0.0.1", 4000), ("[2001:db8::1]:5123",), "2001:db8::1"),
        (("::ffff:10.0.0.1", 4000, 0, 0), ("203.0.113.9",), "203.0.113.9"),
        (("fd00::1", 4000, 0, 0), ("2001:db8::1",), "2001:db8::1"),
        ("", (), None),
    ],
)
def test_the_client_is_the_first_that_is_no_trusted_proxy(peer: Any, forwarded: tuple[str, ...], expected: str | None):
    """Only what a trusted proxy has added is believed, and over a Unix socket there is no address."""
    assert client(peer, *forwarded) == expected


def test_without_trusted_proxies_nobody_is_believed():
    """X-Forwarded-For of anybody is what anybody can write."""
    assert client(("10.0.0.1", 4000), "203.0.113.9", trusted=()) == "10.0.0.1"


def test_who_has_hung_up_has_been_somewhere():
    """A client that does not wait for its answer is as well known as any."""
    request = request_from(("198.51.100.7", 4000))
    request.protocol.transport = None
    assert request.transport is None
    assert ClientAddresses(()).of(request) == "198.51.100.7"
