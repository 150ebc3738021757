"""Keeps up with what other nodes commit: it looks when they wake it, and in any case every so often."""

import asyncio
import math
from collections.abc import Awaitable, Callable

import structlog

from gateway.cluster.pause import Pause
from gateway.errors import SecretUnreadable, Stopping, StoreUnavailable
from gateway.store.protocol import Cluster, News

log = structlog.get_logger()

LISTENING_SECONDS = 0.5
"""Between two looks while others can wake this node: being woken is the quick way, looking is the sure one."""

DEAF_SECONDS = 0.05
"""Between two looks while they cannot."""

ASKED_SECONDS = 0.05
"""Between two looks that are made because somebody asks: many who ask share one, so that they cannot wear out the database."""

_RETRY_SECONDS = 0.5


class NewsWatch:
    """All looks are made by one task, one after another: what a look has read is acted on whoever stops waiting for it."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        heard: Callable[[News], None],
        reload: Callable[[], Awaitable[None]],
        reread: Callable[[], None],
        woken: Callable[[], None],
        pause: Pause,
    ) -> None:
        """*heard* acts on news; *reload* reads anew what the process holds in memory, *reread* what waits in the buckets that
        it holds; *woken* is told whenever somebody has woken this node."""
        self._cluster = cluster
        self._heard = heard
        self._reload = reload
        self._reread = reread
        self._woken = woken
        self._pause = pause
        self._wake = asyncio.Event()
        self._callers: list[asyncio.Future[None]] = []
        self._looked_at = -math.inf  # of the loop's clock
        self._must_reload = False
        self._is_running = False
        self.is_listening = False

    async def look_now(self) -> None:
        """Returns when everything that was committed elsewhere before the call has been acted on.

        Raises StoreUnavailable, Stopping.
        """
        if not self._is_running:
            raise Stopping("this node takes no part among the others")
        loop = asyncio.get_running_loop()
        caller: asyncio.Future[None] = loop.create_future()
        self._callers.append(caller)
        if len(self._callers) == 1:
            look_at = self._looked_at + ASKED_SECONDS
            if loop.time() >= look_at:
                self._wake.set()
            else:
                loop.call_at(look_at, self._wake.set)
        await caller

    async def run(self) -> None:
        """Looks, again and again."""
        self._is_running = True
        callers: list[asyncio.Future[None]] = []
        try:
            while True:
                self._wake.clear()
                callers, self._callers = self._callers, []  # whoever calls from here on gets the next look
                error = await self._look_or_say_why()
                for caller in callers:
                    _answer(caller, error)
                await self._pause(self._wake, self._seconds if error is None else _RETRY_SECONDS)
        finally:
            self._is_running = False
            for caller in (*callers, *self._callers):
                _answer(caller, Stopping("this node takes no part among the others any more"))
            self._callers = []

    @property
    def _seconds(self) -> float:
        return LISTENING_SECONDS if self.is_listening else DEAF_SECONDS

    async def _look_or_say_why(self) -> StoreUnavailable | None:
        try:
            await self._look()
        except SecretUnreadable:
            # Another node encrypts with a key that this one lacks. It cannot learn what changes: it has to end.
            raise
        except StoreUnavailable as error:
            return error
        except Exception:
            # Whatever it was, the next look may do better, and nobody else would look.
            log.exception("news.crashed")
            return StoreUnavailable("what other nodes have changed cannot be read at the moment")
        return None

    async def _look(self) -> None:
        self._looked_at = asyncio.get_running_loop().time()
        news = await self._cluster.news()
        self._must_reload = self._must_reload or not news.is_complete
        if self._must_reload:
            log.warning("news.incomplete")
            await self._reload()
            self._reread()
            self._must_reload = False
        try:
            self._heard(news)
        except Exception:
            # It will not be told again, and nobody knows how much of it was acted on.
            self._must_reload = True
            raise

    async def listen(self) -> None:
        """Hears others that wake this node, on a line that is made anew when it dies. Without it `run` looks more often."""
        never = asyncio.Event()
        while True:
            try:
                async with self._cluster.wake_ups() as wake_ups:
                    self._line_changed(is_listening=True)
                    while True:
                        await wake_ups.next()
                        self._wake.set()
                        self._woken()
            except StoreUnavailable as error:
                if self.is_listening:
                    log.warning("news.line_lost", error=str(error))
            except Exception:
                # Being woken is a convenience; looking goes on without it.
                log.exception("news.line_crashed")
            finally:
                self._line_changed(is_listening=False)
            await self._pause(never, _RETRY_SECONDS)

    def _line_changed(self, *, is_listening: bool) -> None:
        if is_listening is not self.is_listening:
            self.is_listening = is_listening
            self._wake.set()  # at once, since calls may have been missed meanwhile, and at the new pace from then on


def _answer(caller: "asyncio.Future[None]", error: StoreUnavailable | None) -> None:
    if caller.done():  # it waits no longer
        return
    if error is None:
        caller.set_result(None)
    else:
        caller.set_exception(error)
