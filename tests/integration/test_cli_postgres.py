"""`gateway check` and `gateway migrate` on a PostgreSQL: what they say of the server, and that looking changes nothing. What
keeps a node from opening the store is a fault for all of them, in the same words."""

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway import settings
from gateway.cli import program
from gateway.errors import GatewayError
from gateway.store import migrate
from gateway.store.postgres import PostgresStore
from tests.postgres import PostgresServer

LAST = migrate.available("postgres")[-1].number


def run(command: str, url: str, *arguments: str) -> Result:
    environment = {"GATEWAY_CONFIG": None, "GATEWAY_URL": None}
    return CliRunner().invoke(program, [command, "--set", f"store.url={url}", *arguments], env=environment)


def refusal_of(url: str) -> str:
    """Why a node does not start on *url*."""

    async def open_store() -> None:
        async with PostgresStore.open(settings.Store(url=url)):
            pass

    with pytest.raises(GatewayError) as refused:
        asyncio.run(open_store())
    return str(refused.value)


def password_of(url: str) -> str:
    return url.partition("@")[0].rpartition(":")[2]


def test_migrate_makes_the_store_and_check_finds_it_sound(postgres_url: str, postgres_server: PostgresServer):
    """Before, check says what is missing and makes none of it; a second time there is nothing to do."""
    empty = run("check", postgres_url)
    assert empty.exit_code == 0, empty.output
    assert f"the store lacks {LAST} migration(s); `gateway migrate` or `serve` applies them" in empty.stdout
    assert postgres_server.run_sql(postgres_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").strip() == "0"

    made, again = run("migrate", postgres_url), run("migrate", postgres_url)
    assert (made.exit_code, again.exit_code) == (0, 0), made.output
    assert made.stdout.startswith("Made the store on PostgreSQL ")
    assert made.stdout.endswith(f", at migration {LAST}.\n")
    assert again.stdout.startswith("The store on PostgreSQL ")
    assert again.stdout.endswith(f" was up to date, at migration {LAST}.\n")

    sound = run("check", postgres_url)
    assert sound.exit_code == 0, sound.output
    assert f"ok     the store is at migration {LAST}\n" in sound.stdout
    assert "can be reached, and keeps what it has committed" in sound.stdout
    assert "a node opens up to 13 connections" in sound.stdout
    assert "and 0 run now" in sound.stdout
    for result in (empty, made, again, sound):
        assert password_of(postgres_url) not in result.output


def test_the_role_of_migrate_url_makes_the_store(postgres_url: str, postgres_server: PostgresServer):
    """The one that works need not be allowed to, and may then use what was made."""
    database = postgres_url.rpartition("/")[2]
    postgres_server.run_sql(
        postgres_server.admin_url(),
        f"CREATE ROLE worker_{database} LOGIN PASSWORD 'hunter2'; GRANT CONNECT ON DATABASE {database} TO worker_{database}",
    )
    worker = postgres_url.replace(f"gateway:{password_of(postgres_url)}", f"worker_{database}:hunter2")
    owner = ("--set", f"store.migrate_url={postgres_url}")
    made = run("migrate", worker, *owner)
    assert made.exit_code == 0, made.output
    assert made.stdout.startswith("Made the store on PostgreSQL ")
    assert postgres_server.run_sql(worker, "SELECT count(*) FROM endpoints").strip() == "0"
    checked = run("check", worker, *owner)
    assert checked.exit_code == 0, checked.output
    assert "store.migrate_url can be reached" in checked.stdout


def test_a_migrate_url_that_leads_nowhere_is_a_fault(postgres_url: str):
    """In a sentence, without its password."""
    checked = run("check", postgres_url, "--set", "store.migrate_url=postgresql://nobody:hunter2@127.0.0.1:1/none")
    assert checked.exit_code == 1
    assert "fault  store.migrate_url: the store cannot be reached" in checked.stdout
    assert "hunter2" not in checked.output


def test_a_store_from_the_future_is_a_fault(postgres_url: str, postgres_server: PostgresServer):
    """And is migrated by no older program."""
    run("migrate", postgres_url)
    postgres_server.run_sql(postgres_url, "INSERT INTO migrations VALUES (9999, 'later', 'x')")
    checked, migrated = run("check", postgres_url), run("migrate", postgres_url)
    assert (checked.exit_code, migrated.exit_code) == (1, 1)
    assert "migration 9999" in checked.stdout
    assert "migration 9999" in migrated.stderr


@pytest.mark.parametrize("name", ["synchronous_commit"])
def test_a_server_that_may_lose_what_it_has_committed_is_a_fault(postgres_url: str, postgres_server: PostgresServer, name: str):
    """Here one that was set so for the database alone."""
    database = postgres_url.rpartition("/")[2]
    postgres_server.run_sql(postgres_server.admin_url(), f"ALTER DATABASE {database} SET {name} = off")
    checked = run("check", postgres_url)
    assert checked.exit_code == 1
    assert f"fault  the store's server has `{name}` off" in checked.stdout


def test_few_connections_are_told_of(postgres_url: str, postgres_server: PostgresServer):
    """Also those that only the database allows no more of."""
    database = postgres_url.rpartition("/")[2]
    postgres_server.run_sql(postgres_server.admin_url(), f"ALTER DATABASE {database} CONNECTION LIMIT 12")
    checked = run("check", postgres_url)
    assert checked.exit_code == 1
    assert "and the server lets the store's role open 12" in checked.stdout
    assert run("check", postgres_url, "--set", "store.read_connections=3").exit_code == 0


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ("foo=bar", 'has a parameter that the server refuses: unrecognized configuration parameter "foo"'),
        ("connect_timeout=5", 'has a parameter that the server refuses: unrecognized configuration parameter "connect_timeout"'),
        ("statement_timeout=soon", 'has a parameter that the server refuses: invalid value for parameter "statement_timeout"'),
        ("session_replication_role=replica", 'refuses the connection: permission denied to set parameter "session_replication'),
        ("foo", "cannot be used: it has to be postgresql://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETER=VALUE"),
        ("sslmode=require", "has no TLS, which the `sslmode` of the store's URL asks for"),
        ("sslmode=none", "cannot be used: `sslmode` parameter must be one of: disable, allow, prefer, require"),
        ("sslmode=verify-full", '.postgresql/root.crt" does not exist or cannot be accessed; name one with `sslrootcert`'),
        ("sslmode=require&sslrootcert=/nope", "the file of `sslrootcert`, /nope, cannot be read: No such file or directory"),
        ("sslmode=require&sslcert=/nope", "the file of `sslcert`, /nope, cannot be read: No such file or directory"),
        (
            "sslmode=require&sslrootcert=/dev/null",
            "TLS with the store's server fails: NO_CERTIFICATE_OR_CRL_FOUND (with `sslrootc",
        ),
        ("target_session_attrs=standby", "none of the servers of the store's URL is as its `target_session_attrs` asks"),
        ("target_session_attrs=any-one", "its `target_session_attrs` is none that there is"),
    ],
)
def test_a_wrong_parameter_of_the_url_is_a_sentence(
    postgres_url: str, parameters: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """For whoever meets it: check, migrate, copy, a node. It names the cause, and never the password."""
    monkeypatch.setenv("HOME", str(tmp_path))
    url = f"{postgres_url}?{parameters}"
    embedded = f"sqlite:///{tmp_path}/gateway.db"
    assert run("migrate", embedded).exit_code == 0
    checked, migrated = run("check", url), run("migrate", url)
    copied = CliRunner().invoke(program, ["copy", "--from", embedded, "--to", url], env={"GATEWAY_CONFIG": None})
    assert (checked.exit_code, migrated.exit_code, copied.exit_code) == (1, 1, 1)
    for told in (checked.stdout, migrated.stderr, copied.stderr, refusal_of(url)):
        assert words in told
        assert password_of(url) not in told
        assert "Traceback" not in told


def test_a_database_that_is_not_there_is_a_sentence(postgres_url: str):
    """The server's own."""
    checked = run("check", f"{postgres_url}_of_nobody")
    assert checked.exit_code == 1
    assert "fault  the store's server refuses the connection: database " in checked.stdout


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ("CREATE TABLE meta (a int)", "(meta)"),
        ("CREATE TABLE migrations (id int, batch int)", "(migrations)"),
        ("CREATE SCHEMA gateway; CREATE TABLE public.migrations (id int, batch int)", "(migrations)"),
        ("CREATE TABLE a (); CREATE TABLE b (); CREATE VIEW c AS SELECT FROM a; CREATE TABLE d ()", "(a, b, c, …)"),
    ],
)
def test_a_database_of_somebody_else_is_refused(postgres_url: str, postgres_server: PostgresServer, tables: str, named: str):
    """Whether its tables have names of ours or not; and they stay as they are."""
    postgres_server.run_sql(postgres_url, tables)
    count = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    before = postgres_server.run_sql(postgres_url, count)
    checked, migrated = run("check", postgres_url), run("migrate", postgres_url)
    assert (checked.exit_code, migrated.exit_code) == (1, 1)
    for told in (checked.stdout, migrated.stderr, refusal_of(postgres_url)):
        assert f"the database has tables of something else in it {named}: the store needs a database of its own" in told
    assert postgres_server.run_sql(postgres_url, count) == before


