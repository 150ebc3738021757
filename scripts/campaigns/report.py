"""What a campaign has found, as people read it. Pure."""

import statistics

from scripts.campaigns.crash import Outcome


def as_text(outcome: Outcome) -> str:
    """A table, and what was not as promised, if anything."""
    kills = outcome.verdict.kills
    rounds = ", ".join(f"{count} {moment}" for moment, count in outcome.rounds.items())
    recovery = outcome.recovery_seconds
    audit = outcome.audit
    lines = {
        "store": f"{outcome.store}, seed {outcome.seed}, {outcome.seconds:,.0f} s",
        "kills": f"{len(kills):,}: {rounds}",
        "events accepted": f"{outcome.events_accepted:,}",
        "lost": f"{outcome.verdict.lost:,}",
        "requests": f"{outcome.requests:,}",
        "in flight at a kill": f"at most {max(kill.in_flight for kill in kills)} of {outcome.most_in_flight} that may be, "
        f"{sum(kill.in_flight for kill in kills):,} in all",
        "sent twice": f"at most {max(kill.repeated for kill in kills)} after a kill, "
        f"{sum(kill.repeated for kill in kills):,} in all; "
        f"{sum(kill.repeated > kill.in_flight for kill in kills)} kills with more than was in flight",
        "start to first delivery": f"p50 {statistics.median(recovery):.2f} s, max {max(recovery):.2f} s",
        "audit": f"{len(outcome.findings)} findings in {outcome.audits_under_load} beside the gateway; "
        f"{'none' if outcome.audit_code == 0 else 'some'} at the end, in {audit['events']:,} events, "
        f"{audit['deliveries']:,} deliveries, {audit['attempts']:,} attempts",
        "integrity check": outcome.integrity or "none (PostgreSQL)",
    }
    width = max(map(len, lines))
    text = [f"{name.ljust(width)}  {value}" for name, value in lines.items()]
    return "\n".join([*text, "", *(f"BROKEN: {fault}" for fault in outcome.faults)] if outcome.faults else text)
