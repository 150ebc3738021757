"""A name server that answers as a test says: on loopback, in the test's own event loop."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Self

A, CNAME = 1, 5


class NameServer(asyncio.DatagramProtocol):
    """Knows the addresses of *names*; says nothing about those that have none, and that all others do not exist.

    A name in *aliases* is another name for one of them. The addresses of a name in *then* change to these once it has been
    asked for its IPv4 addresses.
    """

    transport: asyncio.DatagramTransport
    port: int

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self.names: dict[str, Sequence[str]] = dict(names)
        self.aliases: dict[str, str] = {}
        self.then: dict[str, Sequence[str]] = {}
        self.asked: list[str] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, names: Mapping[str, Sequence[str]]) -> AsyncIterator[Self]:
        loop = asyncio.get_running_loop()
        transport, server = await loop.create_datagram_endpoint(lambda: cls(names), ("127.0.0.1", 0))
        server.port = transport.get_extra_info("sockname")[1]
        try:
            yield server
        finally:
            transport.close()
            await asyncio.sleep(0)  # the transport closes its socket in the turn after

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        labels, position = [], 12
        while data[position]:
            labels.append(data[position + 1 : position + 1 + data[position]].decode())
            position += 1 + data[position]
        name = ".".join(labels)
        (kind,) = struct.unpack_from("!H", data, position + 1)
        question = data[12 : position + 5]
        self.asked.append(name)
        alias = self.aliases.get(name)
        known = self.names.get(alias or name)
        if known is not None and not known:
            return
        records, owner = [], b"\xc0\x0c"  # the name in the question
        if alias is not None:
            records.append(_record(owner, CNAME, _encoded(alias)))
            owner = _encoded(alias)
        packed = [ip_address(address).packed for address in known or ()]
        records += [_record(owner, kind, address) for address in packed if len(address) == (4 if kind == A else 16)]
        if name in self.then and kind == A:
            self.names[name] = self.then.pop(name)
        flags = 0x8180 if known else 0x8183
        head = data[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0)
        self.transport.sendto(head + question + b"".join(records), addr)


def _record(owner: bytes, kind: int, data: bytes) -> bytes:
    # To be kept for 0 s: the resolver's library has a cache of its own, which goes by this.
    return owner + struct.pack("!HHIH", kind, 1, 0, len(data)) + data


def _encoded(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
