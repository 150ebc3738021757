"""What `egress` says of ports, certificates and the pool of connections, over real sockets."""

import asyncio
import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.app import Gateway
from gateway.egress.resolver import GuardedResolver
from gateway.egress.sender import Answer, Sender
from gateway.errors import SettingsError
from gateway.model import AttemptError
from gateway.settings import Egress, Settings, Store
from tests.name_server import NameServer
from tests.receiver import Receiver, ok, until

LOOPBACK = ("127.0.0.0/8",)


async def send(sender: Sender, url: str) -> Answer:
    return await sender.send(url, {"Content-Type": "application/json"}, b"{}", organization_id="org")


# Ports


async def test_other_ports_than_those_allowed_are_never_dialled():
    """By address, by name, with and without a port in the URL; the sentence on record says that it is the port."""
    async with Receiver.open() as receiver:
        async with Sender(Egress(allow=LOOPBACK, allowed_ports=(443, 8443)), timeout_seconds=5) as sender:
            for url in (receiver.url(), receiver.url(host="localhost"), "http://127.0.0.1/"):
                answer = await send(sender, url)
                assert answer.error is AttemptError.ADDRESS_FORBIDDEN
                assert answer.error_message == "The URL's port is not one that the gateway may reach."
        assert receiver.connections == 0
        async with Sender(Egress(allow=LOOPBACK, allowed_ports=(receiver.port,)), timeout_seconds=5) as sender:
            assert (await send(sender, receiver.url())).status == 200


# Certificates


