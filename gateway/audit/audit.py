"""An audit from beginning to end: everything that is on record is read once, page by page, and held against the rest.

Whoever was told that an event is accepted was told so after its commit: it is in every page that is read from then on. An event
and its deliveries commit together, and so do an attempt and what it means for its delivery; a page is read as of one moment, so
that all of this may go on beside an audit."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec

from gateway import ids
from gateway.audit.checks import endpoint_findings, event_findings
from gateway.audit.finding import Finding, Kind
from gateway.audit.matches import Matches
from gateway.clock import DAY, HOUR, Timestamp
from gateway.model import Tenant
from gateway.store.record import EndpointPage, EventPage, Key, Link, Linked, Record, Span

T = TypeVar("T")
Place = TypeVar("Place")

PAGE_ROWS = 1_000
"""So many events, links or revisions are read at once, at most, and about so many deliveries."""

_FIRST_EVENTS = 100
_KINDS = {
    Link.DELIVERY_OF_ATTEMPT: Kind.DELIVERY_OF_ATTEMPT_MISSING,
    Link.DELIVERY_OF_RETRY: Kind.DELIVERY_OF_RETRY_MISSING,
    Link.DELIVERY_OF_QUEUE: Kind.DELIVERY_OF_QUEUE_MISSING,
    Link.EVENT_OF_EXTERNAL_ID: Kind.EXTERNAL_ID_ASTRAY,
}


class Totals(msgspec.Struct):
    """What was looked at."""

    tenants: int = 0
    revisions: int = 0
    events: int = 0
    deliveries: int = 0
    attempts: int = 0


def span_of(now: Timestamp, *, retention_days: int, since: Timestamp | None, until: Timestamp | None) -> Span:
    """What an audit can tell of: what is older than it is kept may be gone in part. Ids are made by clocks that may be a little
    ahead. Pure."""
    kept_since = now - retention_days * DAY
    return Span(kept_since if since is None else max(since, kept_since), now + HOUR if until is None else until)


class Audit:
    """Reads a record, and tells of each finding."""

    def __init__(
        self, record: Record, span: Span, tell: Callable[[Finding], None], *, organization_id: str | None = None
    ) -> None:
        self._record = record
        self._span = span
        self._tell = tell
        self._organization_id = organization_id
        self.totals = Totals()

    async def run(self) -> None:
        """Looks at everything, of one organization or of all. Raises StoreUnavailable."""
        place = (self._organization_id or "", "")
        while (tenant := await self._record.next_tenant(*place)) is not None and self._concerns(tenant):
            place = (tenant.organization_id, tenant.mode)
            self.totals.tenants += 1
            matches = await self._audit_endpoints(tenant)
            await self._audit_events(tenant, matches)
            await self._audit_deliveries(tenant)
        for link in self._record.links:
            await self._audit_links(link)

    def _concerns(self, tenant: Tenant) -> bool:
        return self._organization_id in {None, tenant.organization_id}

    async def _walk(
        self,
        place: Place,
        read: Callable[[Place], Awaitable[T]],
        judge: Callable[[T], Iterable[Finding]],
        go_on: Callable[[T], Place | None],
    ) -> None:
        """Reads page after page from *place* on, and tells what *judge* finds on each, and finds again in another look: a page
        is of one moment, but a day of history may be dropped in it."""
        at: Place | None = place
        while at is not None:
            page = await read(at)
            if findings := [*judge(page)]:
                again = set(judge(await read(at)))
                for finding in findings:
                    if finding in again:
                        self._tell(finding)
            at = go_on(page)

    # Endpoints

    async def _audit_endpoints(self, tenant: Tenant) -> Matches:
        matches = Matches()
        while found := await self._record.revisions(tenant, above=matches.last, limit=PAGE_ROWS):
            matches.learn(found)
        self.totals.revisions += matches.last - len(matches.missing)
        for number in matches.missing:
            self._tell(Finding(Kind.REVISION_MISSING, tenant, str(number), "it is passed over"))
        for some in _batches(sorted(matches.endpoint_ids)):
            await self._audit_some_endpoints(tenant, some, matches)
        return matches

    async def _audit_some_endpoints(self, tenant: Tenant, endpoint_ids: Sequence[str], matches: Matches) -> None:
        def judge(page: EndpointPage) -> Iterator[Finding]:
            matches.learn(page.revisions)
            yield from endpoint_findings(tenant, endpoint_ids, page, matches)

        await self._walk(
            0, lambda _: self._record.endpoints(tenant, endpoint_ids, above=matches.last), judge, go_on=lambda _: None
        )

    # Events with their deliveries and attempts

    async def _audit_events(self, tenant: Tenant, matches: Matches) -> None:
        def read(place: tuple[str, int]) -> Awaitable[EventPage]:
            after, limit = place
            return self._record.events(tenant, self._span, after=after, above=matches.last, limit=limit)

        def judge(page: EventPage) -> Iterator[Finding]:
            matches.learn(page.revisions)
            yield from event_findings(tenant, page, matches)

        def go_on(page: EventPage) -> tuple[str, int] | None:
            self.totals.events += len(page.events)
            self.totals.deliveries += len(page.deliveries)
            self.totals.attempts += len(page.attempts)
            if not page.events:
                return None
            # As many events as have about so many deliveries.
            limit = PAGE_ROWS * len(page.events) // max(1, len(page.deliveries))
            return page.events[-1].id, min(PAGE_ROWS, max(1, limit))

        await self._walk(("", _FIRST_EVENTS), read, judge, go_on)

    # What belongs to something

    async def _audit_deliveries(self, tenant: Tenant) -> None:
        """Whether the event of each is there, if it can be: a delivery of a replay is kept for longer."""
        kept_since = ids.floor(ids.EVENT, self._span.since)

        def judge(page: Sequence[Linked]) -> Iterator[Finding]:
            for row in page:
                if not row.has_owner and row.owner_id >= kept_since:
                    yield Finding(Kind.EVENT_MISSING, tenant, row.id, f"its event is {row.owner_id}")

        await self._walk(
            "",
            lambda after: self._record.deliveries(tenant, self._span, after=after, limit=PAGE_ROWS),
            judge,
            lambda page: page[-1].id if page else None,
        )

    async def _audit_links(self, link: Link) -> None:
        def judge(page: Sequence[Linked]) -> Iterator[Finding]:
            for row in page:
                if not row.has_owner and self._concerns(row.tenant):
                    yield Finding(_KINDS[link], row.tenant, row.id, f"it belongs to {row.owner_id}")

        before_all: Key = ()
        await self._walk(
            before_all,
            lambda after: self._record.linked(link, self._span, after=after, limit=PAGE_ROWS),
            judge,
            lambda page: page[-1].key if page else None,
        )


def _batches(items: Sequence[str]) -> Iterator[Sequence[str]]:
    return (items[start : start + PAGE_ROWS] for start in range(0, len(items), PAGE_ROWS))
