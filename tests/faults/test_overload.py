"""More than a server can take: memory stays bounded, drops are counted, others go on."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from channels.exceptions import ChannelFull

from kafka_layer.layer import KafkaChannelLayer
from tests.faults.traffic import figure, send_large
from tests.support.kafka import RealBroker
from tests.support.layers import next_messages, stats_of
from tests.support.waiting import PATIENCE, wait_until, wait_until_async

if TYPE_CHECKING:
    from typing_extensions import Self

FLOOD = 40_000
STALL = 5.0
GAP = 9.0
"""Seconds of silence at most: less than the 10 after which a loop that stands still is given up."""
HELD_BACK = 3_000
"""Records that wait outside of the client's queue at most."""
MEMORY = 200 * 1024 * 1024
"""What a server may grow by: librdkafka fetches at most 64 MiB ahead, then Python's share."""


class LoopInThread:
    """An event loop in a thread of its own, which can be made to stand still."""

    def __enter__(self) -> Self:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)
        self.loop.close()

    def run(self, coroutine: Any, timeout: float = 30) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def stand_still(self) -> tuple[threading.Event, threading.Event]:
        """Block the loop in a callback; returns what tells that it is, and what ends it."""
        stands, go_on = threading.Event(), threading.Event()

        def block() -> None:
            stands.set()
            go_on.wait(60)

        self.loop.call_soon_threadsafe(block)
        return stands, go_on


async def test_an_event_loop_that_stands_still_while_40000_messages_arrive(
    make_layer: Callable[..., KafkaChannelLayer],
) -> None:
    here, there = make_layer(), make_layer()
    process = psutil.Process()

    async def member() -> str:
        channel = await there.new_channel()
        await there.group_add("room", channel)
        return channel

    arrived: list[list[tuple[float, int]]] = [[] for _ in range(5)]

    async def receive(channel: str, into: list[tuple[float, int]]) -> None:
        while True:
            message = await there.receive(channel)
            into.append((time.monotonic(), message["n"]))

    others = [asyncio.create_task(receive(await member(), into)) for into in arrived]
    with LoopInThread() as other:
        still = await asyncio.to_thread(other.run, member())
        slow: list[tuple[float, int]] = []
        receiving = asyncio.run_coroutine_threadsafe(receive(still, slow), other.loop)
        await here.group_send("room", {"n": -1})
        await wait_until_async(lambda: slow and all(arrived), "everyone to receive")
        before = process.memory_info().rss
        stands, go_on = other.stand_still()
        assert await asyncio.to_thread(stands.wait, PATIENCE)
        began = time.monotonic()
        peak = before

        def flood() -> None:
            for number in range(FLOOD):
                try:
                    here.group_send_sync("room", {"n": number, "text": "x" * 100})
                except ChannelFull:
                    wait_until(lambda: here.stats().queued < FLOOD / 2, "room in the queue", 30)
                    here.group_send_sync("room", {"n": number, "text": "x" * 100})

        flooding = asyncio.create_task(asyncio.to_thread(flood))

        def through() -> bool:
            nonlocal peak
            peak = max(peak, process.memory_info().rss)
            return all(each[-1][1] == FLOOD - 1 for each in arrived)

        await wait_until_async(through, f"{FLOOD} messages at each other channel", 60)
        await flooding
        took = time.monotonic() - began
        await wait_until_async(
            lambda: time.monotonic() >= began + STALL, "the loop to have stood still for 5 s"
        )
        go_on.set()
        woke = time.monotonic()
        await wait_until_async(
            lambda: len(slow) + stats_of(there)["dropped.full"] == FLOOD + 1,
            "the loop that stood still to take what its channel held",
        )
        await here.group_send("room", {"n": FLOOD})
        await wait_until_async(
            lambda: slow[-1][1] == FLOOD and all(e[-1][1] == FLOOD for e in arrived), "the last one"
        )
        latency = max(each[-1][0] for each in (slow, *arrived)) - woke
        other.loop.call_soon_threadsafe(receiving.cancel)
        gaps = [b[0] - a[0] for each in arrived for a, b in itertools.pairwise(each)]
    for task in others:
        task.cancel()
    for each in arrived:
        assert [n for _, n in each] == list(range(-1, FLOOD + 1))
    numbers = [n for _, n in slow]
    assert numbers == sorted(set(numbers))
    assert stats_of(there)["dropped.full"] == FLOOD + 2 - len(numbers)
    figure(
        f"5 x {FLOOD} messages in {took:.1f} s beside a loop that stood still, which got "
        f"{len(numbers)}; silence for the others <= {max(gaps):.2f} s, memory + "
        f"{(peak - before) / 2**20:.0f} MiB, latency afterwards {latency * 1000:.0f} ms"
    )
    assert peak - before < MEMORY
    # None of the others waited for that loop.
    assert max(gaps) < GAP
    assert latency < GAP


