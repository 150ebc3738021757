"""The composition root: settings into parts, and the order in which they start and stop."""

import asyncio
import contextlib
import math
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from random import SystemRandom
from typing import Self

import structlog

from gateway import ids
from gateway.api.auth import OPERATOR, Authenticator, Principal
from gateway.api.bad_keys import BadKeys
from gateway.api.dialects import PinnedVersions
from gateway.api.listener import bind_tcp, bind_unix, listening
from gateway.api.rate_limit import RateLimiter
from gateway.api.server import ApiParts, build_application
from gateway.api.traffic import Traffic
from gateway.clock import SharedTime, SystemClock
from gateway.cluster.demand import DemandSharing
from gateway.cluster.this_node import ThisNode
from gateway.delivery.attempt import Attempter
from gateway.delivery.dispatcher import Dispatcher
from gateway.delivery.endpoint_test import EndpointTester
from gateway.delivery.failure_notices import FailureTeller
from gateway.delivery.health import HealthRecorder
from gateway.delivery.maintenance import InterruptTests, Maintenance
from gateway.delivery.operator_events import OperatorEvents
from gateway.delivery.pressure import Pressure
from gateway.delivery.recovery import Recovery, SetProbes
from gateway.delivery.retry import RetrySchedule
from gateway.egress.addresses import AddressGuard
from gateway.egress.sender import Sender
from gateway.errors import GatewayError
from gateway.ids import IdMaker
from gateway.model import (
    BUCKETS,
    AcceptedEvent,
    Actor,
    AuditEntry,
    DueDelivery,
    Endpoint,
    Event,
    Mode,
    NodeStanding,
    Result,
    Tenant,
)
from gateway.publishing.event_queue import EventQueue
from gateway.publishing.event_types import Catalogue
from gateway.publishing.fan_out import FanOut
from gateway.publishing.publisher import Publisher
from gateway.publishing.writer import Writer
from gateway.registry.endpoints import FIRST_PAUSE, CreateEndpoint, new_endpoint
from gateway.registry.operations import SetOperationsEndpoint
from gateway.registry.reencryption import reencrypt
from gateway.settings import Settings
from gateway.store.backend import open_store
from gateway.store.protocol import Effects, News, Store
from gateway.telemetry.metrics import Metrics
from gateway.version import VERSION

log = structlog.get_logger()

_IN_CLEAR = (
    "the store holds signing secrets in clear: put what `gateway secrets new-key` prints into secrets.encryption_key, restart "
    "the gateway, and run `gateway secrets reencrypt`"
)
_COMMIT_SECONDS = 5.0  # that the last commits may take once nothing else is under way
_LONGEST_COMMITS_SECONDS = 60.0  # that those before and after an attempt take at most


def _attempter(settings: Settings, sender: Sender, clock: SystemClock) -> Attempter:
    delivery = settings.delivery
    return Attempter(
        sender=sender,
        clock=clock,
        schedule=RetrySchedule(delays=delivery.retry_delays, jitter=delivery.jitter, max_retry_after=delivery.max_retry_after),
        chance=SystemRandom(),
        header_prefix=delivery.signature_header_prefix,
    )


def _tell(entry: AuditEntry) -> None:
    """Logs who did what. What changed, and to what, is in the store."""
    tenant = entry.tenant
    log.info(
        "audit.recorded",
        action=entry.action,
        target_id=entry.target_id,
        actor=entry.actor.id,
        address=entry.actor.address,
        organization_id=tenant and tenant.organization_id,
        mode=tenant and tenant.mode,
    )


