"""Which addresses are refused, and which spellings of them are seen through."""

from ipaddress import ip_address

import pytest

from gateway.egress.addresses import AddressGuard, literal_address


def words(text: str) -> list[str]:
    return text.split()


# The first and last address of every refused range, and what lies right beside it.
REFUSED = words(
    """
    0.0.0.0 0.0.0.1 0.255.255.255 10.0.0.0 10.1.2.3 10.255.255.255 100.64.0.0 100.100.100.200 100.127.255.255
    127.0.0.0 127.0.0.1 127.1.2.3 127.255.255.255 169.254.0.0 169.254.169.254 169.254.170.2 169.254.255.255
    172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.192 192.0.0.255 192.0.2.0 192.0.2.255 192.88.99.0 192.88.99.1
    192.88.99.255 192.168.0.0 192.168.255.255 198.18.0.0 198.19.255.255 198.51.100.0 198.51.100.255 203.0.113.0
    203.0.113.255 224.0.0.0 224.0.0.251 239.255.255.255 240.0.0.0 255.255.255.254 255.255.255.255 168.63.129.16 ::
    ::1 ::2 ::127.0.0.1 ::8.8.8.8 ::ffff:0.0.0.0 ::ffff:10.0.0.1 ::ffff:127.0.0.1 ::ffff:100.64.0.1
    ::ffff:169.254.169.254 ::ffff:192.168.0.1 ::ffff:168.63.129.16 0:0:0:0:0:ffff:7f00:1 ::ffff:7f00:1
    ::ffff:ffff:ffff ::ffff:0:127.0.0.1 64:ff9b::7f00:1 64:ff9b::8.8.8.8 64:ff9b:1::1
    64:ff9b:1:ffff:ffff:ffff:ffff:ffff 100::1 1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 2001:: 2001:0:7f00:1::
    2001:2::1 2001:10::1 2001:20::1 2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff 2001:db8::
    2001:db8:ffff:ffff:ffff:ffff:ffff:ffff 2002:: 2002:7f00:1:: 2002:808:808::
    2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff 3ffe:: 3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff 3fff::
    3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff 4000:: 5f00::1 8000::1 fc00::1 fd00:ec2::254
    fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff fe80::1 fe80::1%eth0 febf::1 fec0::1 ff00:: ff02::1 ff0e::1
    ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 2606:4700::1%eth0 2606:4700::5efe:127.0.0.1 2606:4700::200:5efe:10.0.0.1
    """
)

ALLOWED = words(
    """
    1.0.0.0 1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
    169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.1.255 192.0.3.0
    192.88.98.255 192.88.100.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0
    203.0.112.255 203.0.114.0 223.255.255.255 168.63.129.15 168.63.129.17 ::ffff:8.8.8.8 ::ffff:808:808 2000::
    2000::1 2001:200:: 2001:4860:4860::8888 2001:db7:ffff:ffff:ffff:ffff:ffff:ffff 2001:db9::
    2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff 2003:: 2606:4700:4700::1111 2a00:1450::1
    2606:4700::5efe:8.8.8.8 2606:4700::200:5efe:8.8.8.8 2606:4700::5eff:127.0.0.1 2606:4700::100:5efe:127.0.0.1
    3ffd:ffff:ffff:ffff:ffff:ffff:ffff:ffff 3fff:1000:: 3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
    """
)

NO_ADDRESS = [
    "",
    "localhost",
    "example.com",
    "127.1",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "1.2.3.4.5",
    "[::1]",
    "8.8.8.8 ",
    "8.8.8.8\x00",
    b"\x08",
]


@pytest.mark.parametrize("address", REFUSED)
def test_special_addresses_are_refused(address: str):
    assert not AddressGuard([], []).allows(address)


@pytest.mark.parametrize("address", ALLOWED)
def test_public_addresses_right_beside_them_are_allowed(address: str):
    assert AddressGuard([], []).allows(address)


@pytest.mark.parametrize("text", NO_ADDRESS)
def test_what_is_no_address_is_refused_whatever_is_allowed(text: str | bytes):
    assert not AddressGuard(["0.0.0.0/0", "::/0"], []).allows(text)


def test_every_form_of_an_address_is_judged_alike():
    """Text, packed bytes and objects."""
    guard = AddressGuard([], [])
    for text in ("8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"):
        assert guard.allows(text)
        assert guard.allows(ip_address(text))
        assert guard.allows(ip_address(text).packed)
    for text in ("127.0.0.1", "fe80::1", "::ffff:127.0.0.1"):
        assert not guard.allows(text)
        assert not guard.allows(ip_address(text))
        assert not guard.allows(ip_address(text).packed)


