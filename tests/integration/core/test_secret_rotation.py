"""What deliveries are signed with while a secret is rotated, by the clock that their signatures tell."""

from gateway import signing
from gateway.clock import MINUTE, SECOND
from gateway.model import Actor, Endpoint
from gateway.registry.endpoints import FinishRotation, RotateSecret
from gateway.store.sqlite import SqliteStore
from tests.fakes import Request, ok, status
from tests.integration.core.conftest import URL, Node, run_node
from tests.integration.core.test_maintenance import cleaning

ACTOR = Actor("key_1")


async def rotate(node: Node, endpoint: Endpoint, overlap_seconds: int) -> Endpoint:
    change = RotateSecret(endpoint.tenant, endpoint.id, overlap_seconds, ACTOR, node.clock.now())
    return await node.writer.change(change)


def signed_with(request: Request, *secrets: Endpoint) -> tuple[int, list[int]]:
    """Which of *secrets* each family is signed with, by their place: the one, and the others in their order."""
    headers, texts = request.headers, [each.secret for each in secrets]
    signatures = headers["webhook-signature"].split(" ")
    of_standard = [
        place
        for signature in signatures
        for place, text in enumerate(texts)
        if signing.verify(
            text,
            request.body,
            message_id=headers["webhook-id"],
            timestamp=int(headers["webhook-timestamp"]),
            signature=signature,
        )
    ]
    assert len(of_standard) == len(signatures)
    (of_hex,) = [
        place for place, text in enumerate(texts) if signing.verify_hex(text, request.body, headers["X-Commet-Signature"])
    ]
    return of_hex, of_standard


OLD_ALONE, BOTH, NEW_ALONE = (0, [0]), (0, [1, 0]), (1, [1])


async def test_both_secrets_sign_until_the_overlap_ends(node: Node):
    """The Standard Webhooks header carries a signature of each, the new one's first; the other stays with the old secret. From
    the very moment that the overlap ends there is the new one alone, whether or not the old one was taken out of the store."""
    old = await node.create()
    await node.publish()
    await node.quiet()
    new = await rotate(node, old, overlap_seconds=60)
    await node.publish()
    await node.quiet()
    node.clock.advance(MINUTE - 1)
    await node.publish()
    await node.quiet()
    node.clock.advance(1)
    await node.publish()
    await node.quiet()
    assert [signed_with(request, old, new) for request in node.sender.requests] == [OLD_ALONE, BOTH, BOTH, NEW_ALONE]
    assert (await node.endpoint(old)).previous_secret == old.secret


async def test_the_end_of_an_overlap_by_hand_holds_from_the_next_attempt_on(node: Node):
    """A retry of what was signed with both is signed with the new secret alone."""
    node.sender.script(URL, status(500), ok())
    old = await node.create()
    new = await rotate(node, old, overlap_seconds=86_400)
    await node.publish()
    await node.quiet()
    await node.writer.change(FinishRotation(old.tenant, old.id, ACTOR, node.clock.now()))
    await node.advance(2 * MINUTE)
    assert [signed_with(request, old, new) for request in node.sender.requests] == [BOTH, NEW_ALONE]


async def test_without_an_overlap_the_new_secret_signs_at_once(node: Node):
    """Also what was waiting."""
    node.sender.script(URL, status(500), ok())
    old = await node.create()
    await node.publish()
    await node.quiet()
    new = await rotate(node, old, overlap_seconds=0)
    await node.advance(2 * MINUTE)
    assert [signed_with(request, old, new) for request in node.sender.requests] == [OLD_ALONE, NEW_ALONE]


async def test_a_secret_that_is_over_leaves_the_store(node: Node):
    """Maintenance takes it away within a minute of its end, as a numbered change that others hear of, and leaves those alone that
    are in force."""
    soon, later = await node.create(), await node.create("https://other.example/hook")
    before = await rotate(node, soon, overlap_seconds=90)
    await rotate(node, later, overlap_seconds=3_600)
    async with cleaning(node) as cleaner:
        await cleaner.resting()
        node.clock.advance(MINUTE)
        await cleaner.resting()
        assert (await node.endpoint(soon)).previous_secret == soon.secret
        node.clock.advance(MINUTE)
        await cleaner.resting()
        after = await node.endpoint(soon)
        assert (after.previous_secret, after.previous_secret_until, after.secret) == (None, None, before.secret)
        assert after.revision > before.revision
        assert (await node.endpoint(later)).previous_secret == later.secret


async def test_only_the_leader_takes_secrets_away(node: Node):
    """One node is enough."""
    made = await node.create()
    await rotate(node, made, overlap_seconds=1)
    node.clock.advance(2 * SECOND)
    async with cleaning(node) as cleaner:
        cleaner.leads = False
        await cleaner.resting()
        node.clock.advance(2 * MINUTE)
        await cleaner.resting()
        assert (await node.endpoint(made)).previous_secret == made.secret


async def test_a_rotation_outlives_a_restart(store: SqliteStore):
    """What is read from the store is signed as before."""
    async with run_node(store) as node:
        old = await node.create()
        new = await rotate(node, old, overlap_seconds=60)
    async with run_node(store) as node:
        await node.publish()
        await node.quiet()
        (request,) = node.sender.requests
        assert signed_with(request, old, new) == BOTH
