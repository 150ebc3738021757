"""Ways to name what deliveries must never reach: addresses of every refused range, and hosts and URLs that mean one of them.

Sources: the registries and forms of `gateway/egress/addresses.py`, RFC 6052 (NAT64), RFC 3056 (6to4), RFC 4380 (Teredo), RFC 5214
(ISATAP), `inet_aton`, UTS #46, and what clouds document of their metadata services.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

_IPV4 = """
0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24
192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 168.63.129.16/32
"""
_IPV6 = """
::/128 ::1/128 ::/96 ::ffff:0:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/23 2001::/32 2001:2::/48 2001:10::/28
2001:20::/28 2001:db8::/32 2002::/16 3ffe::/16 3fff::/20 5f00::/16 fc00::/7 fd00:ec2::254/128 fe80::/10 fec0::/10 ff00::/8
4000::/2 8000::/1
"""
_OTHERS = """
0 0.0 0x 0x0 00 0.0.0.0 [::] [0::0] [::0.0.0.0] 127.1 127.0.1 [::01] [0:0:0:0:0:0:0:1] [0000:0000::0001] [FE80::A9FE:A9FE]
[::1%25lo] [::1%lo] [fe80::1%25eth0] [fe80::1%eth0] [2606:4700::1%25lo]
"""

INSIDE = ("127.0.0.1", "10.0.0.1", "192.168.0.1", "169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16")
"""Loopback, private networks, and the metadata services and agents of clouds."""


def _in_each(network: IPv4Network | IPv6Network) -> Iterator[str]:
    """Its first address, one in the middle, its last."""
    for offset in (0, network.num_addresses // 2, network.num_addresses - 1):
        yield str(network.network_address + offset)


ADDRESSES = tuple(
    dict.fromkeys(
        [
            *(address for text in _IPV4.split() for address in _in_each(IPv4Network(text))),
            *(address for text in _IPV6.split() for address in _in_each(IPv6Network(text))),
            *INSIDE,
        ]
    )
)
"""As text, each once."""


def embedded(address: str) -> Iterator[str]:
    """The IPv6 addresses that hold this IPv4 address."""
    inner = int(IPv4Address(address))
    nat64, nat64_local = int(IPv6Address("64:ff9b::")), int(IPv6Address("64:ff9b:1::"))
    for outer in (
        inner,  # compatible
        0xFFFF << 32 | inner,  # mapped
        0xFFFF << 48 | inner,  # translated
        nat64 | inner,
        nat64_local | inner,
        nat64_local | (inner >> 16) << 64 | (inner & 0xFFFF) << 40,  # of a network's own, in a /48
        0x2002 << 112 | inner << 80,  # 6to4
        0x20010000 << 96 | inner << 64 | 0x8000 << 48 | 0x5F5F << 32 | 0x5F5F5F5F,  # Teredo: its server
        0x20010000 << 96 | 0x41414141 << 64 | 0x8000 << 48 | 0x5F5F << 32 | (inner ^ 0xFFFFFFFF),  # Teredo: its client
        0xFE80 << 112 | 0x5EFE << 32 | inner,  # ISATAP
        0x26064700 << 96 | 0x5EFE << 32 | inner,  # ISATAP below a public prefix
        0x26064700 << 96 | 0x02005EFE << 32 | inner,
    ):
        yield str(IPv6Address(outer))


def spellings(address: str) -> Iterator[str]:
    """Hosts of URLs that mean this IPv4 address."""
    a, b, c, d = (int(part) for part in address.split("."))
    number = int(IPv4Address(address))
    yield str(number)
    yield f"0x{number:x}"
    yield f"0X{number:08X}"
    yield f"0{number:o}"
    yield f"{a}.{number & 0xFFFFFF}"
    yield f"{a}.{b}.{number & 0xFFFF}"
    yield f"0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}"
    yield f"0{a:o}.0{b:o}.0{c:o}.0{d:o}"
    yield f"0x{a:x}.{b}.0{c:o}.{d}"
    yield f"000000{a:o}.000{b:o}.0{c:o}.00{d:o}"
    yield f"0x{a:08x}.{number & 0xFFFFFF}"
    yield f"{address}."
    yield f"{address}.."
    yield address.translate({ord("0") + digit: 0xFF10 + digit for digit in range(10)})  # full-width digits
    yield address.translate({ord("0") + digit: 0x1D7CE + digit for digit in range(10)})  # mathematical ones
    yield address.replace("1", "\N{CIRCLED DIGIT ONE}")
    yield address.replace("1", "\N{SUPERSCRIPT ONE}")
    for stop in ("\N{IDEOGRAPHIC FULL STOP}", "\N{FULLWIDTH FULL STOP}", "\N{HALFWIDTH IDEOGRAPHIC FULL STOP}"):
        yield address.replace(".", stop)
    yield address.replace(".", "%2e")
    yield "".join(f"%{ord(character):02X}" for character in address)
    yield address.replace(".", "%E3%80%82")
    yield address.replace(".", "\N{SOFT HYPHEN}.", 1)
    yield address.replace(".", "\N{ZERO WIDTH SPACE}.", 1)
    yield f"[::ffff:{address}]"
    yield f"[::FFFF:{number >> 16:X}:{number & 0xFFFF:X}]"
    yield f"[0:0:0:0:0:ffff:{address}]"
    yield f"[0000:0000:0000:0000:0000:ffff:{number >> 16:04x}:{number & 0xFFFF:04x}]"
    yield f"[64:ff9b::{address}]"
    yield f"[::{address}]"
    for outer in embedded(address):
        yield f"[{outer}]"


HOSTS = tuple(
    dict.fromkeys(
        [
            *(f"[{address}]" if ":" in address else address for address in ADDRESSES),
            *(host for address in INSIDE for host in spellings(address)),
            *_OTHERS.split(),
        ]
    )
)
"""Hosts that are addresses, in some spelling."""

NAMES = {
    "localhost": (),
    "LOCALHOST": (),
    "localhost.": (),
    "a.localhost": (),
    "a.b.localhost.": (),
    "\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54": (),  # full-width
    "\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3": (),  # circled
    "loc%61lhost": (),
    "localhost.localdomain": ("127.0.0.1",),
    "ip6-localhost": ("::1",),
    "metadata.google.internal": ("169.254.169.254", "fd20:ce::254"),
    "metadata.google.internal.": ("169.254.169.254",),
    "METADATA.GOOGLE.INTERNAL": ("169.254.169.254",),
    "metadata.goog": ("169.254.169.254",),
    "metadata": ("169.254.169.254",),
    "instance-data": ("169.254.169.254",),
    "instance-data.ec2.internal": ("169.254.169.254", "fd00:ec2::254"),
    "metadata.azure.internal": ("169.254.169.254",),
    "wireserver.azure.internal": ("168.63.129.16",),
    "metadata.oraclecloud.internal": ("192.0.0.192",),
    "metadata.tencentyun.com": ("169.254.0.23",),
    "100-100-100-200.example": ("100.100.100.200",),
    "kubernetes.default.svc": ("10.96.0.1",),
    "host.docker.internal": ("192.168.65.254",),
    "127.0.0.1.nip.example": ("127.0.0.1",),
    "xn--fa-hia.example": ("127.0.0.1",),
    "fa\u00df.example": ("127.0.0.1",),
}
"""Names, and what they lead to where somebody has set them up; those without an address are known to every resolver."""

URLS = (
    "http://public.example@127.0.0.1:{port}/",
    "http://public.example:80@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}@localhost:{port}/",
    "http://public.example%40127.0.0.1:{port}/",
    "http://public.example:{port}@@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@public.example/",
    "http://127.0.0.1:{port}?@public.example/",
    "http://127.0.0.1:{port}/@public.example/",
    "http://127.0.0.1:{port}\\@public.example/",
    "http://public.example\\@127.0.0.1:{port}/",
    "http://127.0.0.1:{port};@public.example/",
    "http:\\\\127.0.0.1:{port}/",
    "http:/127.0.0.1:{port}/",
    "http:127.0.0.1:{port}/",
    "http:////127.0.0.1:{port}/",
    "http://127.0.0.1%09:{port}/",
    "http://127.0.0.1%00.public.example:{port}/",
    "http://127.0.0.1%23.public.example:{port}/",
    "http://127.0.0.1%2f.public.example:{port}/",
    "http://\t127.0.0.1:{port}/",
    "http://127.0.0.1\n:{port}/",
    "http://[::1]:{port}@127.0.0.1:{port}/",
    "http://[127.0.0.1]:{port}/",
    "http://[::1]127.0.0.1:{port}/",
    "http://127.0.0.1:{port}:80/",
    "http://127.0.0.1:+{port}/",
    "http://127.0.0.1:0{port}/",
    "HTTP://127.0.0.1:{port}/",
    "hTtP://LocalHost:{port}/",
    "https://127.0.0.1:{port}/",
    "ftp://127.0.0.1:{port}/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:{port}/_x",
    "dict://127.0.0.1:{port}/",
    "unix:///run/docker.sock",
    "http+unix://%2Frun%2Fdocker.sock/",
    "ws://127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
)
"""URLs that some reader takes for one of an address inside."""
