"""`gateway check` and `gateway migrate`: sentences about settings and store, and nothing changed by looking."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from click.testing import CliRunner

from gateway import settings
from gateway.cli import program
from gateway.cli.check import Weight, settings_findings
from gateway.cli.serve import is_sound
from gateway.store.sqlite.connection import FileLock


def run(command: str, store: Path, *arguments: str):
    environment = {"GATEWAY_CONFIG": None, "GATEWAY_URL": None}
    return CliRunner().invoke(program, [command, "--set", f"store.url=sqlite:///{store}", *arguments], env=environment)


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "gateway.db"


def test_a_machine_without_a_store_is_fine_and_stays_without_one(store):
    result = run("check", store)
    assert result.exit_code == 0
    assert "every setting is known" in result.stdout
    assert f"there is no store at {store} yet" in result.stdout
    assert list(store.parent.iterdir()) == []


def test_migrate_makes_the_store_and_check_finds_it_sound(store):
    made = run("migrate", store)
    assert made.exit_code == 0
    assert made.stdout.startswith(f"Made the store {store}, at migration ")
    assert run("migrate", store).stdout.startswith(f"The store {store} was up to date, at migration ")
    checked = run("check", store)
    assert checked.exit_code == 0
    assert f"the store {store} is sound" in checked.stdout


def test_a_file_that_is_no_store_is_a_fault(store):
    store.write_bytes(b"not a database, and long enough to have a header" * 100)
    result = run("check", store)
    assert result.exit_code == 1
    assert "fault" in result.stdout


def test_a_store_from_the_future_is_a_fault(store):
    run("migrate", store)
    import sqlite3  # noqa: PLC0415 - only this test needs it

    connection = sqlite3.connect(store)
    connection.execute("INSERT INTO migrations VALUES (9999, 'later', 'x')")
    connection.commit()
    connection.close()
    result = run("check", store)
    assert result.exit_code == 1
    assert "migration 9999" in result.stdout


def test_others_who_may_read_the_store_are_told_of(store):
    run("migrate", store)
    store.chmod(0o644)
    result = run("check", store)
    assert result.exit_code == 0
    assert "may read" in result.stdout
    store.chmod(0o600)
    assert "may read" not in run("check", store).stdout


def test_a_store_that_another_process_holds_without_answering_is_a_fault(store):
    run("migrate", store)
    with FileLock(store):
        result = run("check", store)
        assert result.exit_code == 1
        assert "open; stop it first" in result.stdout
        assert run("migrate", store).exit_code == 1


def test_a_store_that_belongs_to_somebody_else_is_a_sentence(store):
    """Here a lock that may not be opened: a folder, so that it holds for root, too."""
    run("migrate", store)
    lock = store.with_name(store.name + ".lock")
    lock.unlink()
    lock.mkdir()
    checked, migrated = run("check", store), run("migrate", store)
    assert (checked.exit_code, migrated.exit_code) == (1, 1)
    assert f"the store {store} cannot be opened: Is a directory" in checked.stdout
    assert migrated.stderr == f"Error: the store {store} cannot be opened: Is a directory\n"


@pytest.mark.parametrize("folder", ["/proc", "/dev/null/none"])
def test_a_place_where_no_store_can_be_made_is_a_fault(folder, tmp_path):
    """Also where permissions do not say so, as for root in /proc."""
    result = run("check", Path(folder, "x.db"), "--set", f"http.socket={tmp_path}/gateway.sock")
    assert result.exit_code == 1
    assert "cannot be written to, so the store cannot be made" in result.stdout
    assert "`gateway serve` makes it" not in result.stdout


def test_a_store_whose_name_no_system_takes_is_a_sentence(tmp_path):
    arguments = (Path(tmp_path, "x" * 300), "--set", f"http.socket={tmp_path}/gateway.sock")
    checked, migrated = run("check", *arguments), run("migrate", *arguments)
    assert (checked.exit_code, migrated.exit_code) == (1, 1)
    assert "cannot be looked for: File name too long" in checked.stdout
    assert "cannot be looked for: File name too long" in migrated.stderr


def test_a_store_may_have_a_name_that_is_no_text(tmp_path):
    store = tmp_path / "\udcff.db"
    assert run("migrate", store).stdout.startswith(f"Made the store {tmp_path}/·.db, at migration ")
    assert f"the store {tmp_path}/·.db is sound" in run("check", store).stdout
    assert run("check", store, "--json").exit_code == 0


@asynccontextmanager
async def answering(socket: Path, *, status: int, text: str) -> AsyncIterator[None]:
    """A gateway on *socket* that answers /health/ready with this."""
    application = web.Application()

    async def ready(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    application.router.add_get("/health/ready", ready)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()
    try:
        yield
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "text", "exit_code", "sentence"),
    [
        (200, "ready", 0, "and it is ready"),
        (503, "the store cannot commit", 1, "but it is not ready: the store cannot commit"),
    ],
)
async def test_beside_a_running_gateway_the_gateway_is_asked(store, status, text, exit_code, sentence):
    store.touch(mode=0o600)
    socket = settings.load(environment={"GATEWAY_STORE__URL": f"sqlite:///{store}"}).socket_path
    async with answering(socket, status=status, text=text):
        result = await asyncio.to_thread(run, "check", store)
    assert result.exit_code == exit_code
    assert sentence in result.stdout


async def test_a_running_gateway_with_a_store_elsewhere_is_a_fault(tmp_path):
    socket = tmp_path / "gateway.sock"
    async with answering(socket, status=200, text="ready"):
        result = await asyncio.to_thread(run, "check", tmp_path / "none.db", "--set", f"http.socket={socket}")
    assert result.exit_code == 1
    assert f"there is no store at {tmp_path}/none.db: the running gateway was started with another" in result.stdout


def test_json_says_the_same(store):
    found = msgspec.json.decode(run("check", store, "--json").stdout)
    assert {"weight": "ok", "sentence": "every setting is known and has a possible value"} in found


def test_a_catalogue_that_cannot_be_read_is_a_fault(store):
    result = run("check", store, "--set", "events.catalogue=/nowhere.toml")
    assert result.exit_code == 1
    assert "/nowhere.toml cannot be read" in result.stdout


def test_a_socket_path_that_no_system_takes_is_a_fault(store):
    result = run("check", store, "--set", f"http.socket=/{'x' * 120}")
    assert result.exit_code == 1
    assert "longer than 107 bytes" in result.stdout


@pytest.mark.parametrize(
    ("overrides", "weight", "words"),
    [
        ({"delivery.drain_seconds": 10}, Weight.NOTE, "delivery.drain_seconds"),
        ({"delivery.max_in_flight": 8}, Weight.NOTE, "delivery.max_in_flight_per_endpoint"),
        ({"http.max_body_bytes": 1024}, Weight.NOTE, "http.max_body_bytes"),
        ({"intake.max_queue_bytes": 300_000}, Weight.FAULT, "intake.max_queue_bytes"),
        ({"egress.allow": "0.0.0.0/0"}, Weight.NOTE, "egress.allow"),
    ],
)
def test_settings_that_do_not_go_together_are_told_of(overrides, weight, words):
    found = list(settings_findings(settings.load(environment={}, overrides=overrides)))
    assert [(finding.weight, words in finding.sentence) for finding in found] == [(weight, True)]


def test_the_defaults_go_together():
    assert list(settings_findings(settings.Settings())) == []


@pytest.mark.parametrize(
    ("version", "sound"), [("0.22.1", False), ("0.23.0", True), ("0.23.0.dev1", True), ("1.0", True), ("x", False)]
)
def test_old_versions_of_uvloop_are_refused(version, sound):
    assert is_sound(version) is sound
