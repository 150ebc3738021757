"""What lies in config/ for those who run many nodes agrees with the program, and file with file. No container engine needed."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from msgspec import structs

from gateway import settings
from gateway.cli import program
from gateway.publishing.event_types import Catalogue

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
UNIT = CONFIG / "webhook-gateway.service"
CONTAINERFILE = CONFIG / "Containerfile"
COMPOSE = CONFIG / "compose.yaml"
OPERATING = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")

LAST_COMMITS = 10.0
"""Seconds that the commits at the end of a stop may take, after `http.grace_seconds` and `delivery.drain_seconds`."""

IGNORED = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
OTHER_CONNECTIONS = 5
"""Of each node to PostgreSQL, beside `write_connections` and `read_connections`: leases, news, waking others, being woken."""

NODES = ("gateway-1", "gateway-2")


class Unit(RawConfigParser):
    """A systemd unit: names keep their case, and one that is given again replaces the first."""

    def __init__(self) -> None:
        super().__init__(delimiters=("=",), comment_prefixes=("#",), interpolation=None, strict=False)
        self.read(UNIT, encoding="utf-8")

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def dockerfile() -> Iterator[tuple[str, str]]:
    """The Containerfile's instructions, each with what follows it, continued lines joined."""
    text = "\n".join(line for line in CONTAINERFILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.strip():
            instruction, _, rest = line.partition(" ")
            yield instruction, " ".join(rest.split())


def instructions(name: str) -> list[str]:
    return [rest for instruction, rest in dockerfile() if instruction == name]


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for line in instructions("ENV") for pair in shlex.split(line))


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text(encoding="utf-8")))


def node(name: str) -> dict[str, Any]:
    return dict(compose()["services"][name])


def settings_of(service: dict[str, Any]) -> settings.Settings:
    """The settings that a service of compose.yaml starts with, in the image; an unknown one is refused."""
    given = {name: re.sub(r"\$\{POSTGRES_PASSWORD:\?[^}]+\}", "secret", text) for name, text in service["environment"].items()}
    given = {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text) for name, text in given.items()}
    assert not [text for text in given.values() if "$" in text]
    return settings.load(environment={**image_environment(), **given})


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text.removesuffix("s"))


def check_is_a_command(line: list[str]) -> None:
    """*line* starts with a command of the program, and its options are that command's."""
    name, *arguments = line
    with click.Context(program) as context:
        command = program.get_command(context, name)
        assert command is not None, name
        command.make_context(name, arguments, parent=context).close()


def gateway_lines(text: str) -> Iterator[list[str]]:
    """The calls of `gateway` in shell commands."""
    for line in re.split(r"&&|;|\|", text):
        words = shlex.split(line, comments=True)
        if words and words[0] == "gateway":
            yield words[1:]


# production.example.toml


def test_the_production_example_loads_and_differs_where_it_says():
    """It changes some defaults, among them the grace that its comment on the load balancer speaks of."""
    loaded = settings.load(CONFIG / "production.example.toml", environment={})
    assert loaded != settings.Settings()
    assert loaded.http.grace_seconds > 2 * 5
    assert loaded.delivery.drain_seconds > loaded.delivery.timeout_seconds


