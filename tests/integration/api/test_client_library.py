"""The published client library works unchanged but for its host."""

import asyncio
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx
import pytest
from commet import Commet
from commet._exceptions import CommetAPIError, CommetValidationError

from tests.integration.api.conftest import Api

T = TypeVar("T")


class Library:
    """A client of the library, whose calls block and so run in a thread."""

    def __init__(self, api: Api, key: str) -> None:
        self.commet = Commet(api_key=key)
        self.commet._http._client.base_url = httpx.URL(f"{api.client.make_url('/api/v1')}")

    async def call(self, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(work)


@pytest.fixture
def library(api: Api) -> Iterator[Library]:
    library = Library(api, api.key)
    with library.commet:
        yield library


async def test_the_six_operations(library: Library):
    """Made, listed, read, changed, tested and deleted."""
    webhooks = library.commet.webhooks
    made = await library.call(
        lambda: webhooks.create(url="https://example.com/hook", events=["payment.received"], description="d")
    )
    assert made.secret_key.startswith("whsec_")
    page = await library.call(lambda: webhooks.list(limit=1))
    assert [webhook.id for webhook in page.data] == [made.id]
    changed = await library.call(lambda: webhooks.update(made.id, is_active=False))
    assert (changed.is_active, changed.description) == (False, "d")
    assert (await library.call(lambda: webhooks.get(made.id))).is_active is False
    assert (await library.call(lambda: webhooks.test(made.id))).success is True
    assert (await library.call(lambda: webhooks.delete(made.id))).deleted is True


async def test_its_errors_are_understood(library: Library):
    """Validation errors by field, others by code and request id."""
    webhooks = library.commet.webhooks
    with pytest.raises(CommetValidationError) as invalid:
        await library.call(lambda: webhooks.create(url="nonsense", events=[]))
    assert set(invalid.value.validation_errors) == {"url", "events"}
    with pytest.raises(CommetAPIError) as missing:
        await library.call(lambda: webhooks.get("wh_none"))
    assert (missing.value.status_code, missing.value.code) == (404, "webhook_not_found")
    assert missing.value.request_id is not None
