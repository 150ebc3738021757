"""What the data commands send, whom they talk to, and how they show what comes back, against an API that records."""

import asyncio
import shlex
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from gateway import settings
from gateway.cli import program

HERE = Path.cwd()
ORG = ("--organization", "org_1", "--mode", "sandbox")
IN_QUERY = {"organizationId": "org_1", "mode": "sandbox"}


class FakeApi:
    """Answers every request with the next of `answers`, and remembers what was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []

    def answer(self, content: Any, status: int = 200) -> None:
        self.answers.append((status, content))

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        self.asked.append((request.method, request.path, dict(request.query), msgspec.json.decode(body) if body else None))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        status, content = self.answers.pop(0)
        text = content if isinstance(content, str) else msgspec.json.encode(content).decode()
        return web.Response(status=status, text=text, content_type="application/json")


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture
def socket(store) -> Path:
    """The operators' socket of a gateway on the store."""
    path = settings.load(environment={"GATEWAY_STORE__URL": f"sqlite:///{store}"}).socket_path
    assert path is not None
    return path


@pytest.fixture
async def runner_() -> AsyncIterator[tuple[FakeApi, web.AppRunner]]:
    api = FakeApi()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    yield api, runner
    await runner.cleanup()


@pytest.fixture
async def api(runner_, socket) -> FakeApi:
    """The API on the operators' socket."""
    fake, runner = runner_
    await web.UnixSite(runner, str(socket)).start()
    return fake


@pytest.fixture
def run(store):
    """Runs a command in a thread, beside the API."""

    async def run_(*arguments: str, **environment: str) -> Result:
        clean = dict.fromkeys(("GATEWAY_CONFIG", "GATEWAY_URL", "GATEWAY_API_KEY", "GATEWAY_ORGANIZATION"))
        env = {**clean, "GATEWAY_STORE__URL": f"sqlite:///{store}", **environment}
        return await asyncio.to_thread(CliRunner().invoke, program, list(arguments), env=env)

    return run_


