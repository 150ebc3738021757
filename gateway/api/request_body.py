"""Reading a request's body: of the right type, and no more than its limit."""

import re
import zlib

from aiohttp import ClientPayloadError, HttpVersion11, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from gateway.api.problems import INVALID_JSON, PAYLOAD_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE, Problem, too_slow
from gateway.settings import KIB

_JSON_TYPE = re.compile(r"\s*(application/json|[!#$&^_.+a-z0-9-]+/[!#$&^_.+a-z0-9-]*\+json)?\s*(;.*)?", re.IGNORECASE | re.DOTALL)
_ENCODINGS = frozenset({"", "identity", "gzip", "deflate"})
_WINDOWS = {"gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}  # as zlib names its formats


class BodyBroken(TimeoutError):
    """A body will not come to its end. A kind of timeout, since that is what aiohttp expects of what it reads to no purpose."""


class BodyTooSlow(BodyBroken):
    """A body did not come to its end in time."""


async def read_body(request: web.Request, most: int) -> bytes:
    """The body of *request*, unpacked, as JSON that has yet to be read.

    Raises a 415 for another type than JSON (no type at all is taken for JSON; a charset says nothing, JSON is UTF-8), a
    413 when it has more than *most* bytes, as soon as that is known, and a 408 when it does not come in time. Who waits to be
    told to send it (`Expect`) is told so here, when nothing else speaks against it.
    """
    if not request.body_exists:
        return b""
    content_type = request.headers.get("Content-Type")
    if content_type is not None and content_type != "application/json" and not _JSON_TYPE.fullmatch(content_type):
        raise Problem(UNSUPPORTED_MEDIA_TYPE, "the body has to be JSON; send it with `Content-Type: application/json`")
    encodings = request.headers.getall("Content-Encoding", ())
    encoding = ", ".join(encodings).strip().lower() if encodings else ""
    if encoding not in _ENCODINGS:
        raise Problem(UNSUPPORTED_MEDIA_TYPE, "the body has to be sent as it is, or with `Content-Encoding: gzip` or `deflate`")
    if (request.content_length or 0) > most:
        raise _too_large(most)
    try:
        if hdrs.EXPECT in request.headers:
            await _continue(request)
        body = await _read(request, most)
    except BodyTooSlow as error:
        raise too_slow() from error
    except (web.RequestPayloadError, ClientPayloadError, HttpProcessingError, OSError) as error:
        # Broken chunks, or a client that is gone, which will not read the answer.
        raise Problem(INVALID_JSON, "the body could not be read to its end") from error
    return _unpacked(body, encoding, most) if encoding in _WINDOWS and body else body


async def _continue(request: web.Request) -> None:
    """Says "go on" to who asks for it. Any other expectation is let pass."""
    if request.headers[hdrs.EXPECT].lower() == "100-continue" and request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # as aiohttp's own handler: the answer has yet to begin


async def _read(request: web.Request, most: int) -> bytes:
    content = request.content
    first = await content.readany()
    if content.at_eof():  # nearly always: it came in one piece
        if len(first) > most:
            raise _too_large(most)
        return first
    chunks = bytearray(first)
    while len(chunks) <= most:
        chunk = await content.readany()
        if not chunk:
            return bytes(chunks)
        chunks += chunk
    raise _too_large(most)


def _unpacked(packed: bytes, encoding: str, most: int) -> bytes:
    """What is packed in *packed*: one stream, to its end."""
    is_bare = encoding == "deflate" and packed[0] & 0xF != zlib.DEFLATED  # what some clients take deflate for
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else _WINDOWS[encoding])
    try:
        body = unpacker.decompress(packed, most + 1)
    except zlib.error as error:
        raise Problem(INVALID_JSON, f"the body is not {encoding}, which its Content-Encoding says") from error
    if len(body) > most:
        raise _too_large(most)
    if not unpacker.eof or unpacker.unused_data:
        raise Problem(INVALID_JSON, f"the body is not one whole stream of {encoding}, which its Content-Encoding says")
    return body


def _too_large(most: int) -> Problem:
    size = f"{most // KIB} KiB" if most % KIB == 0 else f"{most} bytes"
    return Problem(PAYLOAD_TOO_LARGE, f"the body has more than {size}, which is the limit here")
