"""How commands reach the API: over HTTP elsewhere, over the operators' socket of the gateway that runs here, or, when none
runs, by opening the store for as long as the command takes. The only place that knows which."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from msgspec.structs import replace

from gateway.cli.tenant import TenantChoice
from gateway.errors import GatewayError, SettingsError, StoreLocked
from gateway.settings import Settings

T = TypeVar("T")
JsonObject = dict[str, Any]

_TIMEOUT = aiohttp.ClientTimeout(total=60)  # a test of an endpoint takes as long as its attempt
_LONG_TIMEOUT = aiohttp.ClientTimeout(total=None)
_START_SECONDS = 5.0  # how long another process may hold the store before its socket answers
_PAGE = 100


class RequestFailed(GatewayError):
    """The gateway refused a request, or did not answer it."""


class Api:
    """The API, as one who may use it. Answers are those of the current version."""

    def __init__(self, session: aiohttp.ClientSession, base: str, *, is_operator: bool) -> None:
        self._session = session
        self._base = base
        self._is_operator = is_operator

    async def request(
        self,
        method: str,
        *path: str,
        tenant: TenantChoice | None = None,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        takes_long: bool = False,
    ) -> JsonObject:
        """The answer to a request for the parts of *path*, however long it takes when it *takes_long*. The *tenant* goes into the
        query. Raises RequestFailed."""
        parameters = {} if tenant is None else self.tenant_fields(tenant)
        parameters |= {name: str(value) for name, value in (query or {}).items() if value is not None}
        content = None if body is None else msgspec.json.encode(body)
        return await self._send(method, path, parameters, content, _LONG_TIMEOUT if takes_long else _TIMEOUT)

    async def list(
        self, *path: str, limit: int, tenant: TenantChoice | None = None, query: Mapping[str, object] | None = None
    ) -> tuple[list[JsonObject], bool]:
        """The first *limit* items of a list, and whether there are more. Raises RequestFailed."""
        items: list[JsonObject] = []
        cursor: str | None = None
        while True:
            asked = min(_PAGE, limit - len(items))
            page = await self.request("GET", *path, tenant=tenant, query={**(query or {}), "limit": asked, "cursor": cursor})
            items += page["data"]
            cursor = page.get("nextCursor")
            if cursor is None or len(items) >= limit:
                return items, cursor is not None

    def tenant_fields(self, tenant: TenantChoice) -> dict[str, str]:
        """`organizationId` and `mode`, which an operator has to name."""
        return tenant.fields(required=self._is_operator)

    async def _send(
        self,
        method: str,
        path: tuple[str, ...],
        parameters: Mapping[str, str],
        body: bytes | None,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own kind
    ) -> JsonObject:
        url = f"{self._base}/{'/'.join(quote(part, safe='') for part in path)}"
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            async with self._session.request(
                method, url, params=parameters, data=body, headers=headers, timeout=timeout
            ) as response:
                return _content(response.status, await response.read(), self._base)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or "no answer in time"
            raise RequestFailed(f"the gateway at {self._base} does not answer: {reason}") from error


def _content(status: int, body: bytes, base: str) -> JsonObject:
    try:
        answer = msgspec.json.decode(body, type=JsonObject)
    except msgspec.DecodeError as error:
        raise RequestFailed(f"{base} answered {status}, but not as a gateway does") from error
    if status >= 400:
        raise RequestFailed(_refusal(status, answer))
    if answer.get("success") is True and isinstance(answer.get("data"), dict):
        return dict(answer["data"])  # a gateway whose current version still wraps its answers
    return answer


def _refusal(status: int, answer: JsonObject) -> str:
    error = answer.get("error")
    if not isinstance(error, dict):
        return f"the gateway answered {status}"
    details = [
        f"{detail['field']}: {detail['message']}"
        for detail in error.get("details") or ()
        if isinstance(detail, dict) and {"field", "message"} <= detail.keys()
    ]
    message = str(error.get("message") or f"the gateway answered {status}")
    if len(details) == 1 and details[0].replace(":", "", 1) == message:
        details.clear()  # the message has said it
    return "\n  ".join([f"{message} ({error.get('code', status)})", *details])


@asynccontextmanager
async def connect(settings: Settings, *, makes_store: bool = False) -> AsyncIterator[Api]:
    """The API to talk to. When nothing runs and there is no store either, one is made only if *makes_store*.

    Raises SettingsError, StoreLocked, RequestFailed, and whatever opening the store raises.
    """
    async with AsyncExitStack() as stack:
        if url := os.environ.get("GATEWAY_URL"):
            headers = {"x-api-key": _api_key(), "commet-version": settings.api.versions[-1]}
            session = aiohttp.ClientSession(headers=headers, timeout=_TIMEOUT)
            yield Api(await stack.enter_async_context(session), url.rstrip("/"), is_operator=False)
            return
        socket = await _operators_socket(settings, stack, makes_store=makes_store)
        session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(socket)),
            headers={"commet-version": settings.api.versions[-1]},
            timeout=_TIMEOUT,
        )
        yield Api(await stack.enter_async_context(session), "http://gateway", is_operator=True)


def with_api(settings: Settings, work: Callable[[Api], Awaitable[T]], *, makes_store: bool = False) -> T:
    """What *work* returns, given the API."""

    async def run() -> T:
        async with connect(settings, makes_store=makes_store) as api:
            return await work(api)

    return asyncio.run(run())


def _api_key() -> str:
    key = os.environ.get("GATEWAY_API_KEY", "").strip()
    if not key:
        raise SettingsError("GATEWAY_URL is set, so GATEWAY_API_KEY has to be, too: a key of the gateway that it names")
    if not (key.isascii() and key.isprintable()):
        # It is not shown: most of it may be a key.
        raise SettingsError("GATEWAY_API_KEY is not an API key: it has a line break in it, or another character that no key has")
    return key


async def is_listening(socket: Path) -> bool:
    """Whether a gateway answers on *socket*."""
    try:
        _, writer = await asyncio.open_unix_connection(socket)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except OSError as error:
        raise RequestFailed(f"the operators' socket {socket} cannot be used: {error.strerror or error}") from error
    writer.close()
    return True


async def readiness(socket: Path) -> str | None:
    """None when the gateway on *socket* is ready, else why it is not. Raises RequestFailed."""
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=_TIMEOUT) as session:
        try:
            async with session.get("http://gateway/health/ready") as response:
                return None if response.ok else (await response.text()).strip() or f"it answers {response.status}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise RequestFailed(f"the gateway on {socket} does not answer: {error}") from error


async def _operators_socket(settings: Settings, stack: AsyncExitStack, *, makes_store: bool) -> Path:
    """The socket of the gateway that runs here, or of one that is opened on *stack* to answer this command."""
    socket = settings.socket_path
    if socket is None:
        # Any process may open a store that is shared: the command does so beside the nodes, behind a socket of its own.
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-"))
        return await _open_gateway(settings, stack, Path(directory) / "gateway.sock")
    try:
        async with asyncio.timeout(_START_SECONDS):
            while not await is_listening(socket):
                try:
                    return await _open_store(settings, stack, socket, makes_store=makes_store)
                except StoreLocked:
                    # It belongs to a gateway that is about to listen, or to a command that is about to end.
                    await asyncio.sleep(0.05)
    except TimeoutError:
        raise StoreLocked(
            f"another process has the store {settings.store_path} open, but nothing answers on {socket}; "
            f"was it started with another `http.socket`?"
        ) from None
    return socket


async def _open_store(settings: Settings, stack: AsyncExitStack, socket: Path, *, makes_store: bool) -> Path:
    from gateway.store.sqlite import inspection  # noqa: PLC0415 - not needed when a gateway runs

    if settings.is_embedded and not makes_store and not inspection.exists(settings.store_path):
        raise SettingsError(f"there is no store at {settings.store_path}, and no gateway runs on {socket}")
    return await _open_gateway(settings, stack, socket)


async def _open_gateway(settings: Settings, stack: AsyncExitStack, socket: Path) -> Path:
    # Only now: the whole gateway takes a while to load, and a command seldom needs it.
    from gateway.app import Gateway  # noqa: PLC0415
    from gateway.telemetry import logs  # noqa: PLC0415

    logs.configure(replace(settings.log, level="warning"))
    gateway = await stack.enter_async_context(Gateway.open(settings, deliver=False))
    return await stack.enter_async_context(gateway.operators_socket(socket))