@pytest.mark.parametrize(
    ("arguments", "method", "path", "query", "body"),
    [
        (
            [
                "keys",
                "create",
                *ORG,
                "--permission",
                "webhook:read",
                "--permission",
                "webhook:write",
                "--permission",
                "event:read",
            ],
            "POST",
            "/keys",
            {},
            {**IN_QUERY, "permissions": {"webhook": ["read", "write"], "event": ["read"]}},
        ),
        (["keys", "create", "--service", "--name", "billing"], "POST", "/keys", {}, {"service": True, "name": "billing"}),
        (["keys", "create", *ORG, "--expires-in-days", "3"], "POST", "/keys", {}, {**IN_QUERY, "expiresInDays": 3}),
        (["keys", "revoke", "key_1"], "DELETE", "/keys/key_1", {}, None),
        (
            ["organizations", "pin", "org_1", "2026-08-27"],
            "PUT",
            "/organizations/org_1",
            {},
            {"apiVersion": "2026-08-27"},
        ),
        (["organizations", "pin", "org/1", "none"], "PUT", "/organizations/org/1", {}, {"apiVersion": None}),
        (
            ["endpoints", "create", "https://example.com/", "--event", "a.b", "--event", "c.*", *ORG],
            "POST",
            "/webhooks",
            IN_QUERY,
            {"url": "https://example.com/", "events": ["a.b", "c.*"], "description": None, "apiVersion": None},
        ),
        (
            ["endpoints", "create", "https://x.example/", "--event", "*", "--header", "X-A: b", "--header", "X-C:d: e", *ORG],
            "POST",
            "/webhooks",
            IN_QUERY,
            {
                "url": "https://x.example/",
                "events": ["*"],
                "description": None,
                "apiVersion": None,
                "headers": {"X-A": "b", "X-C": "d: e"},
            },
        ),
        (
            ["endpoints", "update", "wh_1", "--header", "X-A:  b ", *ORG],
            "PATCH",
            "/webhooks/wh_1",
            IN_QUERY,
            {"headers": {"X-A": "b"}},
        ),
        (["endpoints", "update", "wh_1", "--no-headers", *ORG], "PATCH", "/webhooks/wh_1", IN_QUERY, {"headers": None}),
        (["endpoints", "show", "wh_1", *ORG], "GET", "/webhooks/wh_1", IN_QUERY, None),
        (
            ["endpoints", "update", "wh_1", "--description", "", "--api-version", "none", "--disable", *ORG],
            "PATCH",
            "/webhooks/wh_1",
            IN_QUERY,
            {"description": None, "apiVersion": None, "isActive": False},
        ),
        (["endpoints", "update", "wh_1", "--enable", *ORG], "PATCH", "/webhooks/wh_1", IN_QUERY, {"isActive": True}),
        (["endpoints", "delete", "wh_1", *ORG], "DELETE", "/webhooks/wh_1", IN_QUERY, None),
        (["endpoints", "rotate", "wh_1", *ORG], "POST", "/webhooks/wh_1/rotate-secret", IN_QUERY, {}),
        (
            ["endpoints", "rotate", "wh_1", "--overlap-seconds", "0", *ORG],
            "POST",
            "/webhooks/wh_1/rotate-secret",
            IN_QUERY,
            {"overlapSeconds": 0},
        ),
        (
            ["endpoints", "rotate", "wh_1", "--finish", *ORG],
            "POST",
            "/webhooks/wh_1/rotate-secret",
            IN_QUERY,
            {"finish": True},
        ),
        (["deliveries", "show", "whdl_1", *ORG], "GET", "/deliveries/whdl_1", IN_QUERY, None),
        (["deliveries", "retry", "whdl_1", *ORG], "POST", "/deliveries/whdl_1/retry", IN_QUERY, None),
        (
            ["events", "publish", "a.b", "--data", '{"n":1}', "--external-id", "x", "--timestamp", "2026-03-25T14:30:00Z", *ORG],
            "POST",
            "/events",
            {},
            {**IN_QUERY, "event": "a.b", "data": {"n": 1}, "externalId": "x", "timestamp": "2026-03-25T14:30:00Z"},
        ),
    ],
)
async def test_each_command_is_one_request(api, run, arguments, method, path, query, body):
    """With the organization in the query, or in the body where the API wants it there."""
    api.answer({"id": "x_1", "apiKey": "ck_x", "state": "failed"})
    result = await run(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert api.asked == [(method, path, query, body)]
    assert msgspec.json.decode(result.stdout)["id"] == "x_1"


async def test_a_new_key_is_printed_alone(api, run):
    api.answer({"id": "key_1", "apiKey": "ck_live_x"}, 201)
    result = await run("keys", "create", "--organization", "org_1", "--mode", "live")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "ck_live_x\n", "")


async def test_the_data_of_an_event_is_sent_as_it_was_given(api, run, tmp_path):
    """Byte for byte: numbers keep their digits and members their order."""
    sent = b'{"b": 1.10, "a": 12345678901234567890123, "c": "\\u00e9"}'
    (tmp_path / "data.json").write_bytes(sent)
    api.answer({"id": "whev_1"}, 202)
    result = await run("events", "publish", "a.b", "--data-file", str(tmp_path / "data.json"), *ORG)
    assert result.stdout == "whev_1\n"
    assert sent in api.bodies[0]


async def test_a_repeat_is_told_of_on_standard_error(api, run):
    api.answer({"id": "whev_1", "duplicate": True, "createdAt": "2026-03-25T14:30:00.000Z"})
    result = await run("events", "publish", "a.b", "--data", "{}", "--external-id", "x", *ORG)
    assert result.stdout == "whev_1\n"
    assert "published before" in result.stderr