@pytest.mark.parametrize(
    ("allow", "deny", "address", "verdict"),
    [
        (["127.0.0.0/8"], [], "127.0.0.1", True),
        (["127.0.0.0/8"], [], "::ffff:127.0.0.1", True),
        (["127.0.0.0/8"], [], "128.0.0.0", True),
        (["127.0.0.0/8"], [], "10.0.0.1", False),
        (["127.0.0.0/8"], [], "::1", False),
        (["127.0.0.0/8"], [], "::127.0.0.1", False),
        (["127.0.0.0/8"], [], "64:ff9b::7f00:1", False),
        (["::ffff:127.0.0.0/104"], [], "127.0.0.1", True),
        (["::1/128"], [], "::1", True),
        (["::1/128"], [], "127.0.0.1", False),
        (["fd00::/8"], [], "fd00::1", True),
        (["fd00::/8"], [], "fd00::1%eth0", False),
        (["10.0.0.0/8"], ["10.1.0.0/16"], "10.0.0.1", True),
        (["10.0.0.0/8"], ["10.1.0.0/16"], "10.1.0.1", False),
        (["10.1.0.0/16"], ["10.0.0.0/8"], "10.1.0.1", False),
        (["10.0.0.0/8"], ["10.0.0.0/8"], "::ffff:10.0.0.1", False),
        (["0.0.0.0/0"], ["169.254.169.254/32"], "169.254.169.254", False),
        (["0.0.0.0/0"], ["169.254.169.254/32"], "::ffff:a9fe:a9fe", False),
        (["0.0.0.0/0"], ["169.254.169.254/32"], "169.254.169.253", True),
        ([], ["8.8.8.0/24"], "8.8.8.8", False),
        ([], ["8.8.8.0/24"], "::ffff:8.8.8.8", False),
        ([], ["8.8.8.0/24"], "8.8.9.8", True),
        ([], ["::ffff:8.8.8.0/120"], "8.8.8.8", False),
        ([], ["::/0"], "2606:4700:4700::1111", False),
        ([], ["::/0"], "8.8.8.8", True),
        ([], ["0.0.0.0/0"], "2606:4700:4700::1111", True),
        ([], ["0.0.0.0/0"], "8.8.8.8", False),
    ],
)
def test_deny_wins_over_allow_which_wins_over_the_rule(allow: list[str], deny: list[str], address: str, verdict: bool):  # noqa: FBT001
    guard = AddressGuard(allow, deny)
    assert guard.allows(address) is verdict
    assert guard.allows(address) is verdict, "the second time the verdict is remembered"


def test_remembered_verdicts_do_not_grow_without_end():
    guard = AddressGuard([], [])
    for number in range(40_000):
        guard.allows(number.to_bytes(4, "big"))
    assert len(guard._verdicts) <= 16_384


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        (" 127.0.0.1 ", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("127.0.0.1..", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("127.0.1", "127.0.0.1"),
        ("127.1.", "127.0.0.1"),
        ("127.65535", "127.0.255.255"),
        ("127.16777215", "127.255.255.255"),
        ("1.2.65535", "1.2.255.255"),
        ("2130706433", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0X7F000001", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("0x7f.0x0.0x0.0x1", "127.0.0.1"),
        ("0x7f.0.0.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("0177.1", "127.0.0.1"),
        ("00000177.0.0.01", "127.0.0.1"),
        ("0300.0250.0.1", "192.168.0.1"),
        ("0xa9.0xfe.0xa9.0xfe", "169.254.169.254"),
        ("0xA9FEA9FE", "169.254.169.254"),
        ("2852039166", "169.254.169.254"),
        ("169.254.43518", "169.254.169.254"),
        ("0", "0.0.0.0"),
        ("0.0", "0.0.0.0"),
        ("0x", "0.0.0.0"),
        ("0x.0x.0x.0x", "0.0.0.0"),
        ("4294967295", "255.255.255.255"),
        ("0xffffffff", "255.255.255.255"),
        ("127.0.0.08", "127.0.0.8"),
        ("127.0.0.010", "127.0.0.8"),
        ("\uff11\uff12\uff17.\uff10.\uff10.\uff11", "127.0.0.1"),
        ("127\u30020\u30020\u30021", "127.0.0.1"),
        ("127\uff0e0\uff0e0\uff0e1", "127.0.0.1"),
        ("127\uff610\uff610\uff611", "127.0.0.1"),
        ("\u2460\u2461\u2466.\u24ea.0.1", "127.0.0.1"),
        ("\U0001d7cf\U0001d7d0\U0001d7d5.0.0.1", "127.0.0.1"),
        ("\uff10\uff58\uff17\uff46.1", "127.0.0.1"),
        ("127.0.0\u00ad.1", "127.0.0.1"),
        ("127\u200b.0.0.1", "127.0.0.1"),
        ("127.0.0.1\ufe0f", "127.0.0.1"),
        ("%31%32%37.0.0.1", "127.0.0.1"),
        ("127%2e0%2E0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("[0000:0000::0001]", "::1"),
        ("[::127.0.0.1]", "::127.0.0.1"),
        ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1"),
        ("[::FFFF:7F00:1]", "::ffff:127.0.0.1"),
        ("[fe80::1%eth0]", "fe80::1%eth0"),
        ("[fe80::1%25eth0]", "fe80::1%eth0"),
        ("[\uff1a\uff1a1]", "::1"),
        ("[FD00::1]", "fd00::1"),
        ("8.8.8.8", "8.8.8.8"),
        ("[2606:4700:4700::1111]", "2606:4700:4700::1111"),
    ],
)
def test_every_spelling_of_a_literal_address_is_seen_through(host: str, address: str):
    assert literal_address(host) == ip_address(address)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "localhost",
        "example.com",
        "127.0.0.1.example.com",
        "1.2.3.4.5",
        "127..1",
        ".127.0.0.1",
        "256.0.0.1",
        "127.0.0.256",
        "127.256.1",
        "127.16777216",
        "4294967296",
        "0x100000000",
        "0xg",
        "0x7f000001.example",
        "-1",
        "+1",
        "1e3",
        "1_000",
        "127.0.0.1a",
        "[::1::]",
        "[::ffff:0x7f.1]",
        "b\u00fccher.example",
        "9" * 5_000,
        "0x" + "0" * 5_000,
    ],
)
def test_names_are_not_taken_for_addresses(host: str):
    assert literal_address(host) is None


def test_a_zone_makes_every_address_a_forbidden_one():
    """A zone picks an interface of this machine, which nobody outside has to do with."""
    address = literal_address("[2606:4700:4700::1111%25eth0]")
    assert address is not None
    assert not AddressGuard(["::/0"], []).allows(address)
