"""Where a request comes from: the peer, or what a trusted proxy in between says of it. Pure but for what it is asked about."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from aiohttp import web

Address = IPv4Address | IPv6Address


class ClientAddresses:
    """Knows the reverse proxies of `http.trusted_proxies`, whose X-Forwarded-For is believed. Nobody else's is."""

    def __init__(self, trusted_proxies: Sequence[str]) -> None:
        self._trusted = [ip_network(text) for text in trusted_proxies]

    def of(self, request: web.BaseRequest) -> str | None:
        """The client's address; None over a Unix socket, where there is none.

        Each proxy adds the one that it was asked by at the end of X-Forwarded-For (as de facto standard; RFC 7239, section 5.2
        means the same): from the end on, the first that is no trusted proxy is the client, whatever it has written before.
        """
        # As of the request's beginning: whoever has hung up since has been somewhere, too.
        client = _address(request.remote or "")
        if client is None:
            return None
        for text in reversed(",".join(request.headers.getall("X-Forwarded-For", ())).split(",")):
            if not self._is_trusted(client):
                break
            said = _address(text)
            if said is None:
                break  # no address: whoever wrote it is the last that is known
            client = said
        return str(client)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _address(text: str) -> Address | None:
    """The address in *text*, which may have a port and brackets; a mapped one as the IPv4 address that it is."""
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
