"""The command line of `scripts/crash`."""

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import msgspec

from scripts.benchmarks.postgres_server import BinariesMissingError, PostgresServer, ServerError
from scripts.campaigns import report
from scripts.campaigns.crash import Options, Outcome, run
from scripts.campaigns.gateway import GatewayFailed
from scripts.campaigns.publishers import UnexpectedAnswer

_PRIVATE = "postgresql"


def main() -> int:
    """Carries a campaign out, prints, and returns the exit code: 0 when every promise was kept."""
    parser = argparse.ArgumentParser(prog="scripts/crash")
    parser.description = (
        "Kills the gateway with SIGKILL under load, again and again on one store: while it works, while it starts, while SQLite "
        "writes its log back, or together with its PostgreSQL. Then looks whether everything that was accepted arrived, whether "
        "more was sent twice than was in flight, and what `gateway audit` finds."
    )
    parser.add_argument("--rounds", type=int, default=25, help="how many kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="decides on the moments and the load (default: another each time)")
    parser.add_argument(
        "--store",
        default="sqlite",
        help="sqlite, postgresql (a private server beside the gateway), or the URL of an empty database (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--directory", type=Path, default=Path("var"), help="where the store and logs go for the time being")
    given = parser.parse_args()
    seed = random.randrange(1_000_000) if given.seed is None else given.seed

    signal.signal(signal.SIGTERM, _exit)
    given.directory.mkdir(parents=True, exist_ok=True)
    outcome: Outcome | None = None
    try:
        with (
            tempfile.TemporaryDirectory(prefix="crash-", dir=given.directory) as directory,
            _store(given.store, Path(directory)) as (url, crash),
        ):
            options = Options(store_url=url, directory=Path(directory), rounds=given.rounds, seed=seed)
            outcome = asyncio.run(run(options, _progress, crash_database=crash))
    except* (GatewayFailed, UnexpectedAnswer, BinariesMissingError, ServerError, TimeoutError) as errors:
        print(f"scripts/crash: seed {seed}: {'; '.join(map(str, errors.exceptions))}", file=sys.stderr)
    if outcome is None:
        return 1
    print(msgspec.json.format(msgspec.json.encode(outcome)).decode() if given.json else report.as_text(outcome))
    return 1 if outcome.faults else 0


@contextlib.contextmanager
def _store(name: str, directory: Path) -> Iterator[tuple[str, Callable[[], None] | None]]:
    """The URL of an empty store, and what ends its server as a power cut does, if that is ours."""
    if name == _PRIVATE:
        with PostgresServer.open() as server:
            yield server.create_database("campaign"), server.crash
    else:
        yield (f"sqlite:///{directory.resolve()}/gateway.db" if name == "sqlite" else name), None


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _exit(number: int, _: FrameType | None) -> None:
    """Ends the campaign by way of its `finally` clauses, which end its children."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
