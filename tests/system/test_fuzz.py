"""The gateway against its own description: schemathesis makes requests of it, good and bad ones, and judges each answer."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest

from tests.receiver import Receiver
from tests.system.gateway_process import CURRENT_VERSION, ON_THE_EMBEDDED_STORE, Client, Database, Installation, SqliteFile
from tests.system.sharpened import sharpened

SEED = 20260711
OLD_VERSION = "2026-07-11"
HOOKS = Path(__file__).with_name("fuzz_hooks.py")

CONFIG = """
hooks = "HOOKS"

[warnings]
fail-on = true

[[operations]]
include-path = ["/backups", "/secrets/reencrypt"]
warnings = false

[[operations]]
include-path = ["/nodes", "/organizations", "/organizations/{id}", "/metrics"]
warnings = OF_ALL_TENANTS
"""
"""An operation of which no request got past keys and ids is a warning, and those fail; but for what the key cannot reach."""


async def made(client: Client, receiver: Receiver) -> dict[tuple[str, str], str]:
    """What operations can be asked about, by method and path: each its own where it may go."""
    kept, gone = [await client.create_endpoint(receiver.url(path), "a.b") for path in ("/kept", "/gone")]
    key = await client.good("POST", "/keys", {"permissions": {"event": ["read"]}})
    event = await client.publish("a.b", {"amount": 12.5}, externalId="first")
    [delivery, _] = await client.settled(2)
    return {
        ("get", "/webhooks/{id}"): kept["id"],
        ("put", "/webhooks/{id}"): kept["id"],
        ("patch", "/webhooks/{id}"): kept["id"],
        ("post", "/webhooks/{id}/test"): kept["id"],
        ("post", "/webhooks/{id}/rotate-secret"): kept["id"],
        ("delete", "/webhooks/{id}"): gone["id"],
        ("get", "/events/{id}"): event["id"],
        ("get", "/deliveries/{id}"): delivery["id"],
        ("post", "/deliveries/{id}/retry"): delivery["id"],
        ("delete", "/keys/{id}"): key["id"],
        ("put", "/organizations/{id}"): "globex",
    }


class Fuzzer:
    """Runs schemathesis against a gateway."""

    def __init__(self, installation: Installation, receiver: Receiver, directory: Path) -> None:
        self._installation = installation
        self._receiver = receiver
        self._directory = directory

    async def run(self, key: str, version: str, *, phases: str, examples: int, mode: str = "all", prefix: str = "") -> None:
        """Fails the test with what schemathesis says, when it has found anything."""
        client = await self._installation.client()
        document = (await client.ask("GET", "/openapi.json")).body
        is_service_key = key.startswith("sk_")
        port = self._receiver.port
        described = self._directory / "openapi.json"
        described.write_text(
            json.dumps(
                sharpened(
                    document,
                    ids=await made(client, self._receiver),
                    urls=rf"^http://127\.0\.0\.1:{port}/[a-z]{{1,20}}$",
                    is_service_key=is_service_key,
                    is_enveloped=version == OLD_VERSION,
                    pages=not prefix,
                )
            )
        )
        config = self._directory / "schemathesis.toml"
        config.write_text(CONFIG.replace("HOOKS", str(HOOKS)).replace("OF_ALL_TENANTS", "true" if is_service_key else "false"))
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", config, "run", described]
        options = {
            "--url": self._installation.url + prefix,
            "--checks": "all",
            "--phases": phases,
            "--mode": mode,
            "--max-examples": examples,
            "--seed": SEED,
            "--generation-database": "none",
            "--suppress-health-check": "all",
            "--request-timeout": 20,
        }
        words = [str(word) for pair in options.items() for word in pair]
        process = await asyncio.create_subprocess_exec(
            *(str(word) for word in command),
            *words,
            *("--header", f"x-api-key: {key}", "--header", f"commet-version: {version}", "--no-color", "--continue-on-failure"),
            cwd=self._directory,
            stdout=PIPE,
            stderr=STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, f"schemathesis, seed {SEED}:\n{output.decode()}"
        assert self._installation.process.is_running
        crashes = [line for line in self._installation.process.log if "crashed" in line]
        assert crashes == []


@pytest.fixture
async def fuzzer(installation: Installation, receiver: Receiver, tmp_path: Path) -> Fuzzer:
    installation.settings["limits.bad_keys_per_minute"] = 0  # it tries many
    await installation.start()
    return Fuzzer(installation, receiver, tmp_path)


async def test_every_answer_is_as_described(fuzzer: Fuzzer, installation: Installation, database: Database):
    """To a key of one organization, in the current version's shape: no request is answered 5xx, nor with a status, header, type
    or field that is not described; good requests are taken and bad ones refused, at every limit that is described."""
    client = await installation.client()
    is_embedded = isinstance(database, SqliteFile)
    await fuzzer.run(
        client.key, CURRENT_VERSION, phases="coverage,fuzzing" if is_embedded else "fuzzing", examples=4 if is_embedded else 3
    )


@ON_THE_EMBEDDED_STORE
async def test_a_service_key_and_the_older_shape_are_as_described(fuzzer: Fuzzer, installation: Installation):
    """Likewise for good requests with a service key, which reaches what no other does, under the prefix of client libraries."""
    service_key = await installation.make_key(service=True)
    await fuzzer.run(service_key, OLD_VERSION, phases="fuzzing", examples=5, mode="positive", prefix="/api/v1")