def test_what_an_extension_brought_is_nobody_elses(postgres_url: str, postgres_server: PostgresServer):
    """Managed servers come with some."""
    admin = postgres_server.admin_url().rpartition("/")[0] + "/" + postgres_url.rpartition("/")[2]
    postgres_server.run_sql(admin, "CREATE VIEW statistics AS SELECT 1 AS a; ALTER EXTENSION plpgsql ADD VIEW statistics")
    assert run("check", postgres_url).exit_code == 0
    assert run("migrate", postgres_url).exit_code == 0


def test_a_database_that_is_read_only_is_a_fault(migrated_url: str, postgres_server: PostgresServer):
    """Though it has all that it needs."""
    database = migrated_url.rpartition("/")[2]
    postgres_server.run_sql(postgres_server.admin_url(), f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    checked = run("check", migrated_url)
    assert checked.exit_code == 1
    for told in (checked.stdout, refusal_of(migrated_url)):
        assert "the store is read only: `default_transaction_read_only` is on" in told


def test_an_owner_that_may_only_read_is_a_fault(migrated_url: str):
    """It makes the days to come."""
    owner = f"{migrated_url}?default_transaction_read_only=on"
    checked, migrated = (run(each, migrated_url, "--set", f"store.migrate_url={owner}") for each in ("check", "migrate"))
    assert (checked.exit_code, migrated.exit_code) == (1, 1)
    assert "fault  store.migrate_url: the store is read only" in checked.stdout
    assert "the store is read only" in migrated.stderr


def test_a_copy_that_was_left_off_is_a_fault(migrated_url: str, postgres_server: PostgresServer):
    """No node starts before all of it is there."""
    postgres_server.run_sql(migrated_url, "INSERT INTO meta (name, value) VALUES ('copying', '{}')")
    checked = run("check", migrated_url)
    assert checked.exit_code == 1
    for told in (checked.stdout, refusal_of(migrated_url)):
        assert "this database is being copied into, or a copy was left off half-way" in told
    assert f"ok     the store is at migration {LAST}\n" in checked.stdout


def test_a_database_that_has_not_every_character_is_refused(postgres_url: str, postgres_server: PostgresServer):
    """Before anything is made in it."""
    latin = f"{postgres_url.rpartition('/')[2]}_latin"
    postgres_server.run_sql(
        postgres_server.admin_url(), f"CREATE DATABASE {latin} OWNER gateway ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
    )
    url = postgres_server.url(latin)
    checked, migrated = run("check", url), run("migrate", url)
    assert (checked.exit_code, migrated.exit_code) == (1, 1)
    for told in (checked.stdout, migrated.stderr, refusal_of(url)):
        assert "the store's database is encoded in LATIN1, which has not every character" in told
    postgres_server.drop_database(url)


def test_a_copy_to_one_of_several_servers_names_them_all(migrated_url: str, tmp_path: Path):
    """Each with its port, and without the password."""
    host = migrated_url.rpartition("@")[2].partition("/")[0]
    url = migrated_url.replace(f"@{host}", f"@{host},{host}")
    embedded = f"sqlite:///{tmp_path}/gateway.db"
    assert run("migrate", embedded).exit_code == 0
    copied = CliRunner().invoke(program, ["copy", "--from", embedded, "--to", url], env={"GATEWAY_CONFIG": None})
    assert copied.exit_code == 0, copied.output
    assert f" into postgresql://{host},{host}/{migrated_url.rpartition('/')[2]}." in copied.stderr
    assert password_of(url) not in copied.output
