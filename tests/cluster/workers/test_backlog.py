"""The backlog of a worker channel, as the workers know it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tests.support.layers import Layers
from tests.support.waiting import wait_until_async


async def test_the_workers_together_tell_what_no_worker_has_taken(
    make_layer: Layers, prefix: str
) -> None:
    """While their hands are full: then no client of theirs fetches anything."""
    # They look as seldom as ever: one that joins slowly would count as left out.
    make_layer.timings = replace(make_layer.timings, worker_pause=0.1)
    workers = [make_layer(prefix) for _ in range(2)]
    sender = make_layer(prefix)
    taking = [asyncio.create_task(each.receive_job("thumbs")) for each in workers]
    for worker in workers:
        worker.measure()
    for number in range(12):
        await sender.send("thumbs", {"n": number})
    # A failed start is to be told as what it is.
    jobs = [job for _, job in await asyncio.wait_for(asyncio.gather(*taking), 90)]

    def waiting() -> int:
        return sum(each.stats().backlog.get("thumbs", 0) for each in workers)

    await wait_until_async(lambda: waiting() == 10, "ten jobs to wait", 60)
    await workers[0].close()
    assert workers[0].stats().backlog == sender.stats().backlog == {}
    for job in jobs:
        job.done()