def test_every_setting_that_the_production_example_leaves_commented_out_is_known():
    """Lines to be uncommented load, too."""
    text = (CONFIG / "production.example.toml").read_text(encoding="utf-8")
    uncommented = tomllib.loads(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    assert uncommented["store"]["listen"] is False
    assert uncommented["store"]["prepared_statements"] is False
    for section, values in uncommented.items():
        assert values.keys() <= {field.name for field in structs.fields(settings.sections()[section])}


def test_a_node_of_many_takes_the_store_from_the_environment():
    """The example's file on PostgreSQL, as its comment says: the URL from the environment."""
    url = "postgresql://gateway:secret@database.internal/gateway"
    loaded = settings.load(CONFIG / "production.example.toml", environment={"GATEWAY_STORE__URL": url})
    assert loaded.store.url == url
    assert not loaded.is_embedded


# The systemd unit


def test_the_unit_starts_a_command_that_exists():
    """`gateway serve` with the options that the unit gives it."""
    program_path, *arguments = shlex.split(Unit()["Service"]["ExecStart"])
    assert Path(program_path).name == "gateway"
    assert arguments[0] == "serve"
    check_is_a_command(arguments)


def test_systemd_waits_longer_than_a_stop_takes():
    """With the defaults and with the production example: grace, drain and the last commits fit in TimeoutStopSec."""
    service = Unit()["Service"]
    assert service["KillSignal"] == "SIGTERM"
    for loaded in (settings.Settings(), settings.load(CONFIG / "production.example.toml", environment={})):
        assert float(service["TimeoutStopSec"]) > loaded.http.grace_seconds + loaded.delivery.drain_seconds + LAST_COMMITS


def test_the_unit_allows_the_files_that_the_settings_need():
    """Each open request takes a descriptor, and there are publishers, too."""
    loaded = settings.load(CONFIG / "production.example.toml", environment={})
    assert int(Unit()["Service"]["LimitNOFILE"]) > 2 * loaded.delivery.max_in_flight


def test_the_unit_does_not_start_without_its_environment_file():
    """A node that was meant for a PostgreSQL must not start on a file of its own: no `-` in front of the path."""
    assert Unit()["Service"]["EnvironmentFile"] == "/etc/webhook-gateway/environment"


def test_the_store_of_the_production_example_is_where_the_unit_may_write():
    """Everything is read-only to the service but its StateDirectory."""
    service = Unit()["Service"]
    assert service["ProtectSystem"] == "strict"
    directory = Path("/var/lib") / service["StateDirectory"]
    assert settings.load(CONFIG / "production.example.toml", environment={}).store_path.parent == directory
    assert service["WorkingDirectory"] == str(directory)


def test_systemd_knows_every_line_of_the_unit(tmp_path):
    """`systemd-analyze verify`, where it is there, says nothing; the program's path is one that exists here."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:  # then the other tests have to do: nobody needs systemd to work on the gateway
        return
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/webhook-gateway/bin/gateway", sys.executable))
    command = [analyze, "verify", "--man=no", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT.name in line]) == (0, [])


# The Containerfile


def test_everything_that_the_image_copies_is_there():
    """Each file and folder that comes from the repository exists."""
    copied = [source for line in instructions("COPY") if not line.startswith("--from=") for source in line.split()[:-1]]
    assert "gateway" in copied
    for source in copied:
        assert (ROOT / source).exists(), source


def test_the_package_can_be_built_from_what_the_image_copies():
    """The files that pyproject.toml names are among those copied."""
    copied = {source for line in instructions("COPY") for source in line.split()[:-1]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    named = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    named.update(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert named <= copied


def test_the_lock_that_the_image_installs_has_everything():
    """What the gateway needs, on PostgreSQL, too, and what installs it; each with its hash."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = {re.split(r"[<>=!~\[; ]", line)[0] for line in [*project["dependencies"], *extras["postgres"], *extras["build"]]}
    (install,) = [line for line in instructions("RUN") if "--require-hashes" in line]
    lock = shlex.split(install)[-1]
    locked = re.findall(r"^([\w.-]+)==\S+[^\\]*\\\n +--hash=", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE)
    assert needed <= set(locked)


def test_the_image_runs_commands_that_exist():
    """What is run while it is built, and what it starts."""
    (entrypoint,) = instructions("ENTRYPOINT")
    (command,) = instructions("CMD")
    assert json.loads(entrypoint) == ["gateway"]
    check_is_a_command(json.loads(command))
    run = [words for line in instructions("RUN") for words in gateway_lines(line)]
    assert run == [["--version"]]


def test_the_image_is_not_root_and_is_stopped_as_the_gateway_wants():
    """A user by number, and SIGTERM, which the gateway takes for a polite stop."""
    (user,) = instructions("USER")
    assert int(user) > 0
    assert any(f"--uid {user} " in line for line in instructions("RUN"))
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


def test_the_image_names_one_base_and_no_other_place():
    """The base is named shortly, so that each machine says where it comes from; nothing else is fetched by address."""
    assert {line.removesuffix(" AS build") for line in instructions("FROM")} == {"python:3.13-slim"}
    assert "://" not in "".join(rest for _, rest in dockerfile())


def test_the_image_listens_where_it_says():
    """Every name in its environment is a setting, and the port that it exposes is the one it serves."""
    loaded = settings.load(environment=image_environment())
    assert loaded.http.host == "0.0.0.0"
    assert instructions("EXPOSE") == [str(loaded.http.port)]
    (check,) = instructions("HEALTHCHECK")
    assert "'/health/ready'" in check
    assert "GATEWAY_HTTP__PORT" in check


def test_the_catalogue_that_the_production_example_names_is_in_the_image():
    """The file that it would look for is where the image has one, and it loads."""
    named = settings.load(CONFIG / "production.example.toml", environment={}).events.catalogue
    ((source, destination),) = [line.split() for line in instructions("COPY") if line.endswith(named)]
    assert destination == named
    assert Catalogue.load(ROOT / source).types


# compose.yaml and prometheus.yml


@pytest.mark.parametrize("name", NODES)
def test_every_setting_of_a_node_in_compose_is_known(name: str):
    """What it starts with loads, and its name is that of its service."""
    loaded = settings_of(node(name))
    assert loaded.node.name == name
    assert loaded.http.host == "0.0.0.0"
    assert loaded.store.url == "postgresql://gateway:secret@postgres:5432/gateway"


def test_the_nodes_differ_in_nothing_but_their_names_and_ports():
    """They are nodes of one cluster."""
    first, second = (node(name) for name in NODES)
    for service in (first, second):
        del service["environment"]["GATEWAY_NODE__NAME"], service["ports"]
    assert first == second


def test_compose_has_no_password():
    """Each place that needs one takes it from the environment, and refuses to go on without it."""
    services = compose()["services"]
    places = [services["postgres"]["environment"]["POSTGRES_PASSWORD"]]
    places += [services[name]["environment"]["GATEWAY_STORE__URL"] for name in (*NODES, "migrate")]
    for place in places:
        assert re.search(r"\$\{POSTGRES_PASSWORD:\?[^}]+\}", place)


def test_compose_starts_commands_that_exist():
    """The nodes do what the image does; the schema is brought up to date by `gateway migrate` before they start."""
    check_is_a_command(node("migrate")["command"])
    for name in NODES:
        assert "command" not in node(name)
        assert node(name)["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
        assert node(name)["depends_on"]["postgres"] == {"condition": "service_healthy"}
    for line in re.findall(r"gateway-1 gateway (.+)$", COMPOSE.read_text(encoding="utf-8"), re.MULTILINE):
        family, subcommand, *arguments = shlex.split(line)
        with click.Context(program) as context:
            group = program.get_command(context, family)
            assert isinstance(group, click.Group)
            group.commands[subcommand].make_context(subcommand, arguments, parent=context).close()


def test_compose_waits_longer_than_a_stop_takes():
    """Grace, drain and the last commits fit in the time until a container is killed."""
    for name in NODES:
        loaded = settings_of(node(name))
        assert seconds(node(name)["stop_grace_period"]) > loaded.http.grace_seconds + loaded.delivery.drain_seconds + LAST_COMMITS


def test_compose_builds_the_image_from_this_repository():
    """Its paths lead to the Containerfile, and every file that it mounts exists."""
    for name in (*NODES, "migrate"):
        build = node(name)["build"]
        assert (COMPOSE.parent / build["context"]).resolve() == ROOT
        assert ROOT / build["dockerfile"] == CONTAINERFILE
    volumes = compose()["volumes"]
    for service in compose()["services"].values():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            if source == "./prometheus.key":
                # Made by hand, as the first lines say, and never committed.
                assert f"config/{source.removeprefix('./')}" in IGNORED
                assert f"goes into the file config/{source.removeprefix('./')}" in COMPOSE.read_text(encoding="utf-8")
                continue
            assert source in volumes or (COMPOSE.parent / source).is_file(), source


def test_the_ports_of_compose_are_those_that_the_nodes_serve():
    """Each node's own port on this machine alone, the same one inside, which its health check asks, too."""
    outside = []
    for name in NODES:
        ((host, port, inside),) = [mapping.split(":") for mapping in node(name)["ports"]]
        assert host == "127.0.0.1"
        assert int(inside) == settings_of(node(name)).http.port
        assert f"'127.0.0.1', {inside}," in node(name)["healthcheck"]["test"][-1]
        outside.append(port)
    assert len(set(outside)) == len(NODES)


def test_the_health_checks_are_python_that_compiles():
    """In the image and in compose: `python -c` with a program."""
    (check,) = instructions("HEALTHCHECK")
    for command in (json.loads(check[check.index("[") :]), node("gateway-1")["healthcheck"]["test"][1:]):
        assert command[:2] == ["python", "-c"]
        compile(command[2], "healthcheck", "exec")


def test_prometheus_asks_every_node():
    """Its targets are the nodes of compose.yaml at the ports that they serve, and no others."""
    (job,) = yaml.safe_load((CONFIG / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    (group,) = job["static_configs"]
    assert job["metrics_path"] == "/metrics"
    assert group["targets"] == [f"{name}:{settings_of(node(name)).http.port}" for name in NODES]


def test_postgresql_in_compose_has_connections_for_its_nodes():
    """What the nodes take leaves at least half of the connections, for other nodes and for people."""
    command = compose()["services"]["postgres"]["command"]
    flags, options = command[1::2], command[2::2]
    assert set(flags) == {"-c"}
    chosen = dict(option.split("=", 1) for option in options)
    stores = [settings_of(node(name)).store for name in NODES]
    needed = sum(store.write_connections + store.read_connections + OTHER_CONNECTIONS for store in stores)
    assert needed <= int(chosen["max_connections"]) // 2
    assert (chosen["fsync"], chosen["synchronous_commit"]) == ("on", "on")


# docs/operating.md


def test_every_setting_that_the_page_for_operators_names_is_known():
    """`section.key` in code, and GATEWAY_SECTION__KEY in commands."""
    known = {f"{section}.{field.name}" for section, kind in settings.sections().items() for field in structs.fields(kind)}
    sections = "|".join(settings.sections())
    named = set(re.findall(rf"`((?:{sections})\.[a-z_]+)`", OPERATING)) - {"gateway.db", "gateway.toml"}
    named |= {f"{section}.{key}".lower() for section, key in re.findall(r"GATEWAY_([A-Z]+)__([A-Z_]+)", OPERATING)}
    assert len(named) > 15
    assert named <= known


def test_the_page_for_operators_counts_connections_as_the_settings_do():
    """The table of nodes and connections is its own formula with the defaults."""
    assert f"store.write_connections + store.read_connections + {OTHER_CONNECTIONS} " in OPERATING
    each = settings.Store().write_connections + settings.Store().read_connections + OTHER_CONNECTIONS
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \|$", OPERATING, re.MULTILINE)
    assert rows
    for nodes, connections, most in rows:
        assert int(connections) == int(nodes) * each
        assert (int(nodes) + 1) * each + 10 <= int(most)


def test_the_links_within_the_page_for_operators_lead_somewhere():
    """Each `#…` is a heading of the page."""
    headings = {
        re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", OPERATING, re.MULTILINE)
    }
    links = re.findall(r"\]\(#([^)]+)\)", OPERATING)
    assert links
    assert set(links) <= headings
