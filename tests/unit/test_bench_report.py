"""What the benchmark concludes: ratios, targets, where the store lies."""

import msgspec
import pytest

from scripts.benchmarks.file_system import FileSystem, find_file_system
from scripts.benchmarks.phase import Measurement
from scripts.benchmarks.report import Machine, Report, Spread, as_text, report_on, report_start
from scripts.benchmarks.start_up import StartUp

MOUNTINFO = r"""
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:25 / /dev/shm rw,nosuid - tmpfs shm rw
31 22 0:26 / /my\040disk rw shared:1 - xfs /dev/vdb rw
32 31 0:27 / /my\040disk rw - btrfs /dev/vdc rw
""".strip()


def measured(rate: float, by_cpu: float) -> Measurement:
    return Measurement(
        deliveries=1_000,
        deliveries_per_second=rate,
        deliveries_per_cpu_second=by_cpu,
        cpu=1.0,
        receiver_cpu=0.1,
        p50_ms=5.0,
        p99_ms=9.0,
        peak_memory_mib=64.0,
        deliveries_verified=1_200,
    )


def test_ratios_are_to_the_baseline_of_the_same_round():
    """A machine that is slow for a round slows both sides of its ratio."""
    baseline = [measured(1_000, 2_000), measured(500, 1_000), measured(1_000, 2_000)]
    case = report_on("a case", None, [measured(800, 1_000), measured(400, 500), measured(900, 1_000)], baseline)
    assert case.ratio == Spread(0.8, 0.8, 0.9)
    assert case.cpu_ratio == Spread(0.5, 0.5, 0.5)
    assert case.deliveries_per_second == Spread(800, 400, 900)
    assert case.met is None


@pytest.mark.parametrize(("rate", "by_cpu", "met"), [(700, 100, True), (100, 700, True), (600, 600, False)])
def test_a_target_is_met_by_either_ratio(rate, by_cpu, met):
    """By rate, or by rate for each CPU second."""
    assert report_on("a case", 0.65, [measured(rate, by_cpu)], [measured(1_000, 1_000)]).met is met


def test_the_table_says_what_is_met_and_what_is_missed():
    """In the same words for all targets, with the spread where there is one."""
    baseline = [measured(1_000, 1_000), measured(1_100, 1_100), measured(1_200, 1_200)]
    report = Report(
        machine=Machine(2, "a processor", "Linux", {"python": "3.11.7"}),
        file_system=FileSystem("ext4", "/dev/vda", "/"),
        sync_ms=0.5,
        rounds=3,
        seconds=5.0,
        receivers=1,
        receiver_capacity=60_000.0,
        cases=[report_on("baseline", None, baseline, baseline), report_on("good", 0.5, baseline, baseline)],
        start=report_start(StartUp([0.5, 0.7, 1.2], 0.02, 10.0)),
    )
    text = as_text(report)
    assert "1,100 (1,000-1,200)" in text
    assert ">= 0.50 met" in text
    assert "0.70 (0.50-1.20) s, target < 1 s met" in text
    assert "2.00%, target < 1% MISSED" in text
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_the_file_system_is_that_of_the_deepest_mount():
    """Names with spaces are unescaped, and of two mounts at one place the later counts."""
    assert find_file_system("/home/me", MOUNTINFO) == FileSystem("ext4", "/dev/vda", "/")
    assert find_file_system("/dev/shm", MOUNTINFO).type == "tmpfs"
    assert find_file_system("/dev/shmall", MOUNTINFO).type == "ext4"
    assert find_file_system("/my disk/store", MOUNTINFO) == FileSystem("btrfs", "/dev/vdc", "/my disk")
