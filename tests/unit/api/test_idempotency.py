"""Idempotency keys: identities, sealed answers, and who may do the work."""

import asyncio
from itertools import combinations

import pytest

from gateway.api import problems
from gateway.api.dialects import Answer
from gateway.api.idempotency import Idempotency, Identity, Ticket, identify, unseal
from gateway.api.problems import Problem
from gateway.clock import Timestamp
from gateway.errors import StoreUnavailable
from gateway.model import IdempotentAnswer, Reservation

ANSWER = Answer(201, b'{"secretKey":"whsec_find_me"}')


def identity(
    actor: str = "key_1", credential: str = "ck_live_x", key: str = "k", request: tuple[bytes, ...] = (b"POST", b"/x")
) -> Identity:
    return identify(actor=actor, credential=credential, key=key, request=request)


class FakeAnswers:
    """Kept answers and reservations, whose look-ups can be held back."""

    def __init__(self) -> None:
        self.kept: dict[bytes, IdempotentAnswer] = {}
        self.reserved: set[Reservation] = set()  # for this node
        self.of_others: dict[bytes, Reservation] = {}
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None

    async def reserve(self, reservation: Reservation, now: Timestamp) -> IdempotentAnswer | Reservation | None:
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        if (kept := self.kept.get(reservation.key_hash)) is not None:
            return kept
        if (other := self.of_others.get(reservation.key_hash)) is not None:
            return other
        self.reserved.add(reservation)
        return None

    async def release(self, reservation: Reservation) -> None:
        if self.failure is not None:
            raise self.failure
        self.reserved.remove(reservation)


def test_each_part_of_a_request_counts():
    """Also where one part ends and the next begins; parts are not run together."""
    requests = [(b"a", b"bc"), (b"ab", b"c"), (b"abc", b""), (b"abc",), (b"", b"abc"), (b"1:a", b"b")]
    for one, other in combinations(requests, 2):
        assert identity(request=one).request_hash != identity(request=other).request_hash
    assert identity().key_hash == identity(request=(b"GET",)).key_hash
    assert identity().key_hash != identity(actor="key_2").key_hash
    assert identity(actor="a", key="bc").key_hash != identity(actor="ab", key="c").key_hash


def test_only_who_presents_the_key_opens_the_answer():
    """What is stored shows nothing of it, and opens under no other credential."""
    record = Ticket(identity(), 5).seal(ANSWER)
    assert b"find_me" not in record.answer
    assert unseal(identity(), record) == ANSWER
    with pytest.raises(Problem):
        unseal(identity(credential="ck_live_y"), record)
    with pytest.raises(Problem) as problem:
        unseal(identity(request=(b"PUT",)), record)
    assert problem.value.kind is problems.IDEMPOTENCY_KEY_MISMATCH


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_has_1_to_255_characters(key: str):
    """Anything else is a 400."""
    with pytest.raises(Problem) as problem:
        identity(key=key)
    assert problem.value.kind is problems.INVALID


def test_a_key_may_hold_any_bytes():
    """Those that are no text too, as aiohttp hands them on."""
    assert identity(key="\udcff") != identity(key="\udcfe")


async def test_the_work_is_done_by_one():
    """The others are told that it is in progress, until it has ended."""
    idempotency = Idempotency(FakeAnswers())
    ticket = await idempotency.begin(identity(), 0)
    assert isinstance(ticket, Ticket)
    for other, kind in (
        (identity(), problems.IDEMPOTENCY_IN_PROGRESS),
        (identity(request=(b"x",)), problems.IDEMPOTENCY_KEY_MISMATCH),
    ):
        with pytest.raises(Problem) as problem:
            await idempotency.begin(other, 0)
        assert problem.value.kind is kind
    assert isinstance(await idempotency.begin(identity(key="other"), 0), Ticket)
    await idempotency.end(ticket, is_answered=True)
    assert isinstance(await idempotency.begin(identity(), 0), Ticket)


async def test_repeats_at_the_same_moment_all_get_the_answer():
    """Looking for the first answer is not work, and makes nobody else wait in vain or be refused."""
    answers = FakeAnswers()
    answers.kept[identity().key_hash] = Ticket(identity(), 5).seal(ANSWER)
    idempotency = Idempotency(answers)
    answers.open.clear()
    repeats = [asyncio.ensure_future(idempotency.begin(identity(), 0)) for _ in range(5)]
    stranger = asyncio.ensure_future(idempotency.begin(identity(request=(b"x",)), 0))
    answers.open.set()
    assert await asyncio.gather(*repeats) == [ANSWER] * 5
    with pytest.raises(Problem):
        await stranger


