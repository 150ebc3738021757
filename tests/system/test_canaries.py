"""Secrets are fed through everything that takes one, goes wrong with one, or keeps one; then all that came out is searched for
them: logs, answers, metrics, what commands print, and every byte of the store."""

import base64
import json
import os
import re
import uuid
from collections.abc import Collection, Mapping
from typing import Any

import aiohttp

from gateway.store.sealing import new_key
from tests.receiver import Receiver, ok, reset, status
from tests.system.gateway_process import Answer, Client, Installation, SqliteFile
from tests.system.raw_http import ask_raw

_KIND = re.compile(r"^(whsec_|[cr]k_live_|sk_)")
TELLING = 24  # characters of a secret that are enough to be one


class Canaries:
    """Texts that must not be seen again, by what they are."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def add(self, what: str, text: str) -> str:
        """*text*, which is watched for from now on: the part of it that is random."""
        random_part = _KIND.sub("", text)
        assert len(random_part) >= TELLING
        self._texts[what] = random_part[:TELLING]
        return text

    def seen_in(self, *places: bytes) -> Collection[str]:
        """What is to be found in *places*: as it is, or as a database shows bytes."""
        everything = b"\0".join(places)
        forms = {what: (text.encode(), text.encode().hex().encode()) for what, text in self._texts.items()}
        return [what for what, texts in forms.items() if any(text in everything for text in texts)]

    @property
    def kinds(self) -> Collection[str]:
        return self._texts.keys()


def new_secret() -> str:
    return "whsec_" + base64.b64encode(os.urandom(32)).decode().replace("/", "A").replace("+", "B")


class Watched:
    """A client whose answers are kept, but for those that are there to show a secret."""

    def __init__(self, client: Client, canaries: Canaries) -> None:
        self.client = client
        self._canaries = canaries
        self.answers: list[bytes] = []

    async def make(self, what: str, field: str, method: str, path: str, body: object = None, **kwargs: Any) -> Mapping[str, Any]:
        """The answer, asked for a second time with its idempotency key, that shows *what* in its *field*, which is taken out."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        first, again = [await self.client.ask(method, path, body, headers=headers, **kwargs) for _ in range(2)]
        assert first.status < 300, first.body
        assert first.body == again.body
        self._canaries.add(what, first.body.pop(field))
        self._keep(first)
        return dict(first.body)

    async def ask(self, method: str, path: str, body: object = None, **kwargs: Any) -> Answer:
        answer = await self.client.ask(method, path, body, **kwargs)
        self._keep(answer)
        return answer

    def _keep(self, answer: Answer) -> None:
        self.answers += [json.dumps(answer.body).encode(), repr(answer.headers).encode()]


async def everything_stored(installation: Installation) -> bytes:
    """Every byte of the embedded store's files, or every value of every table."""
    if isinstance(installation.database, SqliteFile):
        return b"\0".join(path.read_bytes() for path in installation.store.parent.glob("gateway.db*") if path.is_file())
    tables = installation.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    found = [installation.rows(f'SELECT * FROM "{table}"') for (table,) in tables]
    return repr(found).encode()


async def provoke(watched: Watched, installation: Installation, secret: str, key: str) -> None:
    """Every error that a request can bring about, with a secret in each place where one may be put by mistake. An answer may
    name what it was asked for, to the one who asked, but nothing that stood for a value."""
    for body in (
        f'{{"url": "{secret}"'.encode(),
        f'{{"{secret}": "{secret}"}}'.encode(),
        f'["{secret}"]'.encode(),
        {"url": secret, "events": [secret], "description": [secret], "apiVersion": secret, "isActive": secret},
        {"url": f"https://{secret}:{secret}@example.com/", "events": ["*"]},
        {"url": "https://example.com/", "events": ["*"], "organizationId": secret, "mode": secret},
    ):
        assert (await watched.ask("POST", "/webhooks", body)).status in {400, 403}
    assert (await watched.ask("POST", "/events", {"event": secret, "data": secret, "externalId": [secret]})).status == 400
    assert (await watched.ask("POST", "/keys", {"name": [secret], "permissions": {"webhook": [secret]}})).status == 400
    for query in ({"limit": secret}, {"cursor": secret}, {"secret": secret, "limit": "0"}, {"organizationId": secret}):
        assert (await watched.ask("GET", "/webhooks", query=query)).status in {400, 403}
    for path in ("/webhooks/{}", "/events/{}", "/deliveries/{}", "/nothing/{}", "/webhooks/{}/rotate-secret/{}"):
        assert (await watched.client.ask("GET", path.format(secret, secret))).status == 404
    await watched.ask("GET", "/webhooks", headers={"x-api-key": key})
    await watched.ask("GET", "/webhooks", headers={"commet-version": secret, "x-request-id": f"{secret}="})
    await watched.ask("POST", "/webhooks", {}, headers={"Idempotency-Key": secret, "content-type": secret})
    port = installation.process.port
    for raw in (f"GET {secret}\r\n\r\n", f"GET / HTTP/1.1\r\n{secret}\r\n\r\n", f"GET / HTTP/1.1\r\nX: {secret}\0\r\n\r\n"):
        watched.answers.append(await ask_raw(port, raw.encode()))


