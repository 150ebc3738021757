"""What has arrived: counters and latencies in memory that the receivers write and every process of the benchmark reads.

Each receiver owns one block, so nothing is locked; readers add the blocks up. Reading costs no request and no system call."""

import mmap
import os
import time
from collections.abc import Sequence

import msgspec

_COUNT, _CHECKSUM, _UNSTAMPED, _BUCKETS = range(4)
_STEPS_BITS = 5  # 32 steps between powers of two: a latency is told to 3 %
_BUCKET_COUNT = 32 << _STEPS_BITS
_BLOCK = _BUCKETS + _BUCKET_COUNT
_WRAP = 1 << 64


def bucket_of(microseconds: int) -> int:
    """The bucket of the histogram in which a latency is counted."""
    exponent = max(0, microseconds.bit_length() - _STEPS_BITS - 1)
    return min((exponent << _STEPS_BITS) + (microseconds >> exponent), _BUCKET_COUNT - 1)


def bucket_end(bucket: int) -> int:
    """The smallest latency, in microseconds, that lies above *bucket*."""
    exponent = max(0, (bucket >> _STEPS_BITS) - 1)
    return (bucket - (exponent << _STEPS_BITS) + 1) << exponent


def quantile_ms(buckets: Sequence[int], share: float) -> float | None:
    """The latency in milliseconds that *share* of all stay below; None when there are none."""
    wanted = share * sum(buckets)
    seen = 0
    for bucket, count in enumerate(buckets):
        seen += count
        if count and seen >= wanted:
            return bucket_end(bucket) / 1_000
    return None


class Arrivals(msgspec.Struct, frozen=True):
    """What had arrived at one moment, or, as a difference, in between two."""

    count: int
    checksum: int  # the sum of all times of sending: tells one missing and another sent twice from all being well
    unstamped: int  # arrivals that carry no time of sending
    buckets: tuple[int, ...]

    def since(self, earlier: "Arrivals") -> "Arrivals":
        """What arrived after *earlier*."""
        return Arrivals(
            self.count - earlier.count,
            (self.checksum - earlier.checksum) % _WRAP,
            self.unstamped - earlier.unstamped,
            tuple(now - then for now, then in zip(self.buckets, earlier.buckets, strict=True)),
        )


class Block:
    """One receiver's part of the tally."""

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells

    def record(self, sent_at: int | None) -> None:
        """Counts an arrival of what was sent at *sent_at* (nanoseconds of the monotonic clock)."""
        cells = self._cells
        if sent_at is None:
            cells[_UNSTAMPED] += 1
        else:
            cells[_CHECKSUM] = (cells[_CHECKSUM] + sent_at) % _WRAP
            cells[_BUCKETS + bucket_of(max(0, time.monotonic_ns() - sent_at) // 1_000)] += 1
        cells[_COUNT] += 1


class Tally:
    """All blocks. It lives in anonymous memory that child processes inherit by its descriptor: on disk it would disturb the
    syncs that are measured."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._cells = memoryview(mmap.mmap(fd, 0)).cast("B").cast("Q")

    @classmethod
    def create(cls, receivers: int) -> "Tally":
        fd = os.memfd_create("arrivals")
        os.ftruncate(fd, receivers * _BLOCK * 8)
        return cls(fd)

    def block(self, receiver: int) -> Block:
        """The part that only *receiver*, counted from 0, writes."""
        return Block(self._cells[receiver * _BLOCK : (receiver + 1) * _BLOCK])

    def count(self) -> int:
        """How many have arrived."""
        return sum(self._cells[_COUNT::_BLOCK])

    def read(self) -> Arrivals:
        """All there is to know at this moment."""
        cells = self._cells
        return Arrivals(
            sum(cells[_COUNT::_BLOCK]),
            sum(cells[_CHECKSUM::_BLOCK]) % _WRAP,
            sum(cells[_UNSTAMPED::_BLOCK]),
            tuple(sum(cells[_BUCKETS + bucket :: _BLOCK]) for bucket in range(_BUCKET_COUNT)),
        )
