"""`gateway check` and `gateway migrate` on a PostgreSQL: what they say of the server, and that looking changes nothing."""

import pytest
from click.testing import CliRunner, Result

from gateway.cli import program
from gateway.store import migrate
from tests.postgres import PostgresServer

LAST = migrate.available("postgres")[-1].number


def run(command: str, url: str, *arguments: str) -> Result:
    environment = {"GATEWAY_CONFIG": None, "GATEWAY_URL": None}
    return CliRunner().invoke(program, [command, "--set", f"store.url={url}", *arguments], env=environment)


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
