"""What system tests start from: an installation of the gateway, and a receiver beside it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.receiver import Receiver
from tests.system.gateway_process import Installation


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    """Nothing runs on it yet, so that a test may change its settings first. Deliveries may go to loopback."""
    async with Installation.open(tmp_path) as opened:
        yield opened


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver.open() as opened:
        yield opened
