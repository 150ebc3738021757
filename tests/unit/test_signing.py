"""Signatures in both families: the published reference values, several secrets, and what verification refuses."""

import base64
import hashlib
import hmac

import pytest
from standardwebhooks.webhooks import Webhook

from gateway import signing

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(bytes(range(32))).decode()
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1_614_265_330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_reference_signature_of_standard_webhooks():
    """The values that the Standard Webhooks libraries test themselves with give the signature that they give."""
    assert signing.standard_signature([signing.secret_key(SECRET)], MESSAGE_ID, TIMESTAMP, BODY) == SIGNATURE


def test_several_secrets_give_several_signatures():
    """One signature for each secret in force, in their order, separated by a space; either alone verifies."""
    both = signing.standard_signature([signing.secret_key(SECRET), signing.secret_key(OTHER)], MESSAGE_ID, TIMESTAMP, BODY)
    first, second = both.split(" ")
    assert first == SIGNATURE
    assert second != first
    for secret in (SECRET, OTHER):
        assert signing.verify(secret, BODY, message_id=MESSAGE_ID, timestamp=TIMESTAMP, signature=both)


def test_the_standard_webhooks_library_accepts_our_signature():
    """The reference library verifies what was signed with a new secret of ours."""
    secret = signing.new_secret()
    library = Webhook(secret)
    headers = {
        "webhook-id": MESSAGE_ID,
        "webhook-timestamp": str(TIMESTAMP),
        "webhook-signature": signing.standard_signature([signing.secret_key(secret)], MESSAGE_ID, TIMESTAMP, BODY),
    }
    # The library refuses old timestamps, so its own signing is compared instead of its check.
    expected = hmac.new(signing.secret_key(secret), f"{MESSAGE_ID}.{TIMESTAMP}.".encode() + BODY, hashlib.sha256)
    assert headers["webhook-signature"] == "v1," + base64.b64encode(expected.digest()).decode()
    assert library._whsecret == signing.secret_key(secret)


def test_the_hex_signature_is_keyed_with_the_whole_secret():
    """`X-Commet-Signature` is the hex HMAC-SHA256 of the raw body under the secret string as it is shown."""
    expected = hmac.new(SECRET.encode(), BODY, hashlib.sha256).hexdigest()
    assert signing.hex_signature(SECRET, BODY) == expected
    assert signing.verify_hex(SECRET, BODY, f" {expected}\n")
    assert not signing.verify_hex(OTHER, BODY, expected)
    assert not signing.verify_hex(SECRET, BODY + b" ", expected)
    assert not signing.verify_hex(SECRET, BODY, "not hex, né")


@pytest.mark.parametrize(
    ("body", "message_id", "timestamp", "signature"),
    [
        (BODY + b" ", MESSAGE_ID, TIMESTAMP, SIGNATURE),
        (BODY, "msg_other", TIMESTAMP, SIGNATURE),
        (BODY, MESSAGE_ID, TIMESTAMP + 1, SIGNATURE),
        (BODY, MESSAGE_ID, TIMESTAMP, SIGNATURE.replace("v1,", "v2,")),
        (BODY, MESSAGE_ID, TIMESTAMP, SIGNATURE[:-2]),
        (BODY, MESSAGE_ID, TIMESTAMP, ""),
        (BODY, MESSAGE_ID, TIMESTAMP, "v1,é"),
    ],
)
def test_verification_refuses(body: bytes, message_id: str, timestamp: int, signature: str):
    """Whatever differs from what was signed does not verify, and nothing makes verification fail."""
    assert not signing.verify(SECRET, body, message_id=message_id, timestamp=timestamp, signature=signature)


def test_a_new_secret_is_32_random_bytes():
    """A secret is `whsec_` and the base64 of 32 bytes, another each time."""
    secrets = {signing.new_secret() for _ in range(100)}
    assert len(secrets) == 100
    for secret in secrets:
        assert secret.startswith("whsec_")
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
        assert len(signing.secret_key(secret)) == 32


def test_missing_padding_is_accepted():
    """A secret without its `=` gives the same key, as the Standard Webhooks libraries have it."""
    assert signing.secret_key(OTHER.rstrip("=")) == signing.secret_key(OTHER)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_*", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_a", "whsec_AAAA AAAA"])
def test_what_is_no_secret(secret: str):
    """Text that is not `whsec_` and base64 raises ValueError, which does not show it."""
    with pytest.raises(ValueError) as raised:
        signing.secret_key(secret)
    assert str(raised.value) == "the secret is not 'whsec_' followed by base64"
