"""The log changes under a server: it resolves its position, counts what it missed and goes on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import Cause, ProduceFailed
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.wire.topics import Topic
from tests.faults.traffic import figure
from tests.support.inspect import is_waited_for, server_of
from tests.support.kafka import Node, RealBroker
from tests.support.layers import Layers, next_message, next_messages, stats_of
from tests.support.topics import delete_before, delete_topic
from tests.support.waiting import wait_until_async

# No more is fetched ahead than one record of these: what is deleted was not fetched before.
SLOW_READER: dict[str, Any] = {
    "channel_capacity": {"held-up*": 1},
    "consumer_config": {
        "queued.min.messages": 1,
        "fetch.message.max.bytes": 1_000,
        "fetch.queue.backoff.ms": 10,
    },
}
BULK = "x" * 10_000


@contextlib.asynccontextmanager
async def reading_held_up(
    sender: KafkaChannelLayer, layer: KafkaChannelLayer
) -> AsyncIterator[None]:
    """Keep the thread that reads waiting for room in a channel of its own, of capacity 1."""
    channel = await layer.new_channel("held-up")
    for _ in range(2):
        await sender.send(channel, {})
    await wait_until_async(lambda: is_waited_for(layer, channel), "the reading thread to wait")
    try:
        yield
    finally:
        await next_messages(layer, channel, 2)


async def member(layer: KafkaChannelLayer) -> str:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    return channel


def doubtful_group_messages(layer: KafkaChannelLayer) -> Sequence[int]:
    """Return a list that gets from now on how many messages to groups are dropped as doubtful.

    ``stats()`` counts the records of all topics, also those that the server itself writes.
    """
    stats = server_of(layer).stats
    pass_on, numbers = stats.dropped, list[int]()

    def dropped(cause: Cause, detail: str, number: int = 1) -> None:
        if cause == "doubtful" and f"-{Topic.SEND_GROUP.value}[" in detail:
            numbers.append(number)
        pass_on(cause, detail, number)

    stats.dropped = dropped  # type: ignore[method-assign]
    return numbers


@pytest.fixture
def patient(make_layer: Layers) -> None:
    """Let the thread that reads wait for a full channel for as long as a test takes."""
    make_layer.timings = Timings(stalled=60.0, holding_up=60.0)


@pytest.mark.usefixtures("patient")
class TestRetention:
    async def test_overtook_a_slow_server(self, make_layer: Layers) -> None:
        here = make_layer(await_produce=True)
        there = make_layer(**SLOW_READER)
        channel = await member(there)
        first = await here.group_send("room", {"n": 0})
        assert first is not None
        assert (await next_message(there, channel))["n"] == 0
        async with reading_held_up(here, there):
            for number in range(1, 101):
                await here.group_send("room", {"n": number, "bulk": BULK})
            await asyncio.to_thread(
                delete_before, here, Topic.SEND_GROUP, first.partition, first.offset + 80
            )
            await here.group_send("room", {"n": 101})
        numbers: list[int] = []
        while not numbers or numbers[-1] != 101:
            numbers.append((await next_message(there, channel))["n"])
        missed = stats_of(there)["dropped.retention"]
        assert numbers == sorted(set(numbers))
        assert numbers[-22:] == list(range(80, 102))
        assert missed == 101 - len(numbers)
        assert missed > 50
        assert stats_of(there)["errors._AUTO_OFFSET_RESET"] == 1
        assert not stats_of(there)["errors.consumer"]

    async def test_took_everything(self, make_layer: Layers) -> None:
        here = make_layer(await_produce=True)
        there = make_layer(**SLOW_READER)
        channel = await member(there)
        first = await here.group_send("room", {"n": 0})
        assert first is not None
        await next_message(there, channel)
        async with reading_held_up(here, there):
            for number in range(1, 51):
                await here.group_send("room", {"n": number, "bulk": BULK})
            await asyncio.to_thread(delete_before, here, Topic.SEND_GROUP, first.partition, -1)
        await wait_until_async(
            lambda: stats_of(there)["dropped.retention"], "the gap to be counted"
        )
        await here.group_send("room", {"n": 51})
        numbers: list[int] = []
        while not numbers or numbers[-1] != 51:
            numbers.append((await next_message(there, channel))["n"])
        assert stats_of(there)["dropped.retention"] == 51 - len(numbers)

    async def test_where_nothing_was_read_yet(self, make_layer: Layers, prefix: str) -> None:
        here = make_layer(prefix, await_produce=True)
        there = make_layer(prefix, **SLOW_READER)
        channel = await member(there)
        async with reading_held_up(here, there):
            for number in range(50):
                last = await here.group_send("room", {"n": number, "bulk": BULK})
            assert last is not None
            assert last.offset == 49
            await asyncio.to_thread(delete_before, here, Topic.SEND_GROUP, last.partition, 40)
        numbers: list[int] = []
        while not numbers or numbers[-1] != 49:
            numbers.append((await next_message(there, channel))["n"])
        assert numbers[-10:] == list(range(40, 50))
        assert stats_of(there)["dropped.retention"] == 50 - len(numbers)


@pytest.fixture
def quick_refresh(make_layer: Layers) -> None:
    """Let servers look at the topics twice a second instead of twice a minute."""
    make_layer.timings = Timings(refresh=0.5)


@pytest.mark.usefixtures("quick_refresh")
class TestDeleted:
    @pytest.mark.parametrize("before", [1, 50])
    async def test_a_topic_made_anew_is_read_from_its_start(
        self, make_layer: Layers, prefix: str, before: int
    ) -> None:
        # Only the receiver makes it anew: where another server is faster than its look at the
        # topics, it would never see the topic missing, and go on at its old position.
        here = make_layer(prefix, auto_create_topics=False, await_produce=True)
        there = make_layer(prefix)
        channel = await member(there)
        for _ in range(before):
            await here.group_send("room", {"n": -1})
        await next_messages(there, channel, before)
        doubtful = doubtful_group_messages(there)
        await asyncio.to_thread(delete_topic, here, Topic.SEND_GROUP)
        received = await self.flows_again(here, there, channel, doubtful)
        figure(f"{before} before, deleted: the first of the new topic were {received}")

    async def flows_again(
        self,
        here: KafkaChannelLayer,
        there: KafkaChannelLayer,
        channel: str,
        doubtful: Sequence[int],
    ) -> list[int]:
        """Send until ten arrived; what is missing of the new topic must be counted."""
        taken: dict[int, int] = {}
        received: list[int] = []

        async def receive() -> None:
            while True:
                received.append((await there.receive(channel))["n"])

        receiving = asyncio.create_task(receive())
        deadline = asyncio.get_running_loop().time() + 60
        for number in itertools.count():
            with contextlib.suppress(ProduceFailed):
                position = await here.group_send("room", {"n": number})
                assert position is not None
                taken[number] = position.offset
            if len(received) >= 10:
                break
            await asyncio.sleep(0.1)
            assert asyncio.get_running_loop().time() < deadline, (stats_of(here), stats_of(there))
        await wait_until_async(lambda: max(taken) in received, "the last one")
        receiving.cancel()
        # A broker may write one more to a topic that it has already reported as deleted.
        first = next(number for number, offset in taken.items() if offset == 0)
        expected = [number for number in taken if number >= first]
        # What was read between the last look at the topics and the deletion may be of either log.
        assert received == expected[sum(doubtful) :]
        return received[:3]


def replace_by_an_empty_one(node: Node) -> None:
    """Kill a broker and start another one, with another cluster id and no topics, on its port."""
    node.kill()
    node.format()
    node.start()


async def test_the_broker_is_replaced_by_an_empty_one(
    broker: RealBroker, make_layer: Layers
) -> None:
    here, there = make_layer(await_produce=True), make_layer()
    channel = await member(there)
    for _ in range(20):
        await here.group_send("room", {"n": -1})
    await next_messages(there, channel, 20)
    doubtful = doubtful_group_messages(there)
    await asyncio.to_thread(replace_by_an_empty_one, broker)
    received = await TestDeleted().flows_again(here, there, channel, doubtful)
    figure(f"empty broker: the first were {received}")
    await here.send(channel, {"n": "direct"})
    assert await next_message(there, channel) == {"n": "direct"}