async def test_nodes_are_shown_by_what_they_hold(api, run):
    """As a table, or as JSON with everything that the API says."""
    node = {"id": "node_1", "name": "host-1", "version": "1.2.3", "buckets": 64, "isThis": True}
    node |= {"startedAt": "2026-03-25T14:30:00.000Z", "renewedAt": "2026-03-25T14:31:00.000Z"}
    for _ in range(2):
        api.answer({"object": "list", "data": [node], "hasMore": False})
    shown = await run("nodes")
    assert shown.exit_code == 0, shown.output
    headings, row = shown.stdout.splitlines()
    assert headings.split() == ["ID", "NAME", "VERSION", "BUCKETS", "STARTED", "RENEWED", "THIS"]
    assert row.split() == ["node_1", "host-1", "1.2.3", "64", node["startedAt"], node["renewedAt"], "yes"]
    assert msgspec.json.decode((await run("nodes", "--json")).stdout) == [node]
    assert [asked[:2] for asked in api.asked] == [("GET", "/nodes")] * 2


async def test_a_backup_is_asked_for_by_its_absolute_path(api, run):
    """The gateway may have been started elsewhere."""
    api.answer({"object": "backup", "path": "x", "bytes": 3 * 2**20, "seconds": 1.25}, status=201)
    made = await run("backup", "copy\n.db")
    assert made.exit_code == 0, made.output
    ((method, path, _, body),) = api.asked
    assert (method, path, body) == ("POST", "/backups", {"path": f"{HERE}/copy\n.db"})
    assert made.stdout == f"Backed the store up to {HERE}/copy·.db: 3.0 MiB in 1.2 s.\n"


async def test_a_refused_backup_is_a_sentence(api, run):
    """And ends with 1, as does one under a name that cannot be sent."""
    error = {"code": "validation_error", "message": "path names a file that is there already: /x"}
    api.answer({"error": error}, status=400)
    refused = await run("backup", "/x")
    assert (refused.exit_code, refused.stderr) == (1, f"Error: {error['message']} (validation_error)\n")
    assert (await run("backup", "\udcff.db")).exit_code == 2
    assert len(api.asked) == 1


async def test_a_postgresql_is_backed_up_with_its_own_tools(run):
    """The command says which, and asks nobody."""
    refused = await run("backup", "copy.db", GATEWAY_STORE__URL="postgresql://gateway:hunter2@127.0.0.1:1/gateway")
    assert refused.exit_code == 1
    assert "`pg_dump`" in refused.stderr
    assert "hunter2" not in refused.output


@pytest.mark.parametrize(
    ("key_name", "sentence"),
    [
        ("1a2b3c4d", "The secrets and headers of all 12 endpoints are encrypted with the key 1a2b3c4d: 3 were stored otherwise "),
        (None, "The secrets and headers of all 12 endpoints are stored in clear: 3 were stored otherwise before."),
    ],
)
async def test_a_reencryption_says_what_came_of_it(api, run, key_name, sentence):
    """It is the gateway's that runs."""
    done = {"object": "reencryption", "keyName": key_name, "webhooks": 12, "reencrypted": 3, "seconds": 0.1}
    api.answer(done)
    result = await run("secrets", "reencrypt")
    assert api.asked == [("POST", "/secrets/reencrypt", {}, None)]
    assert result.stdout.startswith(sentence)
    api.answer(done)
    assert msgspec.json.decode((await run("secrets", "reencrypt", "--json")).stdout) == done


async def test_a_list_is_fetched_page_by_page_until_there_is_enough(api, run):
    api.answer({"object": "list", "data": [{"id": f"wh_{n}"} for n in range(100)], "hasMore": True, "nextCursor": "c1"})
    api.answer({"object": "list", "data": [{"id": f"wh_{n}"} for n in range(100, 130)], "hasMore": True, "nextCursor": "c2"})
    result = await run("endpoints", "list", "--limit", "130", *ORG)
    assert [asked[2] for asked in api.asked] == [
        {**IN_QUERY, "limit": "100"},
        {**IN_QUERY, "limit": "30", "cursor": "c1"},
    ]
    lines = result.stdout.splitlines()
    assert (len(lines), lines[0].split()[:2], lines[-1].split()[0]) == (131, ["ID", "ACTIVE"], "wh_129")
    assert "There are more" in result.stderr


