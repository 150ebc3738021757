"""Encryption at rest, as an operator meets it: introduced, changed, forgotten, on either store and on several nodes."""

from collections.abc import Sequence

import pytest

from gateway import settings
from gateway.model import Actor, Mode
from gateway.registry.endpoints import CreateEndpoint, new_endpoint
from gateway.store.postgres import PostgresStore
from gateway.store.sealing import Sealing, name_of, new_key
from tests.contract.acts import change
from tests.fakes import START, make_id, tenant
from tests.receiver import Receiver
from tests.system.cluster import Cluster
from tests.system.gateway_process import Client, Installation
from tests.system.verification import verified

OLD, NEW = new_key(), new_key()
KEYS = "secrets.encryption_key"


def stored_with(installation: Installation) -> set[str]:
    """How the secrets are stored: the first letters of each."""
    return {secret[: len("fernet:12345678")] for (secret,) in installation.rows("SELECT secret FROM endpoints")}


def under(key: str) -> str:
    return f"fernet:{name_of(key)}"


async def restart(installation: Installation, *keys: str) -> None:
    """With these keys."""
    if installation._current is not None and installation.process.is_running:
        assert await installation.process.stop() == 0
    installation.settings[KEYS] = ",".join(keys)
    await installation.start()


async def test_a_key_is_introduced_and_changed(installation: Installation, receiver: Receiver):
    """By the documented steps, beside the running gateway: at each of them what is published arrives, signed as before, and in
    the end the first key alone is needed."""
    await installation.start()
    warning = await installation.process.logged("secrets.in_clear")
    assert "`gateway secrets new-key`" in warning["todo"]
    client = await installation.client()
    made = [await client.create_endpoint(receiver.url(f"/{number}")) for number in range(3)]

    async def all_arrive() -> None:
        before = len(receiver.requests)
        await client.publish()
        for request in (await receiver.wait_for(before + len(made)))[before:]:
            verified(request, next(each["secretKey"] for each in made if each["url"] == receiver.url(request.path)))

    await all_arrive()
    assert stored_with(installation) == {made[0]["secretKey"][:15], made[1]["secretKey"][:15], made[2]["secretKey"][:15]}
    await restart(installation, OLD)
    assert installation.process._find("secrets.in_clear") is None
    await all_arrive()
    done = await installation.command("secrets", "reencrypt")
    assert done.stdout == (
        f"The secrets and headers of all 3 endpoints are encrypted with the key {name_of(OLD)}: 3 were stored otherwise before.\n"
    )
    assert stored_with(installation) == {under(OLD)}
    await all_arrive()
    beside = await installation.command("check")
    assert (beside.code, f"are stored encrypted with the key {name_of(OLD)}" in beside.stdout) == (0, True)
    installation.settings[KEYS] = NEW
    beside = await installation.command("check")
    assert (beside.code, f"encrypted with the key {name_of(OLD)}, and secrets.encryption_key has" in beside.stdout) == (1, True)

    await restart(installation, NEW, OLD)
    await all_arrive()
    assert (await installation.command("secrets", "reencrypt")).code == 0
    assert stored_with(installation) == {under(NEW)}
    await restart(installation, NEW)
    await all_arrive()
    again = await installation.command("secrets", "reencrypt")
    assert again.stdout.endswith(": 0 were stored otherwise before.\n")


async def test_a_key_that_is_lacking_stops_the_start(installation: Installation):
    """With a sentence that names the setting and the key, which it does not show; whatever is put in its place, and also when it
    is a command that opens the store. Nothing is changed, and with the right key all goes on."""
    await restart(installation, OLD)
    client = await installation.client()
    made = await client.create_endpoint("http://127.0.0.1:9/")
    assert await installation.process.stop() == 0
    for keys in ("", NEW, "clear"):
        installation.settings[KEYS] = keys
        process = await installation.spawn()
        assert await process.ended() == 1
        (line,) = [line for line in process.log if line.startswith("Error: ")]
        assert f"encrypted with the key {name_of(OLD)}, and secrets.encryption_key has " in line
        refused = await installation.command("secrets", "reencrypt")
        assert (refused.code, refused.stdout) == (1, "")
        checked = await installation.command("check")
        assert (checked.code, f"fault  {line.removeprefix('Error: ')}" in checked.stdout) == (1, True)
        for text in (*process.log, refused.stderr, checked.stdout):
            assert not [key for key in (OLD, NEW) if key in text]
            assert "Traceback" not in text
    await restart(installation, OLD)
    assert (await client.good("GET", f"/webhooks/{made['id']}"))["id"] == made["id"]


