"""What a command makes of the API's answers, as a table; the exchanges themselves are in test_cli_client.py."""

from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from aioresponses import aioresponses

from gateway.cli.client import Api, RequestFailed

BASE = "https://gateway.example"


class _Response(aiohttp.ClientResponse):
    # aioresponses 0.7.9 does not know of the argument that aiohttp 3.14 asks for.
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, stream_writer=Mock(output_size=0), **kwargs)


async def answer_to(**outcome: Any) -> dict[str, Any]:
    """What `GET /webhooks` gives when the API answers with *outcome*."""
    async with aiohttp.ClientSession() as session:
        with aioresponses() as exchanges:
            exchanges.get(f"{BASE}/webhooks", response_class=_Response, **outcome)
            return await Api(session, BASE, is_operator=False).request("GET", "webhooks")


@pytest.mark.parametrize(
    ("body", "content"),
    [
        ('{"object":"list","data":[],"hasMore":false}', {"object": "list", "data": [], "hasMore": False}),
        ('{"success":true,"data":{"id":"wh_1"}}', {"id": "wh_1"}),
    ],
    ids=["plain", "enveloped"],
)
async def test_both_shapes_of_an_answer_are_read(body: str, content: dict[str, Any]):
    """Whichever API version the gateway's current one is."""
    assert await answer_to(status=200, body=body) == content


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (
            {"status": 401, "body": '{"error":{"code":"unauthorized","message":"the API key is not known"}}'},
            "the API key is not known (unauthorized)",
        ),
        (
            {"status": 400, "body": '{"error":{"code":"x","message":"m","details":[{"field":"url","message":"is required"}]}}'},
            "m (x)\n  url: is required",
        ),
        ({"status": 500, "body": "{}"}, "the gateway answered 500"),
        ({"status": 502, "body": "<html>"}, f"{BASE} answered 502, but not as a gateway does"),
        ({"exception": TimeoutError()}, f"the gateway at {BASE} does not answer: no answer in time"),
        ({"exception": aiohttp.ServerDisconnectedError()}, f"the gateway at {BASE} does not answer: Server disconnected"),
    ],
    ids=["refused", "refused with details", "failed", "not a gateway", "timeout", "disconnected"],
)
async def test_a_failure_is_a_sentence(outcome: dict[str, Any], sentence: str):
    """It says what the gateway said, or that there is none."""
    with pytest.raises(RequestFailed) as failure:
        await answer_to(**outcome)
    assert str(failure.value) == sentence
