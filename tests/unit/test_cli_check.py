"""`gateway check` and `gateway migrate`: sentences about settings and store, and nothing changed by looking."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from click.testing import CliRunner

from gateway import settings
from gateway.cli import program
from gateway.cli.check import Weight, connections_finding, sealing_findings, settings_findings
from gateway.cli.serve import is_sound
from gateway.store import sealing
from gateway.store.sqlite.connection import FileLock
from tests.postgres import free_port

KEY = sealing.new_key()
SHARED = {"store.url": "postgresql://db/gateway"}


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


def test_secrets_in_clear_are_told_of(store):
    """Whether there is no key, or `clear` stands in its place."""
    assert "secrets.encryption_key is empty: signing secrets are stored in clear from now on" in run("check", store).stdout
    result = run("check", store, "--set", f"secrets.encryption_key=clear,{KEY}")
    assert "secrets.encryption_key begins with `clear`" in result.stdout
    assert KEY not in result.output
    assert "in clear" not in run("check", store, "--set", f"secrets.encryption_key={KEY}").stdout


def test_what_is_stored_is_compared_with_the_keys():
    """What cannot be read is a fault; what would be stored otherwise now is worth knowing, with what to do about it."""
    name, other = sealing.name_of(KEY), "0123abcd"
    with_key = settings.Secrets(encryption_key=(KEY,))
    assert list(sealing_findings(with_key, {})) == []
    (fine,) = sealing_findings(with_key, {name: 3})
    assert (
        fine.weight,
        f"3 secrets and sets of headers of endpoints are stored encrypted with the key {name}" in fine.sentence,
    ) == (
        Weight.OK,
        True,
    )
    fine, note = sealing_findings(with_key, {None: 1, name: 2})
    assert (fine.weight, note.weight) == (Weight.OK, Weight.NOTE)
    assert note.sentence == (
        "1 secrets and sets of headers of endpoints are still stored in clear: run `gateway secrets reencrypt`"
    )
    (fault,) = sealing_findings(with_key, {None: 1, other: 2, name: 3})
    assert (fault.weight, f"encrypted with the key {other}" in fault.sentence) == (Weight.FAULT, True)
    (fine,) = sealing_findings(settings.Secrets(), {None: 1})
    assert (fine.weight, fine.sentence) == (Weight.OK, "1 secrets and sets of headers of endpoints are stored in clear")


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
    assert socket is not None
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


def test_a_file_of_authorities_is_looked_at(store, tmp_path):
    """One that is missing or holds no certificate is a fault."""
    path = tmp_path / "ca.pem"
    for content, words in ((None, "cannot be read: No such file or directory"), (b"none", "holds no certificates in PEM")):
        if content is not None:
            path.write_bytes(content)
        result = run("check", store, "--set", f"egress.ca_file={path}")
        assert result.exit_code == 1
        assert f"egress.ca_file: {path} {words}" in result.stdout


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
        (
            {"operations.url": "http://127.1/told", "operations.secret": "whsec_" + "A" * 44},
            Weight.FAULT,
            "operations.url leads to 127.0.0.1, a private or reserved address",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_told_of(overrides, weight, words):
    found = list(settings_findings(settings.load(environment={}, overrides=overrides)))
    assert [(finding.weight, words in finding.sentence) for finding in found] == [(weight, True)]


def test_the_defaults_go_together():
    """On either store; and what is for PostgreSQL alone does not matter on the embedded one."""
    assert list(settings_findings(settings.Settings())) == []
    assert list(settings_findings(settings.load(environment={}, overrides=SHARED))) == []
    assert list(settings_findings(settings.load(environment={}, overrides={"node.lease_seconds": 1}))) == []


@pytest.mark.parametrize(
    ("most", "nodes", "weight", "words"),
    [
        (12, 0, Weight.FAULT, "lets the store's role open 12"),
        (25, 2, Weight.NOTE, "2 of them run"),
        (97, 3, Weight.OK, "there is room for 7 of them on the server, and 3 run now"),
    ],
)
def test_connections_are_counted_against_what_the_server_allows(most, nodes, weight, words):
    """13 for a node with the default settings."""
    finding = connections_finding(settings.Store(), most=most, nodes=nodes)
    assert finding.weight is weight
    assert "a node opens up to 13 connections" in finding.sentence
    assert words in finding.sentence


@pytest.mark.parametrize("command", ["check", "migrate"])
def test_a_missing_driver_is_a_sentence(command):
    """PostgreSQL's is an extra; here an interpreter that finds none."""
    code = "import sys; sys.modules['asyncpg'] = None; from gateway.cli import main; main()"
    arguments = [sys.executable, "-c", code, command, "--set", "store.url=postgresql://gateway:hunter2@127.0.0.1:1/gateway"]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, env=clean_environment())
    assert result.returncode == 1
    assert "install it with `pip install 'webhook-gateway[postgres]'`" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert "hunter2" not in result.stdout + result.stderr


@pytest.mark.parametrize("command", ["check", "migrate"])
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://gateway:hunter2@127.0.0.1:{port}/gateway",
        "postgresql://gateway:hunter2@db/x?sslmode=none",
        "postgresql://gateway:hunter2@db/x?hunter2",
        "postgresql://gateway:hunter2@[hunter2/x",
        "postgresql://gateway:hunter2@127.0.0.1:1,127.0.0.1:hunter2/x",
        "postgresql://gateway:hunter2@{label}.test/x",
    ],
)
def test_a_server_that_is_not_there_is_a_sentence_without_its_password(command, url):
    """Whatever is wrong with the URL."""
    store = f"store.url={url.format(port=free_port(), label='a' * 64)}"
    environment = {"GATEWAY_CONFIG": None, "GATEWAY_URL": None}
    result = CliRunner().invoke(program, [command, "--set", store], env=environment)
    assert result.exit_code == 1
    assert re.search("the store|store.url", result.output)
    assert "hunter2" not in result.output
    assert "Traceback" not in result.output


def clean_environment() -> dict[str, str]:
    """That of this process, without settings for another gateway."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}


@pytest.mark.parametrize(
    ("version", "sound"), [("0.22.1", False), ("0.23.0", True), ("0.23.0.dev1", True), ("1.0", True), ("x", False)]
)
def test_old_versions_of_uvloop_are_refused(version, sound):
    assert is_sound(version) is sound
