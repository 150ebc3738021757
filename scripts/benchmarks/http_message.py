"""Just enough of HTTP/1.1 for both ends of a benchmark: where a message with a Content-Length begins and ends."""

import re

_LENGTH = re.compile(rb"\r\nContent-Length: *(\d+)\r", re.IGNORECASE)


class Unreadable(Exception):
    """A message without a Content-Length; nothing in a benchmark sends one with a body."""


def find_message(data: bytes, start: int) -> tuple[int, int] | None:
    """Where the body of the message at *start* begins and ends, or None while a part of it is missing."""
    head_end = data.find(b"\r\n\r\n", start)
    if head_end < 0:
        return None
    found = _LENGTH.search(data, start, head_end + 1)
    if found is None:
        raise Unreadable(data[start:head_end].decode("latin-1"))
    body = head_end + 4
    end = body + int(found[1])
    return (body, end) if end <= len(data) else None
