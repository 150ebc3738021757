"""What this process dials, as the interpreter itself tells it: proof that something was, or was not, dialled."""

import contextlib
import socket
import sys
from collections.abc import Iterator

_watches: "list[SocketWatch]" = []


class SocketWatch:
    """The record of a while: the addresses that sockets were told to connect to, and how many stream sockets were made."""

    def __init__(self) -> None:
        self.dialled: list[tuple[str, int]] = []
        self.made = 0


@contextlib.contextmanager
def watching() -> Iterator[SocketWatch]:
    """Every `connect` of a socket within, whoever calls it (PEP 578). What C libraries open themselves, such as the resolver's
    way to its name servers, is not in it."""
    _hook()
    watch = SocketWatch()
    _watches.append(watch)
    try:
        yield watch
    finally:
        _watches.remove(watch)


_is_hooked = False


def _hook() -> None:
    global _is_hooked  # noqa: PLW0603 - a hook can never be taken away again
    if not _is_hooked:
        _is_hooked = True
        sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if not _watches:
        return
    if event == "socket.connect":
        address = arguments[1]
        to = (str(address[0]), int(address[1])) if isinstance(address, tuple) else (str(address), 0)
        for watch in _watches:
            watch.dialled.append(to)
    elif event == "socket.__new__" and arguments[2] == socket.SOCK_STREAM:
        for watch in _watches:
            watch.made += 1