async def test_of_many_at_the_same_moment_one_does_the_work():
    """The others wait for the look-up, and learn that it is in progress."""
    answers = FakeAnswers()
    idempotency = Idempotency(answers)
    answers.open.clear()
    tasks = [asyncio.ensure_future(idempotency.begin(identity(), 0)) for _ in range(5)]
    answers.open.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(outcome, Ticket) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Problem) for outcome in outcomes) == 4


async def test_a_look_up_that_fails_leaves_nothing_behind():
    """The next request may try again."""
    answers = FakeAnswers()
    idempotency = Idempotency(answers)
    answers.failure = RuntimeError("no store")
    with pytest.raises(RuntimeError):
        await idempotency.begin(identity(), 0)
    answers.failure = None
    assert isinstance(await idempotency.begin(identity(), 0), Ticket)


def reservation(of: Identity) -> Reservation:
    return Reservation(of.key_hash, of.request_hash)


@pytest.mark.parametrize(
    ("other", "kind"),
    [(identity(), problems.IDEMPOTENCY_IN_PROGRESS), (identity(request=(b"x",)), problems.IDEMPOTENCY_KEY_MISMATCH)],
)
async def test_a_request_under_way_on_another_node_is_a_409(other: Identity, kind: problems.Kind):
    """In progress for the same request, a mismatch for another one; and once that node is done with it, the key is free here."""
    answers = FakeAnswers()
    answers.of_others[other.key_hash] = reservation(other)
    idempotency = Idempotency(answers)
    for _ in range(2):
        with pytest.raises(Problem) as problem:
            await idempotency.begin(identity(), 0)
        assert problem.value.kind is kind
    assert not answers.reserved
    answers.of_others.clear()
    assert isinstance(await idempotency.begin(identity(), 0), Ticket)


async def test_what_was_refused_gives_its_reservation_up():
    """Whether it was refused or answered with nothing to keep: another node may do the work then."""
    for is_answered, is_sealed in ((False, False), (False, True), (True, False)):
        answers = FakeAnswers()
        idempotency = Idempotency(answers)
        ticket = await idempotency.begin(identity(), 0)
        assert isinstance(ticket, Ticket)
        assert answers.reserved == {reservation(identity())}
        if is_sealed:
            ticket.seal(ANSWER)
        await idempotency.end(ticket, is_answered=is_answered)
        assert not answers.reserved
        assert isinstance(await idempotency.begin(identity(), 0), Ticket)


async def test_what_was_answered_keeps_its_reservation():
    """The answer has taken its place in the commit: to release it would be to forget the answer."""
    answers = FakeAnswers()
    idempotency = Idempotency(answers)
    ticket = await idempotency.begin(identity(), 0)
    assert isinstance(ticket, Ticket)
    answers.kept[identity().key_hash] = ticket.seal(ANSWER)
    await idempotency.end(ticket, is_answered=True)
    assert answers.reserved == {reservation(identity())}
    assert await idempotency.begin(identity(), 0) == ANSWER


async def test_a_reservation_that_cannot_be_released_is_let_lapse():
    """The refusal is the answer, not that the store does not answer just then; and the key is free on this node."""
    answers = FakeAnswers()
    idempotency = Idempotency(answers)
    ticket = await idempotency.begin(identity(), 0)
    assert isinstance(ticket, Ticket)
    answers.failure = StoreUnavailable("no store")
    await idempotency.end(ticket, is_answered=False)
    answers.failure = None
    assert isinstance(await idempotency.begin(identity(), 0), Ticket)


async def test_nobody_else_may_begin_while_a_reservation_is_released():
    """Not before it is gone: the release would take the reservation of the next request with it."""
    answers = SlowRelease()
    idempotency = Idempotency(answers)
    ticket = await idempotency.begin(identity(), 0)
    assert isinstance(ticket, Ticket)
    ending = asyncio.create_task(idempotency.end(ticket, is_answered=False))
    await answers.releasing.wait()
    with pytest.raises(Problem) as problem:
        await idempotency.begin(identity(), 0)
    assert problem.value.kind is problems.IDEMPOTENCY_IN_PROGRESS
    answers.may_end.set()
    await ending
    assert isinstance(await idempotency.begin(identity(), 0), Ticket)


class SlowRelease(FakeAnswers):
    """Releases when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.releasing = asyncio.Event()
        self.may_end = asyncio.Event()

    async def release(self, reservation: Reservation) -> None:
        self.releasing.set()
        await self.may_end.wait()
        await super().release(reservation)
