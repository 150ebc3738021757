"""What the receiver tells of the requests that reached it."""

import msgspec


class Arrival(msgspec.Struct):
    """A request that reached an endpoint."""

    path: str
    event_id: str
    number: int  # that was published with the event
    life: int  # of the process that sent it, counted among all that were started
    at: float  # `time.monotonic()`, seconds, which is one clock for the whole machine
    status: int | None = None  # as answered; None when its sender was gone before


class State(msgspec.Struct, frozen=True):
    """How far things are."""

    arrivals: int
    connections: int  # of gateways that are open
    first: dict[int, float]  # when the first request of each life arrived
