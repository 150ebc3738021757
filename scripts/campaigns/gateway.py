"""The gateway of a campaign: `gateway serve`, started and killed again and again on one store."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp

_GATEWAY = (sys.executable, "-m", "gateway")
_PATIENCE_SECONDS = 60.0
_LOG_TAIL = 4_000


class GatewayFailed(Exception):
    """The gateway did what it should not; the sentence ends with what it logged last."""


class Gateway:
    """One process at a time, each a life of its own, by which its requests are marked."""

    def __init__(self, settings: Mapping[str, object], *, port: int, directory: Path, session: aiohttp.ClientSession) -> None:
        self._settings = {"http.port": port, **settings}
        self._log = directory / "gateway.log"
        self._session = session
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{port}"
        self.life = 0
        self.started_at: dict[int, float] = {}  # `time.monotonic()`, seconds, by life

    def environment(self) -> dict[str, str]:
        """The settings, and nothing that somebody set for another gateway."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        marked = {**self._settings, "delivery.signature_header_prefix": f"X-Life-{self.life}"}
        return clean | {f"GATEWAY_{name.replace('.', '__').upper()}": str(value) for name, value in marked.items()}

    def start(self) -> None:
        """The next life begins."""
        self.life += 1
        self.started_at[self.life] = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_GATEWAY, "serve"], env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def kill(self) -> None:
        """Ends it with SIGKILL. Raises GatewayFailed when it has ended by itself."""
        await self._end(signal.SIGKILL, -signal.SIGKILL)

    async def stop(self) -> None:
        """Asks it to stop. Raises GatewayFailed when it does not end well."""
        await self._end(signal.SIGTERM, 0)

    async def _end(self, number: signal.Signals, expected: int) -> None:
        process, self._process = self._process, None
        assert process is not None, "there is none"
        process.send_signal(number)
        code = await asyncio.to_thread(process.wait, _PATIENCE_SECONDS)
        if code != expected:
            raise GatewayFailed(f"life {self.life} ended with {code}; its log ends:\n{self._tail()}")

    def give_up(self) -> None:
        """Ends it however it may be."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _tail(self) -> str:
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - _LOG_TAIL))
            return log.read().decode(errors="replace")

    async def ready(self) -> None:
        """Returns when it takes requests. Raises GatewayFailed."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < until and self._process is not None and self._process.poll() is None:
            with contextlib.suppress(aiohttp.ClientError):
                async with self._session.get(f"{self.url}/health/ready") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.01)
        raise GatewayFailed(f"life {self.life} was not ready; its log ends:\n{self._tail()}")

    async def ask(self, method: str, path: str, api_key: str, body: object = None) -> dict[str, object]:
        """The answer of the API, which has to be a good one."""
        headers = {"x-api-key": api_key, "commet-version": "2026-08-27"}
        async with self._session.request(method, f"{self.url}{path}", json=body, headers=headers) as response:
            if response.status >= 300:
                raise GatewayFailed(f"{method} {path} was answered {response.status}: {await response.text()}")
            answer: dict[str, object] = await response.json()
            return answer

    async def command(self, *words: str) -> tuple[int, str, str]:
        """`gateway` with *words*: its exit code and what it said on both outputs."""
        done = await asyncio.to_thread(
            subprocess.run, [*_GATEWAY, *words], env=self.environment(), capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr
