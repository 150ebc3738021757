"""`scripts/bench` works; how fast things are is for people to measure, on a machine that does nothing else."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from typing import Any

import pytest

from tests.system.gateway_process import ROOT

CASES = 5  # the baseline, in process to 1 and 10 endpoints, HTTP one by one and in batches
ISOLATION_KINDS = 8
NODES_CASES = 6  # the baseline, in process on each store, HTTP on the embedded one, to 1 node and to 2


@pytest.mark.timeout(180)
async def test_a_quick_benchmark_measures_every_case_and_loses_nothing():
    """It verifies itself that each delivery arrived once, and reports a rate, latencies and ratios for each case."""
    report = await _run_bench()
    assert len(report["cases"]) == CASES
    for case in report["cases"]:
        _check(case)
        assert case["cpu_ratio"]["median"] > 0, case
    assert report["cases"][0]["ratio"]["median"] == pytest.approx(1.0)
    assert report["sync_ms"] > 0
    assert 0 < report["start"]["first_delivery_seconds"]["median"] < 10


@pytest.mark.timeout(240)
async def test_a_quick_benchmark_of_nodes_measures_every_part_and_loses_nothing():
    """With a PostgreSQL of its own it does the same for one node and two, and tells what the database had to do, how long
    deliveries take across nodes, and what waiting ones cost."""
    report = await _run_bench("nodes")
    assert len(report["cases"]) == NODES_CASES
    baseline, _, in_process, embedded, one, two = report["cases"]
    for case in report["cases"]:
        _check(case)
    assert baseline["ratio"]["median"] == pytest.approx(1.0)
    assert embedded["database_cpu_ms"]["median"] == 0
    for case in (in_process, one, two):
        assert case["embedded_ratio"]["median"] > 0
        assert case["database_cpu_ms"]["median"] > 0
    for case in (one, two):
        assert 0 < case["database"]["round_trips"]["median"] < case["database"]["statements"]["median"]
        assert case["database"]["wal_bytes"]["median"] > 0
    assert report["server"]["settings"]["fsync"] == "on"
    assert report["cpu"]["ratio"]["median"] > 0
    assert report["latency"]["deliveries_verified"] > 0
    assert report["backlog"]["waiting"] == 10_000
    assert report["backlog"]["rate_ratio"]["median"] > 0


@pytest.mark.timeout(180)
async def test_a_quick_benchmark_of_retention_prunes_meanwhile_and_loses_nothing():
    """It tells what two loads had while old events were pruned and while they were not, and how many were."""
    report = await _run_bench("retention")
    assert len(report["loads"]) == 2
    for load in report["loads"]:
        assert load["deliveries_verified"] > 0
        assert load["pruned_per_second"]["median"] > 0
        assert all(load[name]["median"] > 0 for name in ("without_per_second", "pruning_per_second", "pruning_p99_ms")), load


@pytest.mark.timeout(240)
async def test_a_quick_benchmark_of_isolation_measures_every_kind_and_loses_nothing():
    """It tells what each way of misbehaving cost the healthy half, to which every delivery arrived once."""
    report = await _run_bench("isolation")
    assert len(report["kinds"]) == ISOLATION_KINDS
    for kind in report["kinds"]:
        assert kind["deliveries_verified"] > 0
        assert all(kind[name]["median"] > 0 for name in ("rate_ratio", "first_p99_ratio", "then_p99_ratio")), kind


@pytest.mark.timeout(180)
async def test_a_quick_benchmark_of_overload_loses_nothing():
    """Whatever was accepted arrived once, whatever was not was refused in the right way, and it tells what memory did."""
    report = await _run_bench("overload")
    assert report["others"] == {}
    assert report["offered"] == report["accepted"] + report["refused"]
    assert report["times"] > 0
    assert report["memory_max_mib"] >= report["memory_before_mib"] > 0
    assert report["verified"] > 0


async def _run_bench(*suite: str) -> Any:
    """What `scripts/bench --quick` reports."""
    environment = {**os.environ, "GATEWAY_PYTHON": sys.executable}
    bench = await asyncio.create_subprocess_exec(
        str(ROOT / "scripts" / "bench"), *suite, "--quick", "--json", cwd="/", env=environment, stdout=PIPE, stderr=PIPE
    )
    try:
        stdout, stderr = await bench.communicate()
    finally:
        if bench.returncode is None:
            bench.terminate()  # it ends its own children then
    if bench.returncode != 0 and b"tmpfs" in stderr:
        pytest.skip("the working tree is on a tmpfs, where syncing costs nothing and a benchmark says nothing")
    if bench.returncode != 0 and b"apt-get install" in stderr:
        pytest.skip("needs a PostgreSQL of its own")
    assert bench.returncode == 0, stderr.decode()
    return json.loads(stdout)


def _check(case: dict[str, Any]) -> None:
    assert case["deliveries_verified"] > 0, case
    assert all(case[name]["median"] > 0 for name in ("deliveries_per_second", "ratio", "peak_memory_mib")), case
    assert 0 < case["p50_ms"]["median"] <= case["p99_ms"]["median"], case