class Authority:
    """A certificate authority of one's own, and a server's certificate from it."""

    def __init__(self, folder: Path) -> None:
        self.ca_file = folder / "ca.pem"
        server_file = folder / "server.pem"
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of one's own")])
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        now = datetime.now(UTC)

        def certificate(subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
            return (
                x509.CertificateBuilder(ca_name, subject, public_key, x509.random_serial_number())
                .not_valid_before(now - timedelta(hours=1))
                .not_valid_after(now + timedelta(days=1))
            )

        constraints = x509.BasicConstraints(ca=True, path_length=0)
        ca = certificate(ca_name, ca_key.public_key()).add_extension(constraints, critical=True).sign(ca_key, SHA256())
        names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        issued = certificate(name, key.public_key()).add_extension(names, critical=False).sign(ca_key, SHA256())
        self.ca_file.write_bytes(ca.public_bytes(Encoding.PEM))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        server_file.write_bytes(issued.public_bytes(Encoding.PEM) + private)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(server_file)

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """The URL of a server with the certificate, which answers 200."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await reader.readuntil(b"\r\n\r\n{}")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=self.server)
        async with server:
            yield f"https://localhost:{server.sockets[0].getsockname()[1]}/"


async def test_a_private_authority_is_trusted_when_its_certificate_is_given(tmp_path: Path):
    """And not otherwise; the system's authorities are trusted all the same."""
    authority = Authority(tmp_path)
    async with authority.serve() as url:
        async with Sender(Egress(allow=LOOPBACK, ca_file=str(authority.ca_file)), timeout_seconds=5) as sender:
            assert (await send(sender, url)).status == 200
            system = ssl.create_default_context().cert_store_stats()["x509_ca"]
            assert sender._tls.cert_store_stats()["x509_ca"] == system + 1
        async with Sender(Egress(allow=LOOPBACK), timeout_seconds=5) as sender:
            answer = await send(sender, url)
            assert answer.error is AttemptError.TLS_FAILED
            assert "unable to get local issuer certificate" in (answer.error_message or "")


def _missing(path: Path) -> str:
    return f"{path} cannot be read: No such file or directory"


def _folder(path: Path) -> str:
    path.mkdir()
    return f"{path} cannot be read: Is a directory"


def _empty(path: Path) -> str:
    path.touch()
    return f"{path} holds no certificates in PEM, or a broken one"


def _text(path: Path) -> str:
    path.write_text("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
    return f"{path} holds no certificates in PEM, or a broken one"


@pytest.mark.parametrize("spoil", [_missing, _folder, _empty, _text])
async def test_a_file_of_authorities_that_is_of_no_use_stops_the_start(tmp_path: Path, spoil: Callable[[Path], str]):
    """With a sentence that names the setting and the file."""
    path = tmp_path / "ca.pem"
    sentence = spoil(path)
    settings = Settings(store=Store(url=f"sqlite:///{tmp_path}/gateway.db"), egress=Egress(ca_file=str(path)))
    with pytest.raises(SettingsError) as refused:
        async with Gateway.open(settings):
            raise AssertionError("it started")
    assert str(refused.value) == f"egress.ca_file: {sentence}"


# Connections


async def test_a_connection_is_not_used_again_for_ever():
    """When it has reached its age it is closed, however busy, and the name is looked up anew: where it leads by now counts."""
    async with NameServer.open({"endpoint.example": ["127.0.0.2"]}) as names, Receiver.open(host="127.0.0.2") as receiver:
        resolver = functools.partial(GuardedResolver, nameservers=[names.address], kept_seconds=0.0)
        egress = Egress(allow=("127.0.0.2/32",))
        url = receiver.url(host="endpoint.example")
        async with Sender(egress, timeout_seconds=5, make_resolver=resolver, connection_seconds=0.0) as sender:
            for count in (1, 2):
                assert (await send(sender, url)).status == 200
                assert receiver.connections == count
            await receiver.wait_until(lambda: receiver.open_connections == 1, "the first one is closed")
            names.names["endpoint.example"] = ["127.0.0.1"]
            assert (await send(sender, url)).error is AttemptError.ADDRESS_FORBIDDEN
        async with Sender(egress, timeout_seconds=5, make_resolver=resolver) as sender:
            names.names["endpoint.example"] = ["127.0.0.2"]
            await send(sender, url)
            names.names["endpoint.example"] = ["127.0.0.1"]
            assert (await send(sender, url)).status == 200, "the connection is younger: it is used, and nothing is dialled"
        assert receiver.connections == 3


async def test_idle_connections_make_room_for_new_ones():
    """The one that has been idle for longest is closed: any number of hosts needs no more connections than are allowed."""
    names = {f"host{number}.example": ["127.0.0.1"] for number in range(40)}
    async with NameServer.open(names) as server, Receiver.open() as receiver:
        resolver = functools.partial(GuardedResolver, nameservers=[server.address])
        async with Sender(Egress(allow=LOOPBACK), timeout_seconds=5, most_connections=8, make_resolver=resolver) as sender:
            for host in names:
                assert (await send(sender, receiver.url(host=host))).status == 200
                assert len(sender._pooled._idle) <= 8
            assert receiver.connections == 40
            await receiver.wait_until(lambda: receiver.open_connections == 8, "only 8 are left")
            for number in range(32, 40):
                await send(sender, receiver.url(host=f"host{number}.example"))
            assert receiver.connections == 40, "the last 8 are used again"
        assert not sender._pooled._idle


async def test_open_requests_are_never_closed_to_make_room():
    """Only what is idle is; with more requests under way than connections are allowed there are as many as it takes."""
    answer = asyncio.Event()
    async with Receiver.open() as receiver, Sender(Egress(allow=LOOPBACK), timeout_seconds=5, most_connections=2) as sender:
        receiver.script(None, [until(answer, ok())])
        sending = [asyncio.create_task(send(sender, receiver.url(f"/{number}"))) for number in range(5)]
        await receiver.wait_for(5)
        answer.set()
        assert [(await task).status for task in sending] == [200] * 5
        assert receiver.connections == 5


async def test_a_connection_that_ends_while_idle_is_not_counted():
    """The receiver has closed it; it makes room for nobody."""
    async with Receiver.open() as receiver, Sender(Egress(allow=LOOPBACK), timeout_seconds=5) as sender:
        await send(sender, receiver.url())
        (handler,) = sender._pooled._idle
        assert handler.closed is not None
        for connection in receiver._live:
            connection.close()
        await handler.closed
        assert not sender._pooled._idle