class Gateway:
    """The gateway, open: it delivers, and takes events in process. `serve` adds HTTP."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        sender: Sender,
        cursor_key: bytes,
        shared_time: SharedTime,
        wall: Callable[[], float],
    ) -> None:
        """Use `open`."""
        self.settings = settings
        self._store = store
        # Nodes that share a database go by its clock; an attempt tells its receiver, and its record, the time of this machine.
        is_shared = store.cluster is not None
        self._clock = clock = SystemClock(wall=shared_time if is_shared else wall)
        self._ids = IdMaker(clock)
        catalogue = Catalogue.load(Path(settings.events.catalogue)) if settings.events.catalogue else None
        current_version = settings.api.versions[-1]
        self._pressure = Pressure(clock=clock, max_backlog_seconds=settings.intake.max_backlog_seconds)
        self._queue = EventQueue(settings.intake, refuses=self._pressure.refuses)
        operator = OperatorEvents(ids=self._ids, current_version=current_version) if settings.operations.url else None
        self._writer = Writer(
            store=store,
            queue=self._queue,
            recorder=HealthRecorder(
                clock=clock,
                disable_after_failed_events=settings.delivery.disable_after_failed_events,
                operator=operator,
                probes=settings.delivery.recovery == "probe",
            ),
            fan_out=FanOut(ids=self._ids, current_version=current_version),
        )
        self._publisher = Publisher(writer=self._writer, ids=self._ids, settings=settings.events, catalogue=catalogue)
        attempter = _attempter(settings, sender, SystemClock(wall=wall, reference=shared_time) if is_shared else clock)
        self._dispatcher = Dispatcher(
            ledger=self._writer, attempter=attempter, settings=settings.delivery, clock=clock, pressure=self._pressure
        )
        self._tester = EndpointTester(
            changer=self._writer, attempter=attempter, ids=self._ids, clock=clock, current_version=current_version
        )
        self._authenticator = Authenticator()
        self._pinned = PinnedVersions()
        self._node = ThisNode(
            settings,
            store=store,
            clock=clock,
            ids=self._ids,
            holder=self._dispatcher,
            heard=self._heard,
            reload=self._load,
            tell_time=shared_time.tell,
        )
        per_second = settings.limits.requests_per_second
        self._limiter = RateLimiter(per_second) if per_second > 0 else None
        self._traffic = Traffic()
        self._metrics = self._make_metrics()
        test_seconds = 2 * settings.delivery.timeout_seconds + _LONGEST_COMMITS_SECONDS
        self._recovery = Recovery(
            changer=self._writer,
            to_probe=store.endpoints_to_probe,
            tester=self._tester,
            operator=operator,
            clock=clock,
            pinned=self._pinned.get,
            leads=self._node.leads,
            test_seconds=test_seconds,
        )
        self._teller: FailureTeller | None = None
        if operator is not None:
            self._teller = FailureTeller(changer=self._writer, operator=operator, clock=clock, leads=self._node.leads)
        self._maintenance = Maintenance(
            changer=self._writer,
            unswept=store.unswept_endpoints,
            ended_overlaps=store.ended_overlaps,
            clock=clock,
            retention_days=settings.retention.days,
            audit_days=settings.retention.audit_days,
            test_seconds=test_seconds,
            used_keys=self._authenticator,
            leads=self._node.leads,
        )
        self._parts = self._make_parts(catalogue, cursor_key)
        self._delivers = False
        self._is_stopping = False
        self._stop_by: float | None = None

    def _make_parts(self, catalogue: Catalogue | None, cursor_key: bytes) -> ApiParts:
        egress, bad_keys_per_minute = self.settings.egress, self.settings.limits.bad_keys_per_minute
        return ApiParts(
            settings=self.settings,
            clock=self._clock,
            ids=self._ids,
            log=self._store,
            writer=self._writer,
            publisher=self._publisher,
            tester=self._tester,
            catalogue=catalogue,
            guard=AddressGuard(egress.allow, egress.deny, ports=egress.allowed_ports),
            cursor_key=cursor_key,
            keys=self._authenticator,
            pinned=self._pinned,
            limiter=self._limiter,
            bad_keys=BadKeys(bad_keys_per_minute) if bad_keys_per_minute else None,
            traffic=self._traffic,
            readiness=self._readiness,
            standing=self._node.shown,
            look_for_news=None if self._node.member is None else self._node.member.look_now,
            metrics=self._metrics.render,
            nodes=self._nodes,
            reencrypt=lambda: reencrypt(self._writer, self._store),
            backup=self._store.back_up,
        )

    def _make_metrics(self) -> Metrics:
        metrics = self._node.make_metrics()
        metrics.gauge("gateway_queue_events", "Events that wait for their commit.", lambda: self._queue.depth)
        metrics.gauge("gateway_open_requests", "Attempts under way.", lambda: self._dispatcher.open_requests)
        metrics.gauge("gateway_client_connections", "Connections of clients of the API.", lambda: self._traffic.connections)
        metrics.counter(
            "gateway_requests_refused", "Requests that were refused, by why.", "reason", lambda: self._traffic.refused
        )
        metrics.gauge("gateway_ready", "1 when requests should come here.", lambda: float(self._readiness() is None))
        return metrics

    # In process

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: Settings, *, deliver: bool = True, wall: Callable[[], float] = time.time
    ) -> AsyncIterator[Self]:
        """A gateway on its store. With *deliver* false nothing is sent, and what is published waits in the store. *wall* is
        this machine's clock, in seconds since the Unix epoch.

        Leaving drains: open attempts get `delivery.drain_seconds` to end, and everything learnt is committed.
        Raises SettingsError, StoreLocked, SchemaMismatch, StoreUnavailable.
        """
        async with (
            open_store(settings) as store,
            Sender(
                settings.egress,
                timeout_seconds=settings.delivery.timeout_seconds,
                user_agent=f"webhook-gateway/{VERSION}",
                most_connections=settings.delivery.max_in_flight,
            ) as sender,
        ):
            shared_time = SharedTime()
            if store.cluster is not None:
                shared_time.tell((await store.cluster.view()).now)
            gateway = cls(settings, store, sender, await store.cursor_key(), shared_time, wall)
            async with gateway._running(deliver=deliver):
                yield gateway

    @asynccontextmanager
    async def _running(self, *, deliver: bool) -> AsyncIterator[None]:
        self._delivers = deliver
        await self._load()
        self._writer.listen(self._committed)
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(self._writer.run(), name="writer")
            delivering = None
            beside: list[asyncio.Task[None]] = []
            if self._limiter is not None and self._store.cluster is not None:
                demand = DemandSharing(cluster=self._store.cluster, limiter=self._limiter, clock=self._clock)
                beside.append(tasks.create_task(demand.run(), name="demand"))
            if deliver:
                await self._resume()
                await self._set_up_operations()
                delivering = tasks.create_task(self._dispatcher.run(), name="dispatcher")
                beside.append(tasks.create_task(self._maintenance.run(), name="maintenance"))
                beside.append(tasks.create_task(self._pressure.run(lambda: self._dispatcher.is_held_up), name="pressure"))
                if self.settings.delivery.recovery == "probe":
                    beside.append(tasks.create_task(self._recovery.run(), name="recovery"))
                if self._teller is not None:
                    beside.append(tasks.create_task(self._teller.run(), name="failures told"))
                if self._node.member is not None:
                    tasks.create_task(self._node.member.run(), name="member")
            try:
                yield
            finally:
                self._begin_stop()
                for task in beside:
                    task.cancel()
                if delivering is not None:
                    # Leases go back while the open attempts end, each as soon as its bucket is quiet.
                    async with asyncio.TaskGroup() as leaving:
                        if self._node.member is not None:
                            until = self._clock.monotonic() + self._remaining() + _COMMIT_SECONDS
                            leaving.create_task(self._node.member.stop(until), name="leave the others")
                        await self._drain(delivering)
                with contextlib.suppress(GatewayError, TimeoutError):
                    async with asyncio.timeout(_COMMIT_SECONDS):
                        await self._maintenance.touch_keys()
                self._writer.stop()
                await asyncio.wait([writing], timeout=_COMMIT_SECONDS)
                if not writing.done():
                    log.error("stop.uncommitted", reason=str(self._writer.unavailable or ""))
                    writing.cancel()

    async def _resume(self) -> None:
        """Takes up what was left in the store."""
        if self._node.member is None:
            # Nobody else has ever had a bucket, or could be sending a test.
            now = self._clock.now()
            await self._writer.change(InterruptTests(now + 1, now))
            self._dispatcher.lease_until(math.inf)
            self._dispatcher.hold(dict.fromkeys(range(BUCKETS), 0), await self._store.lane_work(range(BUCKETS)))
        self._writer.listen(self._dispatcher.committed)
        self._writer.listen(self._maintenance.committed)
        self._writer.listen(self._recovery.committed)
        self._writer.serve_claims(self._dispatcher)

    async def _set_up_operations(self) -> None:
        """Brings the store into line with what the settings say of the operator's own endpoint, and of recovery."""
        await self._writer.change(SetOperationsEndpoint(self.settings.operations, self._clock.now()))
        probes = self.settings.delivery.recovery == "probe"
        await self._writer.change(SetProbes(self._clock.steady() + FIRST_PAUSE if probes else None))

    def _begin_stop(self) -> None:
        """From here on nothing new is started."""
        self._is_stopping = True
        self._deadline()
        self._dispatcher.stop()

    def _deadline(self) -> float:
        """When whatever is still under way is cut off, of the loop's clock: counted from the first time that it is asked."""
        if self._stop_by is None:
            self._stop_by = asyncio.get_running_loop().time() + self.settings.delivery.drain_seconds
        return self._stop_by

    def _remaining(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._deadline() - asyncio.get_running_loop().time())

    async def _drain(self, delivering: "asyncio.Task[None]") -> None:
        await asyncio.wait([delivering], timeout=self._remaining())
        if not delivering.done():
            log.warning("stop.interrupting", open_requests=self._dispatcher.open_requests)
            self._dispatcher.interrupt()
            await asyncio.wait([delivering])

    async def _load(self) -> None:
        """Reads what is held in memory of everybody."""
        self._authenticator.load(await self._store.all_keys())
        self._pinned.load(await self._store.organizations())

    def _committed(self, fresh: Sequence[tuple[Endpoint, DueDelivery]], results: Sequence[Result], effects: Effects) -> None:
        self._registry_changed(effects)
        for entry in effects.audited:
            _tell(entry)
        self._metrics.committed(len(fresh), results, effects.fenced)
        self._metrics.endpoints_changed(effects.disabled, effects.recovered)

    def _heard(self, news: News) -> None:
        """Acts on what other nodes have committed."""
        self._registry_changed(news.effects)
        self._dispatcher.heard(news.effects, news.work)
        self._recovery.committed((), (), news.effects)

    def _registry_changed(self, effects: Effects) -> None:
        for key in effects.keys:
            self._authenticator.changed(key)
        for organization in effects.organizations:
            self._pinned.changed(organization)

    def _readiness(self) -> str | None:
        """Why no requests should come here; None when they should."""
        if self._is_stopping:
            return "the gateway is stopping"
        # More than that is for the log: anybody may ask here.
        return None if self._writer.unavailable is None else str(self._writer.unavailable.trouble)

    async def _nodes(self) -> Sequence[NodeStanding]:
        return await self._node.standings() if self._delivers or self._node.member is not None else []

    async def publish(self, event: Event) -> AcceptedEvent:
        """Accepts *event*: it is committed, synced to disk, with a delivery for each endpoint that wants it.

        Raises InvalidEvent, QueueFull, StoreUnavailable.
        """
        return (await self._publisher.publish([self._publisher.accept(event)]))[0]

    async def publish_many(self, events: Sequence[Event]) -> Sequence[AcceptedEvent]:
        """Accepts *events*, or when one is invalid none of them; as `publish` does."""
        return await self._publisher.publish([self._publisher.accept(event) for event in events])

    async def create_endpoint(
        self,
        *,
        organization_id: str,
        url: str,
        events: Sequence[str],
        mode: Mode = Mode.LIVE,
        description: str | None = None,
        api_version: str | None = None,
    ) -> Endpoint:
        """A new endpoint, with its secret. Its values are the caller's to check; the HTTP API does so for its own.

        Raises TooManyEndpoints, StoreUnavailable.
        """
        endpoint_id, at = self._ids.next_with_time(ids.ENDPOINT)
        endpoint = new_endpoint(
            endpoint_id,
            Tenant(organization_id, mode),
            url=url,
            events=tuple(events),
            description=description,
            api_version=api_version,
            at=at,
        )
        most = self.settings.limits.endpoints_per_organization
        return await self._writer.change(CreateEndpoint(endpoint, Actor("process"), most))

    # HTTP

    async def serve(self, stop: asyncio.Event) -> None:
        """Serves HTTP on `http.host`, `http.port` and the operators' socket until *stop* is set.

        Then `/health/ready` says so for `http.grace_seconds` while the rest goes on; after that the listeners close and
        accepted requests finish. Raises SettingsError when it cannot listen.
        """
        http = self.settings.http
        try:
            tcp = bind_tcp(http.host, http.port)
            async with self._listening(None, tcp) as port, contextlib.AsyncExitStack() as stack:
                path = self.settings.socket_path
                if path is not None:
                    await stack.enter_async_context(self.operators_socket(path))
                if self._store.sealing.current is None:
                    log.warning("secrets.in_clear", todo=_IN_CLEAR)
                log.info("gateway.started", version=VERSION, host=http.host, port=port, socket=path and str(path))
                await stop.wait()
                log.info("gateway.stopping")
                self._is_stopping = True
                if http.grace_seconds:
                    await asyncio.sleep(http.grace_seconds)
                self._begin_stop()
        except asyncio.CancelledError:
            self._stop_by = asyncio.get_running_loop().time()  # nobody wants to wait for the open attempts either
            raise

    @asynccontextmanager
    async def operators_socket(self, path: Path) -> AsyncIterator[Path]:
        """Serves the operators' socket at *path*, where every request has the operator's authority. Raises SettingsError."""
        listener = bind_unix(path)
        try:
            async with self._listening(OPERATOR, listener):
                yield path
        finally:
            path.unlink(missing_ok=True)  # noqa: ASYNC240 - it takes no time

    def _listening(self, authority: Principal | None, listener: socket.socket) -> AbstractAsyncContextManager[int]:
        application = build_application(self._parts, authority=authority)
        return listening(application, listener, stop_by=self._deadline)
