"""The baseline: a bare loop of aiohttp client POSTs of bodies like the gateway's, which signs, stores and checks nothing."""

from collections.abc import Sequence

import aiohttp
from yarl import URL

from scripts.benchmarks.payload import DELIVERY_HEADERS, delivery_body
from scripts.benchmarks.phase import Assignment, Measurement
from scripts.benchmarks.worker import measure, work


async def post_on(assignment: Assignment) -> Measurement:
    """Posts to the receiver as fast as it goes, as many at a time as there are publishers."""
    url = URL(assignment.receiver_url)
    connector = aiohttp.TCPConnector(limit=assignment.phase.publishers)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def post(sent_at: Sequence[int]) -> None:
            for at in sent_at:
                async with session.post(url, data=delivery_body(at), headers=DELIVERY_HEADERS) as answer:
                    await answer.read()

        return await measure(assignment, [post] * assignment.phase.publishers)


if __name__ == "__main__":
    work(post_on)