async def test_filters_of_deliveries_go_into_the_query(api, run):
    api.answer({"object": "list", "data": [], "hasMore": False})
    given = ["--endpoint", "wh_1", "--event-id", "whev_1", "--event", "a.b", "--state", "failed", "--since", "2026-01-01T00:00Z"]
    result = await run("deliveries", "list", *given, *ORG)
    assert api.asked[0][2] == {
        **IN_QUERY,
        "webhookId": "wh_1",
        "eventId": "whev_1",
        "event": "a.b",
        "state": "failed",
        "since": "2026-01-01T00:00Z",
        "limit": "20",
    }
    assert (result.stdout, result.stderr) == ("", "None.\n")


async def test_a_delivery_is_shown_with_its_attempts_and_nothing_that_a_terminal_obeys(api, run):
    api.answer(
        {
            "id": "whdl_1",
            "state": "failed",
            "lastError": "evil\x1b[2J",
            "body": '{"id":"whev_1"}',
            "attempts": [{"number": 1, "trigger": "automatic", "status": 500, "responseBody": "\x1b]0;owned\x07\nno"}],
        }
    )
    result = await run("deliveries", "show", "whdl_1", *ORG)
    assert result.exit_code == 0
    assert "evil·[2J" in result.stdout
    assert '{"id":"whev_1"}' in result.stdout
    assert "·]0;owned··no" in result.stdout
    assert "\x1b" not in result.stdout


async def test_an_attempt_that_counted_for_nothing_is_shown_as_such(api, run):
    """Its node had lost the endpoint."""
    attempt = {"number": 1, "trigger": "automatic", "startedAt": "t", "durationMs": 5, "status": 204}
    api.answer(
        {"id": "whdl_1", "body": "{}", "attempts": [{**attempt, "fenced": True}, {**attempt, "number": 2, "fenced": False}]}
    )
    heading, *attempts = (await run("deliveries", "show", "whdl_1", *ORG)).stdout.rpartition("Attempts:\n")[2].splitlines()
    column = heading.split().index("FENCED")
    assert [line.split()[column] for line in attempts] == ["yes", "no"]


@pytest.mark.parametrize(("success", "exit_code"), [(True, 0), (False, 1)])
async def test_a_test_ends_with_whether_it_was_delivered(api, run, success, exit_code):
    api.answer({"success": success, "deliveryId": "whdl_1", "deliveredAt": "x", "object": "webhook_delivery", "livemode": False})
    result = await run("endpoints", "test", "wh_1", *ORG)
    assert result.exit_code == exit_code
    assert "whdl_1" in result.output


@pytest.mark.parametrize(
    "options",
    [
        ["--organization", "org 1"],
        ["--organization", "org_1", "--mode", "sandbox", "--set", "http.host=192.0.2.1"],
    ],
)
async def test_the_command_that_says_why_a_test_failed_works_as_it_stands(api, run, options):
    """It asks the same gateway about the same organization and mode."""
    api.answer({"success": False, "deliveryId": "whdl_1"})
    result = await run("endpoints", "test", "wh_1", *options)
    command = shlex.split(result.stderr.partition("`")[2].partition("`")[0])
    assert command == ["gateway", "deliveries", "show", "whdl_1", *options]
    api.answer({"id": "whdl_1"})
    assert (await run(*command[1:])).exit_code == 0
    assert api.asked[1][2] == api.asked[0][2]


async def test_the_command_that_says_why_names_the_organization_of_the_environment(api, run):
    api.answer({"success": False, "deliveryId": "whdl_1"})
    result = await run("endpoints", "test", "wh_1", GATEWAY_ORGANIZATION="org_1")
    assert "`gateway deliveries show whdl_1 --organization org_1`" in result.stderr


async def test_on_the_operators_socket_the_organization_has_to_be_named(api, run):
    result = await run("deliveries", "list")
    assert result.exit_code == 2
    assert "--organization" in result.stderr
    assert api.asked == []


