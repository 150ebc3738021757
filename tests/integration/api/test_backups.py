"""Backups over the API: for operators alone, and what is wrong with a path in a sentence."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient
from msgspec.structs import replace

from gateway.api.auth import OPERATOR
from gateway.api.server import build_application
from gateway.settings import Settings
from gateway.store.sqlite import SqliteStore
from tests.integration.api.conftest import Api, PatientServer, serve


@pytest.fixture
async def operator(tmp_path: Path) -> AsyncIterator[Api]:
    """The API as the operators' socket serves it."""
    async with serve(tmp_path, Settings(), authority=OPERATOR) as api:
        yield api


async def test_an_operator_makes_a_backup(operator: Api, tmp_path: Path):
    """The answer says how large it is; the copy holds what was published before."""
    published = await operator.publish(organizationId="acme")
    target = tmp_path / "copy.db"
    made = await operator.json("POST", "/backups", {"path": str(target)}, status=201)
    assert made == {"object": "backup", "path": str(target), "bytes": target.stat().st_size, "seconds": made["seconds"]}
    async with SqliteStore.open(target) as copy:
        ((found,),) = await copy._rows("meta", {"name": "last_batch"})
        assert found > 0
    assert published["id"].encode() in target.read_bytes()


async def test_no_key_makes_a_backup(api: Api, tmp_path: Path):
    """A service key reaches every organization, and still no file of the machine."""
    for key in (await api.make_key(None), api.key):
        refused = await api.json("POST", "/backups", {"path": f"{tmp_path}/copy.db"}, key=key, status=403)
        assert refused["error"]["code"] == "forbidden"
    assert not (tmp_path / "copy.db").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "path is required"),
        ({"path": 1}, "path must be a string"),
        ({"path": ""}, "path must have 1 to 4095 characters, none of them NUL"),
        ({"path": "copy.db"}, "path must be absolute"),
        ({"path": "/nowhere/at/all/copy.db"}, "path cannot be written to: /nowhere/at/all: No such file or directory"),
        ({"path": "/"}, "path names a file that is there already: /; a backup overwrites nothing"),
    ],
)
async def test_a_path_that_will_not_do_is_a_400(operator: Api, body: object, message: str):
    refused = await operator.json("POST", "/backups", body, status=400)
    assert (refused["error"]["message"], refused["error"]["param"]) == (message, "path")


async def test_a_refused_backup_may_be_asked_for_again_with_its_key(operator: Api, tmp_path: Path):
    """Nothing of the answer is kept: the file itself keeps it from being made twice."""
    headers = {"Idempotency-Key": "k"}
    body = {"path": f"{tmp_path}/folder/copy.db"}
    await operator.json("POST", "/backups", body, headers=headers, status=400)
    (tmp_path / "folder").mkdir()
    await operator.json("POST", "/backups", body, headers=headers, status=201)
    await operator.json("POST", "/backups", body, headers=headers, status=400)


async def test_a_store_without_backups_of_its_own_says_what_to_use(operator: Api, tmp_path: Path):
    """A PostgreSQL is backed up by its own tools."""
    application = build_application(replace(operator.parts, backup=None), authority=OPERATOR)
    async with TestClient(PatientServer(application)) as operator.client:
        refused = await operator.json("POST", "/backups", {"path": f"{tmp_path}/copy.db"}, status=400)
    assert "`pg_dump`" in refused["error"]["message"]
