"""The request as it goes over the wire."""

import pytest
from yarl import URL

from gateway.egress.exchange import Target, render


async def test_a_request_is_its_head_and_its_body():
    """The path with its query and the host with its port stand as the URL has them; the length is the body's."""
    target = Target(URL("http://endpoint.example:8080/hooks?a=b%20c"), user_agent="gateway/1")
    assert render(target, {"Content-Type": "application/json", "webhook-id": "whev_1"}, b'{"a":1}') == (
        b"POST /hooks?a=b%20c HTTP/1.1\r\n"
        b"Host: endpoint.example:8080\r\n"
        b"User-Agent: gateway/1\r\n"
        b"Content-Type: application/json\r\n"
        b"webhook-id: whev_1\r\n"
        b"Content-Length: 7\r\n"
        b"\r\n"
        b'{"a":1}'
    )


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://endpoint.example/", "endpoint.example"),
        ("https://endpoint.example:443/", "endpoint.example"),
        ("https://[2606:4700::1]:8443/", "[2606:4700::1]:8443"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
    ],
)
async def test_the_host_is_written_as_http_wants_it(url: str, host: str):
    """Without the port of the scheme, an IPv6 address in brackets, a name in ASCII (RFC 9110, section 7.2)."""
    assert f"\r\nHost: {host}\r\n" in Target(URL(url), user_agent="gateway/1").head


@pytest.mark.parametrize("value", ["a\r\nX-Injected: 1", "a\nb", "a\rb", "a\r\n"])
async def test_no_header_breaks_out_of_its_line(value: str):
    """A line break in a name or a value is refused, so that nobody can add a header or a second request."""
    target = Target(URL("http://endpoint.example/"), user_agent="gateway/1")
    with pytest.raises(ValueError, match="line break"):
        render(target, {"X-Commet-Event": value}, b"{}")
    with pytest.raises(ValueError, match="line break"):
        render(target, {value: "a"}, b"{}")
