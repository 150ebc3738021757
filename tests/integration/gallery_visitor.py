"""Sends requests to receivers that misbehave, many at once to one after another, and tells how many bytes the process had grown
by meanwhile. `python -m tests.integration.gallery_visitor AT_ONCE TIMEOUT_SECONDS`, orders and answers are JSON."""

import asyncio
import gc
import json
import sys
from pathlib import Path

import uvloop

from gateway.egress.sender import Sender
from gateway.settings import Egress

_KIB = 1024
_RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs


def memory(name: str) -> int:
    """Bytes that this process holds (VmRSS), or has held at most (VmHWM)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * _KIB
    raise LookupError(name)


def forget_peak() -> None:
    """VmHWM begins again with what is held now."""
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")


async def visit(orders: list[dict[str, str | int]], at_once: int, timeout_seconds: float) -> list[int]:
    """The growth for each of *orders*."""
    grown = []
    async with Sender(Egress(allow=("127.0.0.0/8",)), timeout_seconds=timeout_seconds) as sender:

        async def send(url: str, body: bytes) -> None:
            await sender.send(url, {}, body, organization_id="org")

        for order in orders:
            url, body = str(order["url"]), b"x" * int(order["body_bytes"])
            await send(url, body)  # whatever is made once is there by now
            gc.collect()
            before = memory("VmRSS")
            forget_peak()
            await asyncio.gather(*(send(url, body) for _ in range(at_once)))
            grown.append(memory("VmHWM") - before)
    return grown


if __name__ == "__main__":
    json.dump(uvloop.run(visit(json.load(sys.stdin), int(sys.argv[1]), float(sys.argv[2]))), sys.stdout)
