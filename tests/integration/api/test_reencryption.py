"""Encrypting secrets anew over the API: for operators alone, and with a key."""

from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient
from msgspec.structs import replace

from gateway.api.auth import OPERATOR
from gateway.api.server import build_application
from gateway.errors import StoreUnavailable
from gateway.registry.reencryption import Reencrypted
from gateway.settings import Secrets, Settings
from gateway.store.sealing import name_of, new_key
from tests.integration.api.conftest import Api, PatientServer, serve

KEY = new_key()


async def test_an_operator_encrypts_anew(tmp_path: Path):
    """What was in clear is encrypted with the first key, and the answer says how much it was; a second time there is none."""
    query = "?organizationId=acme"
    body = {"url": "https://example.com/hook", "events": ["*"]}
    async with serve(tmp_path, Settings(), authority=OPERATOR) as api:
        made = [await api.json("POST", f"/webhooks{query}", body, status=201) for _ in range(3)]
        await api.json("DELETE", f"/webhooks/{made[0]['id']}{query}")
    async with serve(tmp_path, Settings(secrets=Secrets(encryption_key=(KEY,))), authority=OPERATOR) as api:
        for count in (2, 0):
            done = await api.json("POST", "/secrets/reencrypt")
            assert done == {
                "object": "reencryption",
                "keyName": name_of(KEY),
                "webhooks": 3,
                "reencrypted": count,
                "seconds": done["seconds"],
            }
        assert await api.store.sealed_with() == {name_of(KEY): 2}
        noted = (await api.json("GET", "/audit-log?action=secrets.reencrypted"))["data"]
        assert [(each["targetId"], each["actor"]) for each in noted] == [(name_of(KEY), "operator")] * 2
        rotated = await api.json("POST", f"/webhooks/{made[1]['id']}/rotate-secret{query}")
        assert rotated["secretKey"] != made[1]["secretKey"]


async def test_without_a_key_it_is_refused(tmp_path: Path):
    """In a sentence that says where to get one."""
    async with serve(tmp_path, Settings(), authority=OPERATOR) as api:
        error = (await api.json("POST", "/secrets/reencrypt", status=400))["error"]
    assert error["message"].startswith(
        "secrets.encryption_key is empty: there is no key to encrypt with; `gateway secrets new-key`"
    )


async def test_a_store_that_does_not_answer_is_told_of(tmp_path: Path):
    """The operator hears why it is not done."""
    async with serve(tmp_path, Settings(secrets=Secrets(encryption_key=(KEY,))), authority=OPERATOR) as api:

        async def reencrypt() -> Reencrypted:
            raise StoreUnavailable("the store's log could not be emptied")

        application = build_application(replace(api.parts, reencrypt=reencrypt), authority=OPERATOR)
        async with TestClient(PatientServer(application)) as api.client:
            error = (await api.json("POST", "/secrets/reencrypt", status=503))["error"]
    assert (error["code"], error["message"]) == ("unavailable", "the store's log could not be emptied")


async def test_no_key_encrypts_anew(api: Api):
    """A service key reaches every organization, and still not the store's encryption."""
    for key in (await api.make_key(None), api.key):
        refused = await api.json("POST", "/secrets/reencrypt", key=key, status=403)
        assert refused["error"]["code"] == "forbidden"


@pytest.fixture
def settings() -> Settings:
    return Settings(secrets=Secrets(encryption_key=(KEY,)))