async def test_secrets_are_encrypted_anew_without_a_gateway(installation: Installation):
    """The command opens the store itself. Without a key it is refused; with `clear` as the first, all is as before there was a
    key."""
    await installation.start()
    client = await installation.client()
    made = await client.create_endpoint("http://127.0.0.1:9/")
    assert await installation.process.stop() == 0
    refused = await installation.command("secrets", "reencrypt")
    assert (refused.code, refused.stdout) == (1, "")
    assert "secrets.encryption_key is empty: there is no key to encrypt with" in refused.stderr
    installation.settings[KEYS] = OLD
    noted = await installation.command("check")
    assert "1 secrets and sets of headers of endpoints are still stored in clear: run `gateway secrets reencrypt`" in noted.stdout
    assert (await installation.command("secrets", "reencrypt")).code == 0
    assert stored_with(installation) == {under(OLD)}
    assert f"stored encrypted with the key {name_of(OLD)}" in (await installation.command("check")).stdout
    installation.settings[KEYS] = f"clear,{OLD}"
    done = await installation.command("secrets", "reencrypt")
    assert done.stdout.startswith("The secrets and headers of the one endpoint are stored in clear: 1 was ")
    assert installation.rows("SELECT secret FROM endpoints") == [(made["secretKey"],)]


# Several nodes


async def give_keys(cluster: Cluster, *keys: str) -> None:
    """To one node after the other, while the others go on."""
    for node in cluster.nodes:
        assert await node.process.stop() == 0
        node.settings[KEYS] = ",".join(keys)
        await cluster.start(node)
        await cluster.shared_out()


async def check_all(clients: Sequence[Client], receiver: Receiver) -> None:
    """Whatever one node has made the others read: each makes an endpoint, and what each publishes arrives at all of them."""
    before = len(receiver.requests)
    for client in clients:
        await client.create_endpoint(receiver.url("/hook"))
    count = len(await clients[0].every("/webhooks"))
    for client in clients:
        await client.publish()
    await receiver.wait_until(lambda: len(receiver.requests) == before + count * len(clients), "both events, everywhere")


async def test_a_key_is_introduced_and_changed_node_after_node(cluster: Cluster, receiver: Receiver):
    """By the documented steps, while the nodes stay at work: none of them ever meets what it cannot read."""
    await cluster.grow(2)
    clients = await cluster.clients()
    await check_all(clients, receiver)
    for keys in (("clear", OLD), (OLD,), (OLD, NEW), (NEW, OLD)):
        await give_keys(cluster, *keys)
        await check_all(clients, receiver)
        if len(keys) == 1 or keys[0] == NEW:
            assert (await cluster.nodes[1].command("secrets", "reencrypt")).code == 0
            assert stored_with(cluster.nodes[0]) == {under(keys[0])}
    await give_keys(cluster, NEW)
    await check_all(clients, receiver)


async def test_a_node_with_other_keys_does_not_start(cluster: Cluster):
    """Neither one that would encrypt with what another cannot read, nor one that could not read what another encrypts."""
    cluster.settings[KEYS] = OLD
    await cluster.grow(1)
    node = await cluster.make_node()
    for keys, sentence in (
        (f"{NEW},{OLD}", f"secrets.encryption_key: its first key, {name_of(NEW)}, is not known to node-1"),
        ("", f"secrets.encryption_key: lacks the key {name_of(OLD)}, with which node-1 encrypts"),
    ):
        node.settings[KEYS] = keys
        node.life = 0
        process = await node.spawn()
        assert await process.ended() == 1
        assert [line for line in process.log if line.startswith(f"Error: {sentence}")]
        command = await node.command("endpoints", "list", "--organization", "acme")
        assert (command.code, command.stderr.startswith(f"Error: {sentence}")) == (1, True)
    assert cluster.nodes[0].is_running


async def test_a_node_that_cannot_read_what_another_wrote_ends(cluster: Cluster):
    """With the sentence, and before it signs anything with what it has not got: here another process has slipped past the
    agreement, since it was there before the node."""
    key = Sealing([NEW, OLD])
    async with PostgresStore.open(settings.Store(url=cluster.database.url), key) as store:
        cluster.settings[KEYS] = OLD
        (node,) = await cluster.grow(1)
        made = new_endpoint(
            make_id("wh_"),
            tenant(mode=Mode.LIVE),
            url="http://127.0.0.1:9/",
            events=("*",),
            description=None,
            api_version=None,
            at=START,
        )
        await change(store, CreateEndpoint(made, Actor("key_1"), 10))
        assert await node.process.ended() == 1
    (line,) = [line for line in node.process.log if line.startswith("Error: ")]
    assert f"encrypted with the key {name_of(NEW)}, and secrets.encryption_key has only {name_of(OLD)}" in line


@pytest.mark.parametrize("keys", ["short", f"{OLD},{OLD[:-1]}", OLD.replace("=", "")])
async def test_what_is_no_key_is_a_sentence(installation: Installation, keys: str):
    """Which does not show it."""
    installation.settings[KEYS] = keys
    process = await installation.spawn()
    assert await process.ended() == 1
    assert [line for line in process.log if line.startswith("Error: secrets.encryption_key: item ")]
    assert not [line for line in process.log if keys in line or OLD[:-1] in line]
