"""Which addresses the gateway may reach. Pure.

An own rule, since `ipaddress.is_global` of Python 3.11 lets through multicast, NAT64 and 6to4 forms of private
addresses, site-local ones and more.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import unquote

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Sources: the IANA special-purpose address registries, and the clouds' documents for the addresses of their own.
_IPV4_REFUSED = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network; 0.0.0.0 reaches the machine itself
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; some clouds' metadata services
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local; most clouds' metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata service
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and the broadcast address
        "168.63.129.16/32",  # a cloud's host agent, on an address that looks public
    )
)
# Everything outside of it is special: loopback, unique local, link-local, multicast, NAT64, …
_IPV6_UNICAST = IPv6Network("2000::/3")
_IPV6_REFUSED = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo (which holds an IPv4 address) among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which holds an IPv4 address
        "3ffe::/16",  # the 6bone of old
        "3fff::/20",  # documentation
    )
)
_MAPPED = IPv6Network("::ffff:0:0/96")
_MAX_VERDICTS = 16_384


class AddressGuard:
    """Judges addresses: *deny* wins over *allow*, which wins over the rule of this module. Of ports, *ports* are allowed.

    An entry for an IPv4 network also holds for the mapped IPv6 form of its addresses (`::ffff:127.0.0.1`).
    """

    def __init__(self, allow: Sequence[str], deny: Sequence[str], *, ports: Sequence[int] = ()) -> None:
        self.ports = ports  # none: all
        self._allow = [_unmapped_network(ip_network(text)) for text in allow]
        self._deny = [_unmapped_network(ip_network(text)) for text in deny]
        self._verdicts: dict[str | bytes | Address, bool] = {}

    def allows(self, address: str | bytes | Address) -> bool:
        """Whether *address* (text, packed, or an object) may be reached. What is no address, or has a zone, may not."""
        verdict = self._verdicts.get(address)
        if verdict is None:
            if len(self._verdicts) >= _MAX_VERDICTS:
                self._verdicts.clear()
            verdict = self._verdicts[address] = self._judge(address)
        return verdict

    def allows_port(self, port: int | None) -> bool:
        """Whether *port* may be reached, at an address that may be."""
        return not self.ports or port in self.ports

    def _judge(self, address: str | bytes | Address) -> bool:
        try:
            given = ip_address(address)
        except ValueError:
            return False
        if isinstance(given, IPv6Address) and given.scope_id is not None:
            return False
        # A mapped address is dialled as the IPv4 address within, so it is that which is judged.
        meant = (given.ipv4_mapped or given) if isinstance(given, IPv6Address) else given
        if _is_in(given, self._deny) or _is_in(meant, self._deny):
            return False
        return _is_in(given, self._allow) or _is_in(meant, self._allow) or _is_public(meant)


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not _is_in(address, _IPV4_REFUSED)
    if address not in _IPV6_UNICAST or _is_in(address, _IPV6_REFUSED):
        return False
    within = _isatap(address)
    return within is None or _is_public(within)


def _isatap(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address to which a machine with an ISATAP interface would send what is for *address* (RFC 5214, section 6.1)."""
    interface = int(address) & 0xFFFF_FFFF_FFFF_FFFF
    return IPv4Address(interface & 0xFFFF_FFFF) if interface >> 32 in {0x0000_5EFE, 0x0200_5EFE} else None


def _unmapped_network(network: Network) -> Network:
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((network.network_address.packed[12:], network.prefixlen - 96))
    return network


def literal_address(host: str) -> Address | None:
    """The address that a URL's *host* means, in any spelling that some resolver would take; None for a name.

    Known are brackets, zones (kept: the guard refuses them), a trailing dot, percent-encoding, digits and dots that
    Unicode normalization turns into ASCII ones, and the forms of `inet_aton`: hexadecimal and octal parts, fewer than four parts.
    """
    text = host.strip().removeprefix("[").removesuffix("]")
    text = text.replace("%25", "%") if ":" in text else unquote(text)
    # As browsers and IDNA do (UTS #46): compatible characters are the same, ignorable ones are nothing.
    text = unicodedata.normalize("NFKC", text).replace("\N{IDEOGRAPHIC FULL STOP}", ".").lower()
    if not text.isascii():
        text = "".join(character for character in text if not _is_ignorable(character))
    if ":" in text:
        try:
            return IPv6Address(text)
        except ValueError:
            return None
    return _ipv4(text.rstrip("."))


def _is_ignorable(character: str) -> bool:
    # Format characters (soft hyphen, zero-width space, …), the grapheme joiner and variation selectors.
    return unicodedata.category(character) == "Cf" or character == "\u034f" or "\ufe00" <= character <= "\ufe0f"


def _ipv4(text: str) -> IPv4Address | None:
    """What `inet_aton` makes of *text*: up to four numbers, the last of which fills the bytes that remain."""
    parts = text.split(".")
    if len(parts) > 4:
        return None
    value = 0
    for position, part in enumerate(parts):
        number = _number(part)
        remaining = 4 - position
        limit = 1 << 8 * (remaining if position == len(parts) - 1 else 1)
        if number is None or number >= limit:
            return None
        value |= number if position == len(parts) - 1 else number << 8 * (remaining - 1)
    return IPv4Address(value)


def _number(text: str) -> int | None:
    if len(text) > 255:
        return None
    if re.fullmatch(r"0x[0-9a-f]*", text):
        return int(text[2:] or "0", 16)
    if re.fullmatch(r"0[0-7]+", text):
        return int(text, 8)
    # A leading zero before an 8 or 9 is no octal number; whoever takes it at all reads it as a decimal one.
    return int(text) if re.fullmatch(r"[0-9]+", text) else None
