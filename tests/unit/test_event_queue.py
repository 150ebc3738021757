"""The bounded queue: in events, in bytes, and half of each for one organization."""

import pytest

from gateway.errors import QueueFull
from gateway.model import AcceptedEvent
from gateway.publishing.event_queue import EventQueue, Publication
from gateway.settings import Intake
from tests.fakes import event, tenant


def of(organization_id: str, *, size: int = 2) -> AcceptedEvent:
    return event(tenant=tenant(organization_id), data=b"x" * size)


def publication(*events: AcceptedEvent) -> Publication:
    return Publication(events, None)


def fill(queue: EventQueue, organization_id: str, count: int, **fields: int) -> None:
    for _ in range(count):
        queue.put(publication(of(organization_id, **fields)))


async def test_the_bound_in_events():
    """A full queue says so, and takes events again once some are released."""
    queue = EventQueue(Intake(max_queue=4))
    fill(queue, "a", 2)
    fill(queue, "b", 2)
    with pytest.raises(QueueFull):
        queue.put(publication(of("c")))
    entry = queue.take()
    assert entry is not None
    with pytest.raises(QueueFull):  # it is being committed, and counts until that is done
        queue.put(publication(of("c")))
    queue.release(entry)
    queue.put(publication(of("c")))


async def test_no_more_is_taken_while_delivering_is_behind():
    """Whoever watches that is asked with what waits already, and decides."""
    queue = EventQueue(Intake(), refuses=lambda waiting: waiting >= 3)
    fill(queue, "a", 3)
    with pytest.raises(QueueFull, match="delivered"):
        queue.put(publication(of("b")))


async def test_the_bound_in_bytes():
    """Few large events fill the queue as many small ones do."""
    queue = EventQueue(Intake(max_queue=1_000, max_queue_bytes=100))
    fill(queue, "a", 1, size=50)
    fill(queue, "b", 1, size=49)
    with pytest.raises(QueueFull):
        queue.put(publication(of("c", size=2)))
    queue.put(publication(of("c", size=1)))


async def test_an_organization_gets_half_in_events():
    """One organization cannot fill the queue: the others find room in its other half."""
    queue = EventQueue(Intake(max_queue=10))
    fill(queue, "greedy", 5)
    with pytest.raises(QueueFull):
        queue.put(publication(of("greedy")))
    fill(queue, "other", 5)


async def test_an_organization_gets_half_in_bytes():
    """Half holds for bytes, too, and in both modes together."""
    queue = EventQueue(Intake(max_queue=1_000, max_queue_bytes=100))
    fill(queue, "greedy", 1, size=50)
    with pytest.raises(QueueFull):
        queue.put(publication(of("greedy", size=1)))
    fill(queue, "other", 1, size=50)


async def test_a_queue_of_one_takes_one():
    """Half of one is not nothing."""
    queue = EventQueue(Intake(max_queue=1))
    fill(queue, "a", 1)
    assert queue.depth == 1


async def test_a_publication_is_taken_whole_or_not_at_all():
    """A batch that the queue has no room for leaves no part of itself behind."""
    queue = EventQueue(Intake(max_queue=4))
    with pytest.raises(QueueFull):
        queue.put(publication(*(of(name) for name in "abcde")))
    with pytest.raises(QueueFull):
        queue.put(publication(of("a"), of("a"), of("a")))
    assert (queue.depth, bool(queue)) == (0, False)
    queue.put(publication(of("a"), of("a"), of("b"), of("b")))
    assert (queue.depth, bool(queue)) == (4, True)


async def test_events_come_out_in_order():
    """First in, first out, each with the publication that it belongs to."""
    queue = EventQueue(Intake())
    first, second = publication(of("a"), of("a")), publication(of("a"))
    queue.put(first)
    queue.put(second)
    assert [queue.take() for _ in range(4)] == [(first, 0), (first, 1), (second, 0), None]
    assert queue.depth == 3


async def test_organizations_take_turns():
    """One that publishes much at once does not stand before the others, and each one's own events stay in order."""
    queue = EventQueue(Intake())
    greedy, modest, late = (
        publication(*(of("greedy") for _ in range(4))),
        publication(of("modest"), of("modest")),
        publication(of("late")),
    )
    for waiting in (greedy, modest, late):
        queue.put(waiting)
    assert [queue.take() for _ in range(7)] == [
        (greedy, 0),
        (modest, 0),
        (late, 0),
        (greedy, 1),
        (modest, 1),
        (greedy, 2),
        (greedy, 3),
    ]


async def test_what_nobody_waits_for_is_dropped_with_its_share():
    """Events of a publisher that went away are not handed out, and free their room in both bounds."""
    queue = EventQueue(Intake(max_queue=4, max_queue_bytes=100))
    gone, waiting = publication(of("a", size=25), of("a", size=25)), publication(of("b"))
    queue.put(gone)
    queue.put(waiting)
    gone.done.cancel()
    assert [queue.take(), queue.take()] == [(waiting, 0), None]
    assert queue.depth == 1
    fill(queue, "a", 2, size=25)


async def test_nothing_is_left_of_an_organization_that_was_released():
    """Once all of an organization's events are released, its whole half is free, and nothing about it is kept."""
    queue = EventQueue(Intake(max_queue=8, max_queue_bytes=100))
    for _ in range(3):
        fill(queue, "a", 4, size=12)
        while entry := queue.take():
            queue.release(entry)
        assert queue.depth == 0
    assert not queue._counts
    assert not queue._bytes_of
    assert queue._bytes == 0


async def test_a_publisher_waits_for_the_last_of_its_events():
    """A publication is done when every event of it is committed, in however many steps."""
    both = publication(of("a"), of("a"))
    both.committed()
    assert not both.done.done()
    both.committed()
    assert await both.done == both.outcomes


async def test_a_publisher_hears_of_the_first_failure():
    """One event that cannot be committed is told at once; what is committed afterwards changes nothing about it."""
    both = publication(of("a"), of("a"))
    both.failed(ValueError("no"))
    both.committed()
    both.failed(ValueError("again"))
    with pytest.raises(ValueError, match="no"):
        await both.done