async def test_the_mode_is_live_when_it_is_not_named(api, run):
    api.answer({"object": "list", "data": [], "hasMore": False})
    await run("deliveries", "list", GATEWAY_ORGANIZATION="org_1")
    assert api.asked[0][2] == {"organizationId": "org_1", "mode": "live", "limit": "20"}


async def test_keys_of_everybody_are_listed_without_an_organization(api, run):
    api.answer(
        {"object": "list", "data": [{"id": "key_1", "permissions": {"webhook": ["read"]}}, {"id": "key_2"}], "hasMore": False}
    )
    result = await run("keys", "list")
    assert api.asked[0][2] == {"limit": "20"}
    assert "webhook:read" in result.stdout
    assert "everything" in result.stdout


async def test_a_refusal_is_a_sentence_with_its_details_and_ends_with_1(api, run):
    details = [{"field": "url", "message": "must be https"}, {"field": "events[0]", "message": "is not an event type"}]
    error = {"type": "validation_error", "code": "validation_error", "message": "the request is not valid", "details": details}
    api.answer({"error": error}, 400)
    result = await run("endpoints", "create", "x", "--event", "y", *ORG)
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: the request is not valid (validation_error)\n  url: must be https\n  events[0]: is not an event type\n"
    )
    assert result.stdout == ""


async def test_an_answer_that_is_no_gateways_is_a_sentence(api, run):
    api.answer("<html>", 502)
    result = await run("keys", "list")
    assert result.exit_code == 1
    assert "answered 502, but not as a gateway does" in result.stderr


async def test_elsewhere_is_spoken_to_with_the_key_and_needs_no_organization(runner_, run):
    fake, runner = runner_
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    fake.answer({"object": "list", "data": [], "hasMore": False})
    elsewhere = {"GATEWAY_URL": f"http://127.0.0.1:{port}/api/v1/", "GATEWAY_API_KEY": "ck_live_x"}
    result = await run("deliveries", "list", **elsewhere)
    assert result.exit_code == 0
    assert fake.asked == [("GET", "/api/v1/deliveries", {"limit": "20"}, None)]
    assert fake.headers[0]["x-api-key"] == "ck_live_x"
    assert fake.headers[0]["commet-version"] == "2026-08-27"


async def test_elsewhere_without_a_key_is_a_sentence(run):
    result = await run("deliveries", "list", GATEWAY_URL="http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "GATEWAY_API_KEY" in result.stderr


@pytest.mark.parametrize("key", ["bad\nkey", "bad\udcffkey", "bad\x7fkey"], ids=ascii)
async def test_what_cannot_be_a_key_is_a_sentence_that_does_not_show_it(run, key):
    result = await run("deliveries", "list", GATEWAY_URL="http://127.0.0.1:1", GATEWAY_API_KEY=key)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: GATEWAY_API_KEY is not an API key")
    assert "bad" not in result.output


async def test_nobody_elsewhere_is_a_sentence_without_the_key(unused_tcp_port, run):
    elsewhere = {"GATEWAY_URL": f"http://127.0.0.1:{unused_tcp_port}", "GATEWAY_API_KEY": "ck_live_x"}
    result = await run("deliveries", "list", **elsewhere)
    assert result.exit_code == 1
    assert "does not answer" in result.stderr
    assert "ck_live_x" not in result.output


async def test_without_a_gateway_and_without_a_store_reading_makes_none(run, store):
    result = await run("deliveries", "list", *ORG)
    assert result.exit_code == 1
    assert f"there is no store at {store}" in result.stderr
    assert list(store.parent.iterdir()) == []


async def test_a_socket_path_that_no_system_takes_is_a_sentence(run):
    result = await run("deliveries", "list", *ORG, "--set", f"http.socket=/{'x' * 120}")
    assert result.exit_code == 1
    assert "AF_UNIX path too long" in result.stderr


async def test_a_store_whose_name_no_system_takes_is_a_sentence(run, socket):
    result = await run("deliveries", "list", *ORG, "--set", f"store.url=sqlite:////{'x' * 300}", "--set", f"http.socket={socket}")
    assert result.exit_code == 1
    assert "cannot be looked for: File name too long" in result.stderr
