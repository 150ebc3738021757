"""Taking connections from a listening socket, no more at once than a limit."""

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

import structlog

from gateway.api.traffic import Seldom

log = structlog.get_logger()

_BACKLOG = 1_024  # that the system keeps waiting; it limits this itself, net.core.somaxconn on Linux
_BURST = 64  # taken at once, before others have their turn
_WITHOUT_FILES_SECONDS = 0.5  # until it is tried again
_WARNINGS_A_MINUTE = 1


class Server(Protocol):
    """Makes the protocol of a new connection when it is called, and knows how many there are."""

    open_connections: int
    on_closed: Callable[[], None]  # is called when there is one less

    def __call__(self) -> asyncio.Protocol: ...


class Acceptor:
    """Takes connections until there are *most*. Further ones wait in the socket's backlog, where they cost this process nothing.

    asyncio's own server has no such limit, and no way to pause.
    """

    def __init__(self, listener: socket.socket, server: Server, *, most: int) -> None:
        self._listener = listener
        self._server = server
        server.on_closed = self._resume
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._is_reading = False
        self._is_stopped = False
        self._again: asyncio.TimerHandle | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        self._warnings = Seldom(_WARNINGS_A_MINUTE)

    def start(self) -> None:
        """Listens."""
        self._listener.settimeout(0)
        self._listener.listen(_BACKLOG)
        self._resume()

    async def stop(self) -> None:
        """Lets nobody in any more. Those who still wait are turned away by the system."""
        self._is_stopped = True
        self._pause()
        if self._again is not None:
            self._again.cancel()
        self._listener.close()
        if self._connecting:
            await asyncio.wait(self._connecting)

    def _resume(self) -> None:
        if not (self._is_reading or self._is_stopped or self._again is not None):
            self._loop.add_reader(self._listener, self._accept)
            self._is_reading = True

    def _try_again(self) -> None:
        self._again = None
        self._resume()

    def _pause(self) -> None:
        if self._is_reading:
            self._loop.remove_reader(self._listener)
            self._is_reading = False

    def _accept(self) -> None:
        for _ in range(_BURST):
            if self._server.open_connections + len(self._connecting) >= self._most:
                self._pause()
                self._warn("connections.full", most=self._most)
                return
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # No descriptor is left, mostly. Whoever waits goes on waiting; the socket would call at once, again and again.
                self._pause()
                self._again = self._loop.call_later(_WITHOUT_FILES_SECONDS, self._try_again)
                self._warn("connections.refused_by_system", reason=error.strerror)
                return
            connection.settimeout(0)
            task = self._loop.create_task(self._connect(connection), name="a client's connection")
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._server, connection)
        except OSError:  # it has gone already
            connection.close()

    def _warn(self, event: str, **facts: object) -> None:
        left_out = self._warnings.told(self._loop.time())
        if left_out is not None:
            log.warning(event, open=self._server.open_connections, left_out=left_out, **facts)