async def metrics(installation: Installation) -> bytes:
    connector = aiohttp.UnixConnector(str(installation.socket))
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://gateway/metrics") as response:
        return await response.read()


async def test_no_secret_is_seen_again(installation: Installation, receiver: Receiver):
    """Of signing secrets, API keys, encryption keys, the operations' secret and endpoints' headers: once an answer has shown one
    that was made, nothing does any more, with the most talkative log, whatever goes wrong."""
    canaries = Canaries()
    keys = [canaries.add("encryption key", new_key()), canaries.add("older encryption key", new_key())]
    installation.settings |= {
        "log.level": "debug",
        "secrets.encryption_key": ",".join(keys),
        "operations.secret": canaries.add("operations.secret", new_secret()),
        "delivery.retry_delays": "0.05,0.05",
    }
    await installation.start()
    client = await installation.client()
    canaries.add("API key", client.key)
    watched = Watched(client, canaries)
    header = canaries.add("header of an endpoint", new_secret())

    # Made, and shown this once.
    hooks = {}
    for path, steps in {"/ok": [ok()], "/failing": [status(500)], "/broken": [reset()], "/gone": [status(410)]}.items():
        receiver.script(path, steps)
        body = {"url": receiver.url(path), "events": ["*"], "headers": {"X-Receiver-Key": header}}
        hooks[path] = await watched.make(f"secret of {path}", "secretKey", "POST", "/webhooks", body)
    rotate = f"/webhooks/{hooks['/ok']['id']}/rotate-secret"
    await watched.make("new secret", "secretKey", "POST", rotate)
    await watched.make("restricted key", "apiKey", "POST", "/keys", {"permissions": {"webhook": ["read"]}})

    # Used, with and without success.
    await watched.ask("POST", "/events", {"event": "invoice.paid", "data": {}})
    for hook in hooks.values():
        await watched.ask("POST", f"/webhooks/{hook['id']}/test")
    for delivery in await client.settled(4):
        await watched.ask("GET", f"/deliveries/{delivery['id']}")
        await watched.ask("POST", f"/deliveries/{delivery['id']}/retry")
    await watched.ask("POST", rotate)  # too early
    await watched.ask("POST", rotate, {"finish": True})
    await watched.ask("PATCH", f"/webhooks/{hooks['/ok']['id']}", {"description": "d"})
    for path in ("/webhooks", f"/webhooks/{hooks['/ok']['id']}", "/events", "/deliveries", "/keys"):
        await watched.ask("GET", path)

    # Put where it does not belong.
    wrong = canaries.add("secret in a wrong place", new_secret())
    await provoke(watched, installation, wrong, canaries.add("key that is none", f"ck_live_{uuid.uuid4().hex}"))

    # Told by commands, and by a start that fails.
    printed = [await metrics(installation)]
    whose = ("--organization", "acme")
    commands: Collection[tuple[str, ...]] = (
        ("check",),
        ("endpoints", "list", *whose),
        ("endpoints", "show", hooks["/ok"]["id"], *whose, "--json"),
        ("endpoints", "rotate", hooks["/ok"]["id"], "--finish", *whose),
        ("deliveries", "list", *whose),
        ("keys", "list", *whose, "--json"),
        ("secrets", "names"),
        ("secrets", "reencrypt"),
    )
    for command in commands:
        done = await installation.command(*command)
        assert done.code == 0, done.stderr
        printed += [done.stdout.encode(), done.stderr.encode()]
    assert await installation.process.stop() == 0
    log = list(installation.process.log)
    assert '"level":"debug"' in "".join(log)
    installation.settings["secrets.encryption_key"] = f"{keys[0]},{keys[1][:-1]}"
    refused = await installation.spawn()
    assert await refused.ended() == 1
    log += refused.log

    seen = {
        "log": canaries.seen_in("\n".join(log).encode()),
        "answers": canaries.seen_in(*watched.answers),
        "printed": canaries.seen_in(*printed),
        "store": canaries.seen_in(await everything_stored(installation)),
    }
    assert seen == {"log": [], "answers": [], "printed": [], "store": []}
    assert len(canaries.kinds) >= 12


async def test_a_canary_would_be_seen(installation: Installation):
    """The search finds what is there to be found: without a key a secret stands in the store, until it is encrypted anew."""
    await installation.start()
    client = await installation.client()
    canaries = Canaries()
    canaries.add("secret", (await client.create_endpoint("http://127.0.0.1:9/"))["secretKey"])
    assert canaries.seen_in(await everything_stored(installation)) == ["secret"]
    installation.settings["secrets.encryption_key"] = new_key()
    assert await installation.process.stop() == 0
    assert (await installation.command("secrets", "reencrypt")).code == 0
    assert canaries.seen_in(await everything_stored(installation)) == []
    canaries.add("text", "x" * TELLING)
    assert canaries.seen_in(("x" * TELLING).encode().hex().encode()) == ["text"]
