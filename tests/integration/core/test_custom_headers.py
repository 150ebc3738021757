"""Headers of an endpoint's own, on their way out and on record."""

import json

from gateway.clock import MINUTE
from tests.fakes import ok, status
from tests.integration.core.conftest import URL, Node

GIVEN = {"Authorization": "Bearer hunter2", "X-Team": "billing"}


async def test_they_go_out_with_each_attempt_and_their_values_stay_off_the_record(node: Node):
    """Beside the gateway's own headers; the record has their names."""
    created = await node.create()
    await node.update(created, headers=GIVEN)
    await node.publish()
    await node.quiet()
    (request,) = node.sender.requests
    own = {name: value for name, value in request.headers.items() if name in GIVEN}
    assert own == GIVEN
    assert {"Content-Type", "webhook-signature", "X-Commet-Signature"} <= set(request.headers)
    (attempt,) = await node.attempts(await node.only_delivery())
    on_record = json.loads(attempt.request_headers)
    assert {name: on_record[name] for name in GIVEN} == dict.fromkeys(GIVEN, "***")
    assert on_record["webhook-signature"] == request.headers["webhook-signature"]
    assert b"hunter2" not in attempt.request_headers


async def test_a_change_holds_from_the_next_attempt_on(node: Node):
    """Also for a delivery that is under way."""
    node.sender.script(URL, status(500), ok())
    created = await node.create()
    await node.update(created, headers=GIVEN)
    await node.publish()
    await node.quiet()
    await node.update(created, headers={"X-Team": "sales"})
    await node.advance(MINUTE)
    first, second = node.sender.requests
    assert (first.headers["Authorization"], first.headers["X-Team"]) == ("Bearer hunter2", "billing")
    assert ("Authorization" in second.headers, second.headers["X-Team"]) == (False, "sales")


async def test_a_test_has_them_too(node: Node):
    created = await node.create()
    changed = await node.update(created, headers=GIVEN)
    await node.writer.change(await node.tester.run(changed, None))
    assert node.sender.requests[0].headers["Authorization"] == "Bearer hunter2"


async def test_one_that_has_come_to_be_reserved_is_left_out(node: Node):
    """As when `delivery.signature_header_prefix` is changed after it was stored."""
    created = await node.create()
    await node.update(created, headers={"X-Commet-Event": "forged", "x-commet-more": "1", "X-Team": "billing"})
    await node.publish()
    await node.quiet()
    headers = node.sender.requests[0].headers
    assert (headers["X-Commet-Event"], headers["X-Team"]) == ("invoice.paid", "billing")
    assert "x-commet-more" not in headers
