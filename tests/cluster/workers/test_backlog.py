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
    make_layer.timings = replace(make_layer.timings, worker_look=0.3, worker_pause=0.1)
    workers = [make_layer(prefix) for _ in range(2)]
    sender = make_layer(prefix)
    taking = [asyncio.create_task(each.receive_job("thumbs")) for each in workers]
    # Each has a share before the first job comes.
    for worker in workers:
        worker.measure()
        await wait_until_async(lambda each=worker: each.stats().backlog, "a share", 60)  # type: ignore[misc]
    assert [each.stats().backlog for each in workers] == [{"thumbs": 0}] * 2
    for number in range(12):
        await sender.send("thumbs", {"n": number})
    jobs = [job for _, job in await asyncio.wait_for(asyncio.gather(*taking), 60)]

    def waiting() -> int:
        return sum(each.stats().backlog.get("thumbs", 0) for each in workers)

    await wait_until_async(lambda: waiting() == 10, "ten jobs to wait", 60)
    await workers[0].close()
    assert workers[0].stats().backlog == {}
    # The other one has it all.
    await wait_until_async(lambda: waiting() == 10, "the other's share", 60)
    for job in jobs:
        job.done()
    assert sender.stats().backlog == {}
