"""Signatures of deliveries, in both families of the contract. Pure."""

import base64
import binascii
import functools
import hashlib
import hmac
import secrets
from collections.abc import Sequence

SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix of a secret, not one


def new_secret() -> str:
    """A new signing secret: `whsec_` and the base64 of 32 random bytes."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


@functools.lru_cache(maxsize=10_000)
def secret_key(secret: str) -> bytes:
    """The bytes that Standard Webhooks signs with: the decoded base64 part of *secret*.

    Raises ValueError when *secret* is not `whsec_` followed by base64. Missing padding is accepted, as the
    Standard Webhooks libraries do.
    """
    encoded = secret.removeprefix(SECRET_PREFIX)
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError("the secret is not 'whsec_' followed by base64") from error
    if not key or encoded == secret:
        raise ValueError("the secret is not 'whsec_' followed by base64")
    return key


@functools.lru_cache(maxsize=20_000)
def _keyed(key: bytes) -> hmac.HMAC:
    """The start of every HMAC-SHA256 with *key*, to be copied: cheaper than `hmac.digest`, which also lets go of the
    interpreter's lock each time."""
    return hmac.new(key, digestmod=hashlib.sha256)


def _digest(key: bytes, message: bytes) -> bytes:
    keyed = _keyed(key).copy()
    keyed.update(message)
    return keyed.digest()


def hex_signature(secret: str, body: bytes) -> str:
    """`X-Commet-Signature`: hex HMAC-SHA256 of the raw *body*, keyed with the whole secret string."""
    return _digest(secret.encode(), body).hex()


def standard_signature(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """`webhook-signature`: one `v1,…` for each key, separated by spaces.

    *timestamp* is the attempt's time in Unix seconds. Source: Standard Webhooks specification, "Signature scheme".
    """
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    return " ".join(["v1," + base64.b64encode(_digest(key, signed)).decode() for key in keys])


def verify(secret: str, body: bytes, *, message_id: str, timestamp: int, signature: str) -> bool:
    """Whether any of the signatures in *signature* is *secret*'s for this message. Compares in constant time."""
    expected = standard_signature([secret_key(secret)], message_id, timestamp, body).encode()
    return any(hmac.compare_digest(expected, given.encode()) for given in signature.split(" "))


def verify_hex(secret: str, body: bytes, signature: str) -> bool:
    """Whether *signature* is *secret*'s hex signature of *body*. Compares in constant time."""
    return hmac.compare_digest(hex_signature(secret, body).encode(), signature.strip().encode())
