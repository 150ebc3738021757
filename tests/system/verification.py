"""Receiving as two published libraries do it: that of the contract, and that of Standard Webhooks."""

from typing import Any

import commet
import standardwebhooks

from tests.receiver import Request


def verified(request: Request, secret: str) -> dict[str, Any]:
    """The body of *request*, of which both libraries say that it was signed with *secret*."""
    signature = request.headers.get("X-Commet-Signature")
    body = commet.Webhooks().verify_and_parse(raw_body=request.body.decode(), signature=signature, secret=secret)
    assert body is not None, f"commet-sdk does not accept the signature of {request.headers.get('webhook-id')}"
    assert standardwebhooks.Webhook(secret).verify(request.body, dict(request.headers)) == body
    return body


def is_signed(request: Request, secret: str) -> bool:
    """Whether either library accepts *request*."""
    signature = request.headers.get("X-Commet-Signature")
    if commet.Webhooks().verify(payload=request.body.decode(), signature=signature, secret=secret):
        return True
    try:
        standardwebhooks.Webhook(secret).verify(request.body, dict(request.headers))
    except standardwebhooks.WebhookVerificationError:
        return False
    return True
