"""`gateway audit`: what it says, and with which code it ends."""

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli import program
from gateway.clock import DAY, isoformat
from gateway.store.sqlite import SqliteStore
from tests.contract.test_audit import Life
from tests.fakes import START


def audit(store: Path, *arguments: str) -> Result:
    # The store is of another time than this.
    words = ["audit", "--set", f"store.url=sqlite:///{store}", "--set", "retention.days=36500", *arguments]
    return CliRunner().invoke(program, words, env={"GATEWAY_CONFIG": None, "GATEWAY_URL": None})


@pytest.fixture
async def store(tmp_path: Path) -> Path:
    """One event, which one endpoint waits for."""
    path = tmp_path / "gateway.db"
    async with SqliteStore.open(path) as opened:
        life = Life(opened)
        await life.make("*")
        await life.publish()
    return path


def damage(store: Path) -> None:
    with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.execute("DELETE FROM deliveries")


def test_a_whole_store(store: Path):
    """It says what it has looked at, and ends with 0."""
    result = audit(store)
    assert result.exit_code == 0
    assert result.stdout.startswith(
        "Nothing is missing: looked at 1 events, 1 deliveries, 0 attempts and 1 revisions of 1 tenants"
    )


def test_a_store_with_damage(store: Path):
    """Each finding has a line, a last one counts them, and the end is 1."""
    damage(store)
    result = audit(store)
    assert result.exit_code == 1
    first, last = result.stdout.splitlines()
    assert first.startswith("delivery_missing whev_")
    assert "To do: publish the event again" in first
    assert last.startswith("1 things are not as they have to be")


def test_json(store: Path):
    """The same for programs."""
    damage(store)
    result = audit(store, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["events"], report["deliveries"], report["tenants"]) == (1, 0, 1)
    [finding] = report["findings"]
    assert (finding["kind"], finding["organizationId"], finding["mode"]) == ("delivery_missing", "acme", "live")
    assert all(finding[word] for word in ("detail", "meaning", "remedy"))


def test_parts(store: Path):
    """One organization, or a span of time; what is outside of it is not looked at."""
    damage(store)
    assert audit(store, "--organization", "globex").exit_code == 0
    assert audit(store, "--organization", "acme").exit_code == 1
    assert audit(store, "--since", isoformat(START + DAY)).exit_code == 0
    assert audit(store, "--until", isoformat(START - DAY)).exit_code == 0
    assert audit(store, "--since", isoformat(START), "--until", isoformat(START + DAY)).exit_code == 1


def test_what_is_older_than_it_is_kept(store: Path):
    """It cannot be proven, which is said."""
    damage(store)
    result = audit(store, "--since", isoformat(START - DAY), "--set", "retention.days=1")
    assert result.exit_code == 0
    assert "History is kept for retention.days = 1" in result.stderr


def test_refusals(store: Path, tmp_path: Path):
    """A store that is not there, a time that is none: a sentence, and no store is made."""
    missing = audit(tmp_path / "another.db")
    assert missing.exit_code == 1
    assert "there is no store" in missing.stderr
    assert not (tmp_path / "another.db").exists()
    wrong = audit(store, "--since", "yesterday")
    assert wrong.exit_code == 2
    assert "ISO 8601" in wrong.stderr
