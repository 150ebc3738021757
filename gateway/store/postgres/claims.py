"""What lanes ask for: one statement for all of them, and one for the events' data."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from gateway.model import AcceptedEvent, DueDelivery, bucket_of
from gateway.store.claim_budget import ClaimBudget
from gateway.store.postgres import rows
from gateway.store.postgres.connection import Parameters, Session, Statement, compiled
from gateway.store.protocol import Claim, Claimed, LaneWork
from gateway.store.sealing import Sealing

_KINDS = {"manual": ("claim_manual", "count_manual"), "retries": ("claim_retries",), "first": ("claim_first",)}


def claim_statement(sql: Mapping[str, Statement], kinds: Collection[str] = tuple(_KINDS)) -> Statement:
    """The statement that asks for these kinds at once. Pure."""
    return compiled(" UNION ALL ".join(f"({sql[name].written})" for kind in kinds for name in _KINDS[kind]))


class ClaimStatements:
    """The statements of one dialect for each choice of kinds: what nobody asks for is not planned either, which costs more than
    the rest of a claim that finds little."""

    def __init__(self, sql: Mapping[str, Statement]) -> None:
        self._sql = sql
        self._known: dict[tuple[str, ...], Statement] = {}

    def of(self, claims: Sequence[Claim]) -> Statement:
        """The one for what *claims* ask for."""
        kinds = tuple(kind for kind in _KINDS if any(getattr(claim, kind) for claim in claims)) or tuple(_KINDS)
        if kinds not in self._known:
            self._known[kinds] = claim_statement(self._sql, kinds)
        return self._known[kinds]


async def claim(session: Session, statements: ClaimStatements, claims: Sequence[Claim]) -> Sequence[Claimed]:
    """See `store.protocol.Intake.claim`; in a transaction that reads as of one moment."""
    statement = statements.of(claims)
    found = await session.fetch(statement.sql, statement.values(_parameters(claims)))
    offered: defaultdict[tuple[str, int], list[Any]] = defaultdict(list)
    for row in found:
        offered[row["kind"], row["place"]].append(row)
    choices = [_choose(claim, place, offered) for place, claim in enumerate(claims)]
    by_hand = [row for choice in choices for row in choice.manual]
    now: dict[str, Any] = {}
    if by_hand:
        # Their counts stand with the delivery, whatever its state.
        now = {row["id"]: row for row in await session.rows("deliveries_by_id", _keys(by_hand, "delivery_id"))}
    automatic = [row for choice in choices for row in (*choice.retries, *choice.first)]
    events: dict[str, AcceptedEvent] = {}
    if wanted := [*by_hand, *automatic]:
        events = {event.id: event for event in map(rows.event, await session.rows("events_by_id", _keys(wanted, "event_id")))}
    return [_handed_out(claim, choice, events, now) for claim, choice in zip(claims, choices, strict=True)]


def _parameters(claims: Sequence[Claim]) -> Parameters:
    return {
        "places": list(range(len(claims))),
        "buckets": [bucket_of(claim.endpoint.id) for claim in claims],
        "endpoint_ids": [claim.endpoint.id for claim in claims],
        "activations": [claim.endpoint.activation for claim in claims],
        # One more than there is room for tells that some are left behind.
        "limits": [claim.limit + 1 for claim in claims],
        "manual": [claim.manual for claim in claims],
        "retries": [claim.retries and claim.endpoint.is_active for claim in claims],
        "first": [claim.first and claim.endpoint.is_active for claim in claims],
        "held": [delivery_id for claim in claims for delivery_id in claim.held],
        "under_way": [delivery_id for claim in claims for delivery_id in claim.under_way],
    }


def _keys(found: Sequence[Any], name: str) -> Parameters:
    ids = {row[name]: row for row in found}
    return rows.keys([(id, row["organization_id"], row["mode"]) for id, row in ids.items()])


class _Choice:
    """Rows picked for one claim."""

    def __init__(self) -> None:
        self.manual: list[Any] = []
        self.retries: list[Any] = []
        self.first: list[Any] = []
        self.more_first = self.more_manual = self.blocked_manual = False
        self.next_retry_at: int | None = None


def _choose(claim: Claim, place: int, offered: Mapping[tuple[str, int], list[Any]]) -> _Choice:
    """What of the rows *offered* to the claim at *place* is handed out. Each kind was asked for by itself: what is handed
    out by hand is taken from the others here. Pure."""
    budget = ClaimBudget(claim.limit, claim.max_bytes)
    choice = _Choice()
    manual = sorted(offered.get(("manual", place), ()), key=lambda row: row["retry_id"])
    choice.manual = budget.spend(manual)
    choice.more_manual = len(manual) > len(choice.manual)
    # What is left without being offered belongs to deliveries that are being attempted, or to ones just handed out.
    choice.blocked_manual = sum(row["data_bytes"] for row in offered.get(("waiting", place), ())) > len(manual)
    by_hand = {row["delivery_id"] for row in choice.manual}
    retries = [
        row
        for row in sorted(offered.get(("retry", place), ()), key=lambda row: (row["due_at"], row["delivery_id"]))
        if row["delivery_id"] not in by_hand
    ]
    choice.retries = budget.spend([row for row in retries if row["due_at"] <= claim.now])
    choice.next_retry_at = next((row["due_at"] for row in retries[len(choice.retries) :]), None)
    first = [
        row
        for row in sorted(offered.get(("first", place), ()), key=lambda row: (row["created_at"], row["delivery_id"]))
        if row["delivery_id"] not in by_hand
    ]
    choice.first = budget.spend(first)
    choice.more_first = len(first) > len(choice.first)
    return choice


def _handed_out(claim: Claim, choice: _Choice, events: Mapping[str, AcceptedEvent], deliveries: Mapping[str, Any]) -> Claimed:
    def due(row: Any, counts: Any) -> DueDelivery:
        return DueDelivery(
            id=row["delivery_id"],
            endpoint_id=claim.endpoint.id,
            event=events[row["event_id"]],
            api_version=counts["api_version"],
            activation=counts["activation"],
            attempt_count=counts["attempt_count"],
            scheduled_count=counts["scheduled_count"],
            due_at=counts["due_at"],
            created_at=counts["created_at"],
            retry_id=row["retry_id"],
            trigger=rows.TRIGGERS[counts["trigger"]],
        )

    def all_due(found: Collection[Any]) -> list[DueDelivery]:
        # One whose event has just been pruned is about to fail: it is not handed out any more.
        return [due(row, row) for row in found if row["event_id"] in events]

    return Claimed(
        manual=[
            due(row, deliveries[row["delivery_id"]])
            for row in choice.manual
            if row["event_id"] in events and row["delivery_id"] in deliveries
        ],
        retries=all_due(choice.retries),
        first=all_due(choice.first),
        more_first=choice.more_first,
        more_manual=choice.more_manual,
        blocked_manual=choice.blocked_manual,
        next_retry_at=choice.next_retry_at,
    )


def lane_work(row: Any, sealing: Sealing) -> LaneWork:
    return LaneWork(
        endpoint=rows.endpoint(row, sealing),
        has_first_attempts=row["has_first_attempts"],
        next_retry_at=row["next_retry_at"],
        has_manual=row["has_manual"],
    )
