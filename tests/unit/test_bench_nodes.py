"""What the benchmark concludes of nodes on a PostgreSQL."""

import os
import subprocess
import sys

import msgspec
import pytest
from msgspec.structs import replace

from scripts.benchmarks.backlog import Backlog, Start
from scripts.benchmarks.cluster import is_settled
from scripts.benchmarks.database_work import DatabaseWork, Statements, count
from scripts.benchmarks.file_system import FileSystem
from scripts.benchmarks.nodes_report import (
    Latency,
    NodesReport,
    ServerFacts,
    as_text,
    report_on_backlog,
    report_on_case,
    report_on_cpu,
    report_on_database,
    report_on_latency,
)
from scripts.benchmarks.phase import Measurement
from scripts.benchmarks.process_facts import TICK_SECONDS, cpu_seconds, family_cpu_seconds
from scripts.benchmarks.report import Machine, Spread

RUN = Measurement(
    deliveries=1_000,
    deliveries_per_second=1_000,
    deliveries_per_cpu_second=800,
    cpu=1.0,
    receiver_cpu=0.1,
    p50_ms=5.0,
    p99_ms=9.0,
    peak_memory_mib=64.0,
    deliveries_verified=1_200,
    events_per_second=100,
    database_cpu=0.25,
)
WORK = DatabaseWork(
    deliveries=1_000, events=500, written=50, wal_bytes=3_000_000, disk_bytes=2_000_000, statements=Statements(400, 150, 60)
)


def at(rate: float, by_cpu: float) -> Measurement:
    return replace(RUN, deliveries_per_second=rate, deliveries_per_cpu_second=by_cpu)


def test_settings_of_a_transaction_are_no_round_trips_of_their_own():
    """They travel with its BEGIN; everything else is sent by itself, and waited for."""
    ran = [("BEGIN", 3), ("SET LOCAL jit = off", 3), ("set local statement_timeout = 3000", 3), ("WITH a AS (", 3), ("COMMIT", 2)]
    assert count([*ran, ("SELECT 1", 4)]) == Statements(statements=18, round_trips=12, commits=2)


def test_what_the_database_does_is_told_for_each_delivery():
    """And set against the target; where nobody counted the statements there is no verdict."""
    report = report_on_database([WORK])
    assert report.round_trips == Spread(0.15, 0.15, 0.15)
    assert report.met is True
    assert (report.written.median, report.written_by_event.median, report.wal_bytes.median) == (0.05, 0.1, 3_000)
    uncounted = report_on_database([replace(WORK, statements=None)])
    assert (uncounted.round_trips, uncounted.met) == (None, None)
    assert report_on_database([replace(WORK, statements=Statements(400, 300, 60))]).met is False


def test_a_node_is_held_against_the_embedded_store_of_the_same_round():
    """By rate alone: a rate that is saved by CPU seconds is none."""
    baseline = [at(4_000, 4_000), at(2_000, 2_000)]
    embedded = [at(2_000, 2_000), at(1_000, 1_000)]
    case = report_on_case("1 node", 0.5, [at(900, 1_900), at(450, 950)], baseline, embedded, [WORK])
    assert case.ratio.median == pytest.approx(0.225)
    assert case.embedded_ratio == Spread(0.45, 0.45, 0.45)
    assert case.embedded_cpu_ratio == Spread(0.95, 0.95, 0.95)
    assert case.met is False
    assert report_on_case("1 node", 0.5, embedded, baseline, embedded, None).met is True


def test_cpu_for_each_delivery_is_compared_with_one_node():
    """Twice as many deliveries for a CPU second are half of it for each."""
    assert report_on_cpu([at(1, 1_000)], [at(1, 800)]).ratio.median == pytest.approx(1.25)
    assert report_on_cpu([at(1, 1_000)], [at(1, 800)]).met is False
    assert report_on_cpu([at(1, 1_000)], [at(1, 900)]).met is True


def test_latencies_are_compared_within_a_round():
    """A round that is slow on both sides says nothing of the way between nodes."""
    rounds = [(10.0, 50.0), (400.0, 440.0), (10.0, 70.0)]
    report = report_on_latency([Latency(100, replace(RUN, p99_ms=near), replace(RUN, p99_ms=far)) for near, far in rounds])
    assert report.difference_ms == Spread(40.0, 40.0, 60.0)
    assert report.met is True


def test_the_tables_say_what_is_met_and_what_is_missed():
    """In the same words for all targets; all of it is JSON, too."""
    slow, fast = at(500, 500), at(1_000, 1_000)
    report = NodesReport(
        machine=Machine(2, "a processor", "Linux", {"python": "3.11.7"}),
        file_system=FileSystem("ext4", "/dev/vda", "/"),
        sync_ms=0.5,
        server=ServerFacts("15.1", {"fsync": "on", "shared_buffers": "128MB"}),
        rounds=1,
        seconds=5.0,
        receivers=1,
        receiver_capacity=60_000.0,
        cases=[
            report_on_case("baseline", None, [fast], [fast], None, None),
            report_on_case("1 node", 0.5, [slow], [fast], [fast], [WORK]),
            report_on_case("2 nodes", None, [slow], [fast], [fast], [replace(WORK, statements=None)]),
        ],
        cpu=report_on_cpu([fast], [slow]),
        latency=report_on_latency([Latency(100, RUN, RUN)]),
        backlog=report_on_backlog(Backlog(1_000_000, 60.0, [Start(0.5, 0.6, 60.0, fast)], [Start(0.7, 0.9, 70.0, slow)])),
    )
    text = as_text(report)
    assert "PostgreSQL 15.1: fsync on, shared_buffers 128MB" in text
    assert ">= 0.50 of embedded met" in text
    assert "<= 0.2 round trips met" in text
    assert "not counted" in text
    assert "2.00, target <= 1.15 MISSED" in text
    assert "0.0 ms, target <= 50 ms met" in text
    assert "1,000,000 deliveries waiting" in text
    assert "rate beside them: 0.50 of that without; 10.0 MiB more memory" in text
    assert msgspec.json.decode(msgspec.json.encode(report), type=NodesReport) == report


def test_nodes_have_settled_when_everything_is_held_in_equal_shares():
    """Not while a bucket is free, nor while one still has to give some to the other."""
    first, second = frozenset(range(32)), frozenset(range(32, 64))
    assert is_settled([first, second])
    assert is_settled([first | second])
    assert not is_settled([first, second - {63}])
    assert not is_settled([first | {32}, second - {32}])


def test_the_cpu_of_a_family_includes_children_that_live_and_that_have_ended():
    """As of a database, which is a process for each connection."""
    burn = "import time\nwhile time.process_time() < 0.1: pass\n"
    program = (
        "import subprocess, sys\n"
        f"burn = [sys.executable, '-c', {burn + 'print(flush=True); input()'!r}]\n"
        "ended, living = (subprocess.Popen(burn, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2))\n"
        "ended.stdout.readline(); living.stdout.readline(); ended.communicate(b'\\n')\n"
        "print(flush=True); input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as family:
        assert family.stdin is not None
        assert family.stdout is not None
        family.stdout.readline()
        assert family_cpu_seconds(family.pid) - cpu_seconds(family.pid) >= 0.2 - 4 * TICK_SECONDS  # each part is rounded down
        family.stdin.write(b"\n")
    assert family_cpu_seconds(os.getpid()) >= cpu_seconds(os.getpid())