# Of 400 records some are held back before they get to the client.
@pytest.mark.parametrize("limit", [100, 400])
class TestProducerQueue:
    """The broker stands still, and the queue holds few records."""

    async def ready(
        self, make_layer: Callable[..., KafkaChannelLayer], overflow: str, limit: int
    ) -> tuple[KafkaChannelLayer, KafkaChannelLayer, str]:
        here = make_layer(
            overflow=overflow, producer_config={"queue.buffering.max.messages": limit}
        )
        there = make_layer(capacity=2000)
        channel = await there.new_channel()
        await there.group_add("room", channel)
        await here.group_send("room", {"n": -1})
        await next_messages(there, channel, 1)
        await wait_until_async(lambda: not here.stats().queued, "the queue to be empty")
        return here, there, channel

    async def test_raise(
        self, broker: RealBroker, make_layer: Callable[..., KafkaChannelLayer], limit: int
    ) -> None:
        here, there, channel = await self.ready(make_layer, "raise", limit)
        accepted = []
        broker.freeze()
        try:
            for number in range(limit + 50):
                try:
                    await here.group_send("room", {"n": number})
                    accepted.append(number)
                except ChannelFull:
                    pass
        finally:
            broker.thaw()
        assert len(accepted) == limit
        received = await next_messages(there, channel, limit)
        assert [each["n"] for each in received] == accepted
        assert stats_of(here)["refused.overflow"] == 50

    async def test_discard(
        self, broker: RealBroker, make_layer: Callable[..., KafkaChannelLayer], limit: int
    ) -> None:
        here, there, channel = await self.ready(make_layer, "discard", limit)
        broker.freeze()
        try:
            for number in range(limit + 50):
                await here.group_send("room", {"n": number})
        finally:
            broker.thaw()
        received = await next_messages(there, channel, limit)
        assert [each["n"] for each in received] == list(range(limit))
        assert stats_of(here)["dropped.overflow"] == 50

    @pytest.mark.parametrize("way", ["async", "sync"])
    async def test_block(
        self, broker: RealBroker, make_layer: Callable[..., KafkaChannelLayer], limit: int, way: str
    ) -> None:
        here, there, channel = await self.ready(make_layer, "block", limit)
        sent = 0

        async def send_all() -> None:
            nonlocal sent
            for number in range(limit + 50):
                message = {"n": number}
                if way == "sync":
                    await asyncio.to_thread(here.group_send_sync, "room", message)
                else:
                    await here.group_send("room", message)
                sent += 1

        receiving = asyncio.create_task(next_messages(there, channel, limit + 50, 2 * PATIENCE))
        broker.freeze()
        try:
            sending = asyncio.create_task(send_all())
            await wait_until_async(
                lambda: sent >= limit and here.stats().queued == limit, "the queue to be full"
            )
            # The broker may have taken some at the moment in which it stopped.
            assert limit <= sent < limit + 50
        finally:
            broker.thaw()
        await asyncio.wait_for(sending, PATIENCE)
        assert [each["n"] for each in await receiving] == list(range(limit + 50))
        assert not stats_of(here)["dropped.overflow"]


async def test_a_queue_that_is_full_of_bytes(
    broker: RealBroker, make_layer: Callable[..., KafkaChannelLayer]
) -> None:
    here = make_layer(producer_config={"queue.buffering.max.kbytes": 1024})
    there = make_layer(capacity=2000)
    channel = await there.new_channel()
    await here.send(channel, {"n": -1})
    await next_messages(there, channel, 1)
    broker.freeze()
    try:
        accepted = await send_large(here, channel, 5000)
    finally:
        broker.thaw()
    received = await next_messages(there, channel, len(accepted))
    assert [each["n"] for each in received] == accepted
    assert 300 < len(accepted) < 400 + HELD_BACK
    assert stats_of(here)["refused.overflow"] == 5000 - len(accepted)
