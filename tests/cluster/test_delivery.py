"""Bursts, stalled receivers and cancelled receives, over a real broker."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from typing import Any

import pytest

from kafka_layer.config.timings import Timings
from kafka_layer.delivery.mailbox import Mailbox
from kafka_layer.layer import KafkaChannelLayer
from tests.support.inspect import server_of
from tests.support.layers import Layers, next_messages, stats_of
from tests.support.waiting import wait_until_async

BURST = 1500
RECEIVERS = 20
STALLED = 3


async def members(layer: KafkaChannelLayer, count: int) -> list[str]:
    channels = [await layer.new_channel() for _ in range(count)]
    for channel in channels:
        await layer.group_add("room", channel)
    return channels


async def burst(sender: KafkaChannelLayer, count: int = BURST) -> None:
    for number in range(count):
        await sender.group_send("room", {"n": number})


class TestBursts:
    async def test_receivers_that_keep_up_lose_nothing(self, make_layer: Layers) -> None:
        here, there = make_layer(), make_layer()
        channels = await members(there, RECEIVERS)
        receiving = [
            asyncio.create_task(next_messages(there, channel, BURST)) for channel in channels
        ]
        await burst(here)
        for received in await asyncio.gather(*receiving):
            assert [each["n"] for each in received] == list(range(BURST))
        assert not [name for name in stats_of(there) if name.startswith("dropped")]

    # Each message of the second burst is 217 deliveries.
    @pytest.mark.parametrize(("stalled", "count"), [(STALLED, BURST), (RECEIVERS * 10, 300)])
    async def test_receivers_that_stand_still_cost_the_others_nothing(
        self, make_layer: Layers, stalled: int, count: int
    ) -> None:
        here, there = make_layer(), make_layer()
        still = await members(there, stalled)
        channels = await members(there, RECEIVERS - STALLED)
        longest = [0.0] * len(channels)

        async def receive(number: int) -> list[int]:
            received = []
            last = time.monotonic()
            while len(received) < count:
                received.append((await there.receive(channels[number]))["n"])
                now = time.monotonic()
                if len(received) > 1:
                    longest[number] = max(longest[number], now - last)
                last = now
            return received

        receiving = asyncio.gather(*(receive(number) for number in range(len(channels))))
        await burst(here, count)
        for received in await asyncio.wait_for(receiving, 60):
            assert received == list(range(count))
        # They wait once, until the others count as stalled, however many those are: one after
        # another, 200 of them would take 50 s.
        assert max(longest) < 10
        # The stalled ones hold what fitted, from the first message on, and lost the rest.
        for channel in still[:STALLED]:
            received = await next_messages(there, channel, there.config.capacity)
            assert [each["n"] for each in received] == list(range(there.config.capacity))
        lost = stalled * (count - there.config.capacity)
        await wait_until_async(
            lambda: stats_of(there)["dropped.full"] == lost, f"{lost} to be dropped"
        )

    async def test_a_stalled_receiver_that_goes_on_gets_what_comes_then(
        self, make_layer: Layers
    ) -> None:
        here, there = make_layer(), make_layer(capacity=10)
        (channel,) = await members(there, 1)
        for number in range(30):
            await here.group_send("room", {"n": number})
        await wait_until_async(lambda: stats_of(there)["dropped.full"] == 20, "20 to be dropped")
        assert [each["n"] for each in await next_messages(there, channel, 10)] == list(range(10))
        receiving = asyncio.create_task(next_messages(there, channel, 500))
        for number in range(500):
            await here.group_send("room", {"n": number})
        assert [each["n"] for each in await receiving] == list(range(500))


@pytest.fixture
def patient(make_layer: Layers) -> None:
    """Let no channel stall: on a slow machine these receives take nothing for long."""
    make_layer.timings = Timings(stalled=60.0, holding_up=60.0)


@pytest.mark.usefixtures("patient")
class TestCancelling:
    @pytest.mark.parametrize("way", ["group", "local", "other server"])
    async def test_at_random_moments_loses_nothing_and_repeats_nothing(
        self, make_layer: Layers, way: str
    ) -> None:
        count = 2000
        there = make_layer()
        here = there if way == "local" else make_layer()
        channel = await there.new_channel()
        await there.group_add("room", channel)
        received: list[int] = []
        cancelled = 0
        chance = random.Random(7)
        deadline = time.monotonic() + 100

        async def receive_and_cancel() -> None:
            nonlocal cancelled
            while len(received) < count and time.monotonic() < deadline:
                task = asyncio.create_task(there.receive(channel))
                await moment(chance)
                task.cancel()
                try:
                    received.append((await task)["n"])
                except asyncio.CancelledError:
                    cancelled += 1

        async def send() -> None:
            for number in range(count):
                if way == "group":
                    await here.group_send("room", {"n": number})
                elif way == "local":
                    mailbox = server_of(there).registry.open_mailbox(channel)
                    await wait_until_async(functools.partial(has_room, mailbox), "room", pause=0)
                    await here.send(channel, {"n": number})
                else:
                    await here.send(channel, {"n": number})
                if not number % 10:
                    await asyncio.sleep(0)

        sending = asyncio.create_task(send())
        await receive_and_cancel()  # not with wait_for(), whose cancel it would take for its own
        await sending
        assert received == list(range(count))
        assert cancelled > 100

    async def test_wait_for_with_short_timeouts(self, make_layer: Layers) -> None:
        here, there = make_layer(), make_layer()
        channel = await there.new_channel()
        await there.group_add("room", channel)
        received: list[Any] = []

        async def receive() -> None:
            while len(received) < 1000:
                try:
                    received.append(await asyncio.wait_for(there.receive(channel), 0.0005))
                except asyncio.TimeoutError:
                    continue

        receiving = asyncio.create_task(receive())
        for number in range(1000):
            await here.group_send("room", {"n": number})
            if not number % 3:
                await asyncio.sleep(0.0005)
        await asyncio.wait_for(receiving, 60)
        assert [each["n"] for each in received] == list(range(1000))


def has_room(mailbox: Mailbox) -> bool:
    return len(mailbox) < 50


async def moment(chance: random.Random) -> None:
    """Let between no and a few turns of the loop pass, or a little time."""
    for _ in range(chance.randrange(4)):
        await asyncio.sleep(0)
    if chance.random() < 0.05:
        await asyncio.sleep(0.001)
