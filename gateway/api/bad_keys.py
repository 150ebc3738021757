"""How many requests without a good key are taken from one address. Time comes in as an argument, in seconds.

Good keys are never counted, and never refused for what others do from the same address.
"""

import math
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address, ip_network

import structlog

from gateway.api.problems import RATE_LIMITED, Problem
from gateway.api.rate_limit import Bucket
from gateway.api.traffic import Seldom

log = structlog.get_logger()

MAX_ADDRESSES = 20_000
"""That are remembered, the latest ones: some 4 MB. Who comes from more addresses than that gets a few requests more."""

_IPV6_PREFIX = 64  # what one customer of a provider has at least
_TOLD_SECONDS = 60.0  # between two lines of the log about one address
_LINES_A_MINUTE = 20  # about all of them


class _Record:
    __slots__ = ("bucket", "refused", "told_at")

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.refused = 0  # since the log has told of it
        self.told_at = -math.inf


class BadKeys:
    """A bucket for each address, which holds *per_minute* requests and is filled at that pace."""

    def __init__(self, per_minute: int, *, most: int = MAX_ADDRESSES) -> None:
        self._per_minute = per_minute
        self._pace = per_minute / 60
        self._most = most
        self._records: OrderedDict[str, _Record] = OrderedDict()  # the one that asked last is the last
        self._lines = Seldom(_LINES_A_MINUTE)

    def __len__(self) -> int:
        return len(self._records)

    def count(self, address: str, now: float) -> None:
        """A request without a good key came from *address*. Raises a 429 when there were too many."""
        network = network_of(address)
        record = self._records.get(network)
        if record is None:
            record = self._records[network] = _Record(Bucket(self._per_minute, now))
            if len(self._records) > self._most:
                self._records.popitem(last=False)
        else:
            self._records.move_to_end(network)
        standing = record.bucket.take(now, pace=self._pace, capacity=self._per_minute, limit=self._per_minute)
        if standing.allowed:
            return
        record.refused += 1
        self._tell(network, record, now)
        raise Problem(
            RATE_LIMITED,
            "too many requests without a valid API key from this address; wait, and send one that is known",
            headers=standing.headers(),
            reason="bad_keys",
        )

    def forgive(self, address: str) -> None:
        """The key was a good one after all."""
        record = self._records.get(network_of(address))
        if record is not None:
            record.bucket.tokens = min(self._per_minute, record.bucket.tokens + 1)

    def _tell(self, network: str, record: _Record, now: float) -> None:
        if now - record.told_at < _TOLD_SECONDS:
            return
        left_out = self._lines.told(now)
        if left_out is not None:
            log.warning("keys.too_many_bad", address=network, refused=record.refused, other_addresses=left_out)
            record.told_at, record.refused = now, 0


def network_of(address: str) -> str:
    """What counts as one address: an IPv4 address, and of IPv6 a /64."""
    if ":" not in address:
        return address
    parsed = ip_address(address)
    return str(ip_network((parsed, _IPV6_PREFIX), strict=False)) if isinstance(parsed, IPv6Address) else str(parsed)
