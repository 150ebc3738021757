"""Idempotency keys: identities, sealed answers, and who may do the work."""

import asyncio
from itertools import combinations

import pytest

from gateway.api import problems
from gateway.api.dialects import Answer
from gateway.api.idempotency import Idempotency, Identity, Ticket, identify, unseal
from gateway.api.problems import Problem
from gateway.clock import Timestamp
from gateway.model import IdempotentAnswer

ANSWER = Answer(201, b'{"secretKey":"whsec_find_me"}')


def identity(
    actor: str = "key_1", credential: str = "ck_live_x", key: str = "k", request: tuple[bytes, ...] = (b"POST", b"/x")
) -> Identity:
    return identify(actor=actor, credential=credential, key=key, request=request)


class FakeAnswers:
    """Kept answers, whose look-ups can be held back."""

    def __init__(self) -> None:
        self.kept: dict[bytes, IdempotentAnswer] = {}
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None

    async def answer(self, key_hash: bytes, now: Timestamp) -> IdempotentAnswer | None:
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return self.kept.get(key_hash)


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
    idempotency.end(ticket)
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
