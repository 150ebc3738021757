"""Listening on a socket, and stopping so that requests under way are answered."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from aiohttp import web

from gateway.api.acceptor import Acceptor
from gateway.api.boundary import BOUNDARY
from gateway.api.http_server import HTTP, ApiRunner
from gateway.errors import SettingsError
from gateway.settings import MAX_SOCKET_PATH

log = structlog.get_logger()

_KEEPALIVE_SECONDS = 75.0
_LAST_BYTES_SECONDS = 0.2  # that writing the last answers may take


def bind_tcp(host: str, port: int) -> socket.socket:
    """A socket bound to *host* and *port*. Raises SettingsError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError(f"http.host: cannot listen on {host!r}: {error.strerror}") from error
    except UnicodeError as error:
        raise SettingsError(f"http.host: cannot listen on {host!r}: it is no name of a host") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise SettingsError(f"http.host: cannot listen on {host!r}: {error.strerror}") from error
        raise SettingsError(f"http.port: cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def bind_unix(path: Path) -> socket.socket:
    """A socket bound to *path*, for the owner of the process alone, in place of one that a crash left.

    Raises SettingsError, also when somebody listens there.
    """
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise SettingsError(f"http.socket: {path} is longer than {MAX_SOCKET_PATH} bytes; set a shorter one")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    try:
        _remove_left_over(path)
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise SettingsError(f"http.socket: cannot listen on {path}: {error.strerror}") from error
    finally:
        os.umask(previous)
    return listener


def _remove_left_over(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:  # nobody listens any more
            path.unlink()
        else:
            raise SettingsError(f"http.socket: another gateway listens on {path}; give this one a path of its own")


@asynccontextmanager
async def listening(application: web.Application, listener: socket.socket, *, stop_by: Callable[[], float]) -> AsyncIterator[int]:
    """Serves *application* on *listener*; its port, 0 for a Unix socket.

    At the end nobody is let in any more, and requests under way are answered, at most until *stop_by* (of the loop's clock).
    """
    # What a request has begun to commit is committed, whether or not its client waits: `handler_cancellation` stays False.
    runner = ApiRunner(
        application,
        access_log=None,
        keepalive_timeout=_KEEPALIVE_SECONDS,
        shutdown_timeout=_LAST_BYTES_SECONDS,
        handle_signals=False,
    )
    await runner.setup()
    try:
        acceptor = Acceptor(listener, runner.api_server, most=application[HTTP].max_connections)
        name = listener.getsockname()
        acceptor.start()
        try:
            yield name[1] if isinstance(name, tuple) else 0
        finally:
            await acceptor.stop()
            # Before the clean-up: from then on aiohttp drops what arrives, so that a body on its way would never end.
            under_way = application[BOUNDARY].under_way
            try:
                async with asyncio.timeout_at(stop_by()):
                    await under_way.finish()
            except TimeoutError:
                log.warning("stop.cutting_off", requests=under_way.count)
    finally:
        await runner.cleanup()
