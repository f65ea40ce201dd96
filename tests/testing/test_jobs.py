"""Worker channels of the layer in memory: jobs go to receives as on Kafka, at the same times."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

import pytest

from kafka_layer.config.timings import Timings
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.testing import InMemoryKafkaChannelLayer
from tests.support.inspect import server_of
from tests.support.layers import Backend, Layers, memory_backend, next_message, stats_of
from tests.support.waiting import PATIENCE, wait_until, wait_until_async


@pytest.fixture(scope="session")
def backend() -> Backend:
    return memory_backend()


def is_receiving(layer: KafkaChannelLayer, channel: str) -> bool:
    """Tell whether a receive waits on a worker channel of a layer."""
    mailbox = server_of(layer).jobs.mailbox(channel)
    return mailbox is not None and mailbox.receiving


async def test_a_job_that_no_receive_takes_goes_to_another_server_soon(
    make_layer: Layers,
) -> None:
    # It took 5 s, fifty times as long as on Kafka, where it is 0.1 s.
    first, second = make_layer(), make_layer()
    receive = asyncio.create_task(first.receive("unclaimed"))
    await wait_until_async(lambda: is_receiving(first, "unclaimed"), "the receive to wait")
    await first.send("unclaimed", {"n": 1})
    # This blocks the loop, so the receive cannot take what it is given.
    wait_until(lambda: stats_of(first)["delivered"] == 1, "the job to be handed out")
    receive.cancel()
    await asyncio.wait([receive])
    started = time.monotonic()
    assert await next_message(second, "unclaimed") == {"n": 1}
    assert time.monotonic() - started < 4.0


async def test_a_receive_on_a_loop_that_stands_still_keeps_no_job(make_layer: Layers) -> None:
    make_layer.timings = Timings(echo=0.2)
    blocked, idle = make_layer(), make_layer()
    waits, go_on = threading.Event(), threading.Event()
    got: list[Any] = []

    def block() -> None:
        async def receive_and_block() -> None:
            task = asyncio.create_task(blocked.receive("standing"))
            await wait_until_async(
                lambda: is_receiving(blocked, "standing"),
                "the receive to wait",
            )
            waits.set()
            go_on.wait(60)
            got.append(await task)

        asyncio.run(receive_and_block())

    thread = threading.Thread(target=block)
    thread.start()
    assert await asyncio.to_thread(waits.wait, PATIENCE)
    try:
        for number in range(5):
            await idle.send("standing", {"n": number})
        for _ in range(5):
            await next_message(idle, "standing")
        assert stats_of(blocked)["delivered"] == 0
    finally:
        await idle.send("standing", {"n": "last"})
        go_on.set()
        await asyncio.to_thread(thread.join, PATIENCE)
    assert got == [{"n": "last"}]


async def test_a_job_ends_with_the_test_whose_layers_had_it() -> None:
    one = InMemoryKafkaChannelLayer(prefix="leaving")
    await one.send("jobs", {"of": "the first test"})
    await one.close()
    del one
    two = InMemoryKafkaChannelLayer(prefix="leaving")
    await two.send("jobs", {"of": "the second test"})
    assert await next_message(two, "jobs") == {"of": "the second test"}
    await two.close()


async def test_a_layer_that_was_closed_and_used_again_finds_the_jobs_that_wait() -> None:
    layer = InMemoryKafkaChannelLayer(prefix="closing")
    await layer.send("jobs", {"n": 1})
    await layer.close()
    assert await next_message(layer, "jobs") == {"n": 1}
    await layer.close()


def test_a_prefix_that_no_layer_has_any_more_is_forgotten() -> None:
    def logs() -> int:
        return sum(type(each).__name__ == "_Log" for each in gc.get_objects())

    gc.collect()
    before = logs()
    for number in range(10):
        InMemoryKafkaChannelLayer(prefix=f"forgotten-{number}")
    gc.collect()
    assert logs() <= before
