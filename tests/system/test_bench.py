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


@pytest.mark.timeout(180)
async def test_a_quick_benchmark_measures_every_case_and_loses_nothing():
    """It verifies itself that each delivery arrived once, and reports a rate, latencies and ratios for each case."""
    environment = {**os.environ, "GATEWAY_PYTHON": sys.executable}
    bench = await asyncio.create_subprocess_exec(
        str(ROOT / "scripts" / "bench"), "--quick", "--json", cwd="/", env=environment, stdout=PIPE, stderr=PIPE
    )
    try:
        stdout, stderr = await bench.communicate()
    finally:
        if bench.returncode is None:
            bench.terminate()  # it ends its own children then
    if bench.returncode != 0 and b"tmpfs" in stderr:
        pytest.skip("the working tree is on a tmpfs, where syncing costs nothing and a benchmark says nothing")
    assert bench.returncode == 0, stderr.decode()
    report = json.loads(stdout)
    assert len(report["cases"]) == CASES
    for case in report["cases"]:
        _check(case)
    assert report["cases"][0]["ratio"]["median"] == pytest.approx(1.0)
    assert report["sync_ms"] > 0
    assert 0 < report["start"]["first_delivery_seconds"]["median"] < 10


def _check(case: dict[str, Any]) -> None:
    assert case["deliveries_verified"] > 0, case
    assert all(case[name]["median"] > 0 for name in ("deliveries_per_second", "ratio", "cpu_ratio", "peak_memory_mib")), case
    assert 0 < case["p50_ms"]["median"] <= case["p99_ms"]["median"], case
