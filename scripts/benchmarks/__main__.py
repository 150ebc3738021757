"""The command line of `scripts/bench`."""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

import msgspec

from scripts.benchmarks import (
    isolation,
    isolation_report,
    nodes,
    nodes_report,
    overload,
    overload_report,
    report,
    retention,
    retention_report,
    suite,
)
from scripts.benchmarks.children import ChildFailed
from scripts.benchmarks.file_system import InMemory
from scripts.benchmarks.postgres_server import BinariesMissingError, ServerError
from scripts.benchmarks.suite import Options

_SUITES = {
    "main": suite.names(),
    "nodes": nodes.names(),
    "isolation": isolation.names(),
    "overload": (),
    "retention": retention.names(),
}


def main() -> int:
    """Measures, prints, and returns the exit code: 0 when everything arrived, whether or not the targets were met."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.description = "Measures the gateway, durable and with default settings, against a bare loop of aiohttp client POSTs."
    parser.add_argument(
        "suite",
        nargs="?",
        choices=list(_SUITES),
        default="main",
        help="what to measure: the embedded store; nodes on a private PostgreSQL beside it; what endpoints that misbehave "
        "cost the others; what becomes of much more than the gateway can take; or what pruning old events costs the deliveries "
        "meanwhile (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--quick", action="store_true", help="one short run: shows that everything works, not how fast it is")
    parser.add_argument("--runs", type=int, help="how many runs the medians are of (default: 5)")
    parser.add_argument("--seconds", type=float, help="how long each run is measured (default: 5)")
    parser.add_argument(
        "--only",
        action="append",
        metavar="PART",
        help="measure only this, beside the baseline; repeatable. "
        + "; ".join(f"{name}: {', '.join(parts)}" for name, parts in _SUITES.items() if parts),
    )
    parser.add_argument("--overload-seconds", type=float, help="how long the overload lasts (default: 60)")
    parser.add_argument("--waiting", type=int, help="how many deliveries wait in the part `backlog` (default: 1,000,000)")
    parser.add_argument("--history", type=int, help="how many old events there are in the suite `retention` (default: 200,000)")
    parser.add_argument("--receivers", type=int, default=1, help="processes that receive (default: %(default)s)")
    parser.add_argument(
        "--profile", type=Path, metavar="DIR", help="write cProfile's statistics of each run there; all gets slower"
    )
    parser.add_argument("--directory", type=Path, help="where stores and logs are put for the time being (default: var/bench)")
    given = parser.parse_args()
    for part in given.only or ():
        if part not in _SUITES[given.suite]:
            parser.error(f"the suite {given.suite} has no part {part!r}; it has {', '.join(_SUITES[given.suite])}")

    options = Options(receivers=given.receivers, only=frozenset(given.only or ()), profile=given.profile)
    if given.quick:
        options = msgspec.structs.replace(
            options,
            rounds=1,
            seconds=0.5,
            warm_up_seconds=0.3,
            idle_seconds=1.0,
            starts=1,
            waiting=10_000,
            history=5_000,
            timeout_seconds=1.0,
            overload_seconds=2.0,
        )
    changes = {
        "rounds": given.runs,
        "seconds": given.seconds,
        "directory": given.directory,
        "waiting": given.waiting,
        "history": given.history,
        "overload_seconds": given.overload_seconds,
    }
    options = msgspec.structs.replace(options, **{name: value for name, value in changes.items() if value is not None})
    if options.profile is not None:
        options.profile.mkdir(parents=True, exist_ok=True)

    signal.signal(signal.SIGTERM, _exit)
    try:
        measured, text = _measure(given.suite, options)
    except (ChildFailed, InMemory, BinariesMissingError, ServerError) as error:
        print(f"scripts/bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(msgspec.json.format(msgspec.json.encode(measured)).decode() if given.json else text)
    return 0


def _measure(name: str, options: Options) -> tuple[msgspec.Struct, str]:
    """What the suite *name* has found, and the same as people read it."""
    if name == "nodes":
        found = nodes.run(options, _progress)
        return found, nodes_report.as_text(found)
    if name == "retention":
        pruned = retention.run(options, _progress)
        return pruned, retention_report.as_text(pruned)
    if name == "isolation":
        isolated = isolation.run(options, _progress)
        return isolated, isolation_report.as_text(isolated)
    if name == "overload":
        overloaded = overload.run(options, _progress)
        return overloaded, overload_report.as_text(overloaded)
    measured = suite.run(options, _progress)
    return measured, report.as_text(measured)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _exit(number: int, _: FrameType | None) -> None:
    """Ends the benchmark by way of its `finally` clauses, which end its children."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
