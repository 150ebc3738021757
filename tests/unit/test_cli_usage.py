"""How the command line talks: exit codes, where sentences go, and what wrong usage gets."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from gateway import settings
from gateway.cli import program
from gateway.store import sealing
from gateway.version import VERSION

DATA_COMMANDS = [
    ["keys", "create"],
    ["keys", "list"],
    ["keys", "revoke"],
    ["organizations", "list"],
    ["organizations", "pin"],
    ["events", "publish"],
    ["deliveries", "list"],
    ["deliveries", "show"],
    ["deliveries", "retry"],
    *(["endpoints", name] for name in ("create", "list", "show", "update", "delete", "rotate", "test")),
    ["secrets", "names"],
    ["secrets", "reencrypt"],
    ["verify"],
    ["check"],
]


def run(*arguments: str, **environment: str | None):
    clean = {"GATEWAY_CONFIG": None, "GATEWAY_URL": None, "GATEWAY_API_KEY": None, "GATEWAY_ORGANIZATION": None}
    return CliRunner().invoke(program, list(arguments), env={**clean, **environment})


def test_the_version_is_told_without_loading_the_gateway():
    """`gateway --version` stays quick: none of the libraries that do the work is imported."""
    code = (
        "import sys\n"
        "from gateway.cli import program\n"
        "try: program(['--version'], prog_name='gateway')\n"
        "except SystemExit: pass\n"
        "print(sorted({'aiohttp', 'aiosqlite', 'msgspec', 'structlog', 'asyncio'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"gateway, version {VERSION}\n[]\n"


def test_the_help_names_every_command():
    result = run("--help")
    assert result.exit_code == 0
    for name in ("serve", "migrate", "check", "endpoints", "events", "deliveries", "keys", "organizations", "verify"):
        assert f"  {name} " in result.stdout


@pytest.mark.parametrize("command", [*DATA_COMMANDS, ["serve"], ["migrate"]], ids=" ".join)
def test_every_command_takes_config_and_the_data_commands_json(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "--config FILE" in result.stdout
    assert ("--json" in result.stdout) == (command in DATA_COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["keys", "nonsense"],
        ["keys", "create", "--organization", "org_1"],
        ["keys", "create", "--service", "--organization", "org_1"],
        ["keys", "create", "--organization", "org_1", "--mode", "live", "--permission", "webhook:own"],
        ["keys", "revoke"],
        ["events", "publish", "invoice.created"],
        ["events", "publish", "invoice.created", "--data", "{}", "--data-file", "-"],
        ["events", "publish", "invoice.created", "--data", "{"],
        ["events", "publish", "invoice.created", "--data", "[]"],
        ["endpoints", "create", "https://example.com/"],
        ["endpoints", "update", "wh_1"],
        ["endpoints", "update", "wh_1", "--enable", "--disable", "--organization", "org_1"],
        ["endpoints", "show", "\udcff"],
        ["endpoints", "update", "wh_1", "--event", "a.b", "--event", "\udcff"],
        ["events", "publish", "a.b", "--data", "{}", "--external-id", "\udcff"],
        ["events", "publish", "a.b", "--data", '{"a":"\udcff"}'],
        ["keys", "create", "--service", "--name", "\udcff"],
        ["keys", "list", "--organization", "\udcff"],
        ["organizations", "pin", "\udcff", "none"],
        ["deliveries", "list", "--state", "lost"],
        ["deliveries", "list", "--limit", "0"],
        ["serve", "--set", "http.port"],
        ["serve", "--port", "many"],
        ["verify"],
    ],
    ids=lambda arguments: ascii(" ".join(arguments)),
)
def test_wrong_usage_ends_with_2_and_a_sentence_on_standard_error(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", [["serve"], ["check"], ["migrate"], ["keys", "list"], ["deliveries", "list"]], ids=" ".join)
def test_a_wrong_setting_ends_with_1_and_a_sentence_that_names_it(command):
    result = run(*command, "--set", "delivery.jitter=3")
    assert result.exit_code == 1
    assert result.stderr == "Error: delivery.jitter: must be a number of at most 0.5, not '3' (set as a flag)\n"
    assert result.stdout == ""


def test_a_configuration_that_is_not_there_ends_with_1(tmp_path):
    for arguments, environment in (
        (["check", "--config", str(tmp_path / "none.toml")], {}),
        (["check"], {"GATEWAY_CONFIG": str(tmp_path / "none.toml")}),
    ):
        result = run(*arguments, **environment)
        assert result.exit_code == 1
        assert "none.toml cannot be read" in result.stderr


def test_what_is_not_text_is_named_by_its_option_and_makes_no_store(tmp_path):
    """The bytes of an argument that are not UTF-8."""
    store = tmp_path / "gateway.db"
    result = run("keys", "create", "--service", "--name", "\udcff", GATEWAY_STORE__URL=f"sqlite:///{store}")
    assert "Invalid value for '--name': it is not text in UTF-8." in result.stderr
    assert not store.exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("keys create", "needed with --organization"),
        ("keys create", "or --service is given"),
        ("keys list", "Only this organization's"),
        ("deliveries list", "live when absent"),
    ],
)
def test_the_help_says_when_organization_and_mode_are_needed(command, words):
    assert words in " ".join(run(*command.split(), "--help").stdout.split())


def test_the_help_says_no_more_than_that():
    """A new key has no mode by default, and a list of keys needs no organization."""
    assert "live when absent" not in " ".join(run("keys", "create", "--help").stdout.split())
    assert "Needed unless" not in " ".join(run("keys", "list", "--help").stdout.split())


def test_a_new_key_is_printed_alone():
    """As the settings take it; no configuration is needed, and none in the way."""
    made, other = (run("secrets", "new-key", GATEWAY_HTTP__PORT="no port") for _ in range(2))
    assert (made.exit_code, made.stderr) == (0, "")
    key = made.stdout.removesuffix("\n")
    assert settings.Secrets(encryption_key=(key,)).encryption_key == (key,)
    assert made.stdout != other.stdout


def test_keys_are_shown_by_their_names():
    """In their order; never themselves."""
    keys = [sealing.new_key(), sealing.new_key()]
    result = run("secrets", "names", GATEWAY_SECRETS__ENCRYPTION_KEY=",".join(["clear", *keys]))
    assert result.stdout.splitlines() == ["clear", *map(sealing.name_of, keys)]
    as_json = run("secrets", "names", "--json", GATEWAY_SECRETS__ENCRYPTION_KEY=keys[0])
    assert json.loads(as_json.stdout) == [sealing.name_of(keys[0])]
    none = run("secrets", "names")
    assert (none.stdout, none.stderr) == ("", "None.\n")


def test_a_rotation_is_either_begun_or_ended():
    """Not both at once, and an overlap has its limits."""
    result = run("endpoints", "rotate", "wh_1", "--finish", "--overlap-seconds", "5")
    assert (result.exit_code, "not both" in result.stderr) == (2, True)
    assert run("endpoints", "rotate", "wh_1", "--overlap-seconds", "604801").exit_code == 2
