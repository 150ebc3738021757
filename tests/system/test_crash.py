"""`kill -9` under load, again and again on one store: nothing accepted is lost, and little is sent twice."""

import sys
from pathlib import Path

import pytest

from scripts.campaigns import report
from scripts.campaigns.crash import Moment, Options, run
from tests.system.gateway_process import Database, PostgresDatabase

ROUNDS = {"sqlite": 25, "postgres": 6}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("database", "rounds"), ROUNDS.items(), ids=ROUNDS, indirect=["database"])
async def test_kills_lose_nothing_and_repeat_only_what_was_in_flight(database: Database, rounds: int, tmp_path: Path):
    """A campaign keeps every promise: each accepted event reached each endpoint that wanted it, as one event; what came twice was
    open at a kill, or answered and not on record; no audit has a finding, neither beside the gateway nor in the end."""
    crash_database = database._server.crash if isinstance(database, PostgresDatabase) else None
    options = Options(store_url=database.url, directory=tmp_path, rounds=rounds, seed=20)
    outcome = await run(options, _tell, crash_database=crash_database)
    sys.stdout.write(report.as_text(outcome))
    assert not outcome.faults
    assert len(outcome.verdict.kills) == rounds
    assert sum(kill.in_flight for kill in outcome.verdict.kills) > 0, "no kill met an open request: this was no load"
    assert Moment.LOAD in outcome.rounds
    assert (Moment.POWER if crash_database else Moment.CHECKPOINT) in outcome.rounds
    assert outcome.audits_under_load > 0


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
