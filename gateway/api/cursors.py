"""Places in lists, as text that its reader cannot read or make up.

A cursor holds the id to go on below and a seal over it, the list, the tenant and the filters, so that it is of no use
anywhere else. As it names an id and not a position, it keeps its place when rows come and go. Pure.
"""

import base64
import binascii
import hmac

import msgspec

from gateway.model import Tenant

_SEAL_LENGTH = 16
_MAX_LENGTH = 1_024

_encoder = msgspec.json.Encoder()


def scope(list_name: str, tenant: Tenant | None, only: msgspec.Struct | None = None) -> bytes:
    """What a cursor is bound to: the list, whose it is, and how it is filtered."""
    return _encoder.encode((list_name, tenant, only))


class Cursors:
    """Makes and opens cursors with one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, scope: bytes, below: str | None) -> str | None:
        """The cursor for what comes below the id *below*; None on the last page."""
        if below is None:
            return None
        place = below.encode()
        return _written(self._seal_of(scope, place) + place)

    def open(self, scope: bytes, cursor: str) -> str:
        """The id in *cursor*.

        Raises ValueError when the cursor was not made here for this *scope*.
        """
        if len(cursor) > _MAX_LENGTH or not cursor.isascii():
            raise ValueError("not a cursor")
        try:
            content = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except binascii.Error as error:
            raise ValueError("not a cursor") from error
        if _written(content) != cursor:  # base64 has several spellings of the same bytes
            raise ValueError("not a cursor")
        seal, place = content[:_SEAL_LENGTH], content[_SEAL_LENGTH:]
        if not hmac.compare_digest(seal, self._seal_of(scope, place)):
            raise ValueError("not a cursor of this list")
        return place.decode()

    def _seal_of(self, scope: bytes, place: bytes) -> bytes:
        return hmac.digest(self._key, b"%d:%s%s" % (len(scope), scope, place), "sha256")[:_SEAL_LENGTH]


def _written(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
