"""Accepted is what is on the disk: the real process, watched by strace."""

import asyncio
from pathlib import Path

import pytest

from tests.system import sync_trace
from tests.system.gateway_process import ON_THE_EMBEDDED_STORE, Client, Installation
from tests.system.sync_trace import accepting_answers, hasty_answers, read_trace, syncs_of

LOG = Path("/var/gateway.db-wal")


async def _traced(installation: Installation, trace: Path, publishers: int, events_each: int) -> int:
    """Publishes to a gateway under strace, each publisher one event after another; how many were accepted."""
    gateway = await installation.start(wrapper=sync_trace.command(trace))
    client = await installation.client()
    accepted = await asyncio.gather(*(_publish(client, events_each) for _ in range(publishers)))
    assert await gateway.stop() == 0, gateway.tail
    return sum(accepted)


async def _publish(client: Client, count: int) -> int:
    for number in range(count):
        await client.publish("durability.checked", {"number": number})
    return count


@ON_THE_EMBEDDED_STORE
async def test_each_event_is_answered_after_a_sync_of_its_own_commit(installation: Installation, tmp_path: Path):
    """One publisher, one event at a time: as many syncs as commits, and no 202 before its sync has returned."""
    trace = tmp_path / "trace"
    log = Path(f"{installation.store}-wal")
    accepted = await _traced(installation, trace, publishers=1, events_each=40)
    calls = read_trace(trace.read_text(errors="replace").splitlines())
    answers = accepting_answers(calls)
    assert len(answers) == accepted == 40
    assert hasty_answers(calls, log) == []
    meanwhile = [sync for sync in syncs_of(calls, log) if answers[0].started < sync.started < answers[-1].started]
    assert accepted - 1 <= len(meanwhile) <= accepted + 5  # some more, for when the key was used last


@ON_THE_EMBEDDED_STORE
async def test_publishers_at_the_same_time_share_their_syncs(installation: Installation, tmp_path: Path):
    """Group commit: far fewer syncs than events, and still none is answered before its own."""
    trace = tmp_path / "trace"
    log = Path(f"{installation.store}-wal")
    accepted = await _traced(installation, trace, publishers=32, events_each=10)
    calls = read_trace(trace.read_text(errors="replace").splitlines())
    assert len(accepting_answers(calls)) == accepted == 320
    assert hasty_answers(calls, log) == []
    assert len(syncs_of(calls, log)) < accepted / 2


# What the checks above are worth: a trace of each fault is told from one of a gateway that keeps its word.

READ = '10 read(7<socket:[1]>, "POST /events HTTP/1.1\\r\\n"..., 65536) = 300'
STORE = '11 pwrite64(9</var/gateway.db-wal>, "\\0\\0\\0"..., 4096, 0) = 4096'
SYNC = "11 fdatasync(9</var/gateway.db-wal>) = 0"
SYNC_STARTS = "11 fdatasync(9</var/gateway.db-wal> <unfinished ...>"
SYNC_ENDS = "11 <... fdatasync resumed>)            = 0"
WRITE = '10 write(7<socket:[1]>, "HTTP/1.1 202 Accepted\\r\\nC"..., 400) = 400'
NEXT_READ = "10 read(7<socket:[1]>, 0x55, 65536)    = -1 EAGAIN (Resource temporarily unavailable)"

SOUND = {
    "in one line each": [READ, STORE, SYNC, WRITE, NEXT_READ],
    "with the sync interleaved": [READ, STORE, SYNC_STARTS, NEXT_READ, SYNC_ENDS, WRITE],
    "with a read interleaved": [
        READ.replace(' "POST /events HTTP/1.1\\r\\n"..., 65536) = 300', " <unfinished ...>"),
        NEXT_READ.replace("(7<", "(8<").replace("10 ", "12 "),
        '10 <... read resumed>"POST /events HTTP/1.1\\r\\n"..., 65536) = 300',
        STORE,
        SYNC,
        WRITE,
    ],
    "by another call": [READ, STORE, SYNC.replace("fdatasync", "fsync"), WRITE.replace("write", "writev")],
}
HASTY = {
    "without a sync": [READ, STORE, WRITE, NEXT_READ],
    "before the sync": [READ, STORE, WRITE, SYNC],
    "while the sync runs": [READ, STORE, SYNC_STARTS, WRITE, SYNC_ENDS],
    "after a sync that failed": [READ, STORE, SYNC.replace("= 0", "= -1 EIO (Input/output error)"), WRITE],
    "after the sync of another file": [READ, STORE, SYNC.replace("gateway.db-wal", "gateway.db"), WRITE],
    "after a sync that began before the request was there": [STORE, SYNC_STARTS, READ, SYNC_ENDS, WRITE],
    "after a sync that began before the event was written": [READ, SYNC, STORE, WRITE],
    "after the sync of the request before": [READ, STORE, SYNC, WRITE, READ, WRITE],
    "after a request on another connection": [READ.replace("(7<", "(8<"), STORE, SYNC, WRITE],
}


@pytest.mark.parametrize("lines", SOUND.values(), ids=SOUND)
def test_a_trace_in_which_the_answer_waited_is_sound(lines: list[str]):
    calls = read_trace(lines)
    assert len(accepting_answers(calls)) == 1
    assert hasty_answers(calls, LOG) == []


@pytest.mark.parametrize("lines", HASTY.values(), ids=HASTY)
def test_a_trace_with_a_202_before_its_sync_is_told(lines: list[str]):
    assert len(hasty_answers(read_trace(lines), LOG)) == 1
