"""Channels that come back after a kill, while Kafka is away, and where the log has changed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import channel_layers
from channels.testing import WebsocketCommunicator

from kafka_layer.config.timings import Timings
from kafka_layer.consumers import AsyncRecoveryConsumerMixin
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.messages import Message, Recovery
from kafka_layer.wire.partitions import partition_of
from kafka_layer.wire.topics import Topic, topic_name
from tests.support.inspect import server_of
from tests.support.kafka import RealBroker
from tests.support.layers import PARTITIONS, Layers, next_messages
from tests.support.topics import add_partition, await_growth, delete_before, delete_topic

IN_TIME = 8.0
"""Seconds: the layer gives up after 4, on a machine that is busy with brokers."""

DEADLINE = 30.0
GROUP = "room"

_REPOSITORY = Path(__file__).parents[2]


async def tracked(layer: KafkaChannelLayer, group: str = GROUP) -> str:
    channel = await layer.new_channel()
    layer.track(channel)
    await layer.group_add(group, channel)
    return channel


async def send(layer: KafkaChannelLayer, *values: object, group: str = GROUP) -> None:
    """Send messages, and return when they are in the log."""
    for value in values:
        await layer.group_send(group, {"n": value})
    await asyncio.to_thread(server_of(layer).transport.settle, DEADLINE)


async def recovered(layer: KafkaChannelLayer, position: str, group: str = GROUP) -> Recovery:
    """Recover a new channel, and fail the test if there is no verdict in time."""
    channel = await tracked(layer, group)
    return await asyncio.wait_for(layer.recover(channel, position), IN_TIME)


def numbers(found: Recovery) -> list[Any]:
    assert found.recovered, found.reason
    return [each["n"] for each in found.messages]


class TestKilledInABurst:
    COUNT = 1500
    CHANNELS = 10
    RECEIVED = 3000
    """Messages of all channels together after which the process is killed."""

    async def test_every_channel_gets_each_message_once_and_in_order(
        self, broker: RealBroker, make_layer: Layers, prefix: str
    ) -> None:
        sender, other = make_layer(prefix), make_layer(prefix)
        await other.new_channel()
        config = {"bootstrap_servers": broker.bootstrap_servers, "prefix": prefix}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.programs.tracked"),
            *(json.dumps(config), GROUP, str(self.CHANNELS)),
            cwd=_REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        positions: dict[int, str] = {}
        got: dict[int, list[int]] = {number: [] for number in range(self.CHANNELS)}

        def take(line: bytes) -> None:
            channel, position, message = json.loads(line)
            positions[channel] = position
            if message is not None:
                got[channel].append(message["n"])

        async def lines(count: int) -> None:
            assert process.stdout is not None
            for _ in range(count):
                take(await process.stdout.readline())

        await asyncio.wait_for(lines(self.CHANNELS), DEADLINE)
        burst = asyncio.create_task(self.burst(sender))
        await asyncio.wait_for(lines(self.RECEIVED), DEADLINE)
        process.kill()
        # What it had written has reached its reader, but for a line that was cut.
        rest = await asyncio.wait_for(process.stdout.read(), DEADLINE)
        for line in rest.splitlines(keepends=True):
            if line.endswith(b"\n"):
                take(line)
        await process.wait()
        assert not burst.done(), "the burst was over before the process was killed"

        async def come_back(number: int) -> None:
            channel = await tracked(other)
            found = await other.recover(channel, positions[number], limit=1000)
            got[number] += numbers(found)
            live = await next_messages(other, channel, self.COUNT - len(got[number]))
            got[number] += [each["n"] for each in live]

        await asyncio.gather(*map(come_back, range(self.CHANNELS)))
        await burst
        assert got == {number: list(range(self.COUNT)) for number in range(self.CHANNELS)}

    async def burst(self, sender: KafkaChannelLayer) -> None:
        for number in range(self.COUNT):
            await sender.group_send(GROUP, {"n": number})
            # So that the kill comes in the middle of it.
            await asyncio.sleep(0.002)


class TestWhileKafkaIsAway:
    @pytest.mark.filterwarnings("ignore:The tests use the Kafka")
    @pytest.mark.parametrize("how", ["kill", "freeze"])
    async def test_there_is_a_verdict_in_time(
        self, broker: RealBroker, make_layer: Layers, prefix: str, how: str
    ) -> None:
        here = make_layer(prefix)
        channel = await tracked(here)
        position = await here.group_position(GROUP)
        await send(here, 1, 2)
        # It has read them.
        await next_messages(here, channel, 2)
        # One that kept what was missed needs no broker; one that started since has to ask.
        late = make_layer(prefix)
        await late.new_channel()
        getattr(broker, how)()
        began = time.monotonic()
        found = await recovered(here, position)
        assert numbers(found) == [1, 2]
        verdict = await self.told_to_a_browser(late, position)
        assert verdict.pop("reason") in {"unavailable", "timeout"}
        assert verdict == {"recovered": False, "count": 0}
        assert time.monotonic() - began < 2 * IN_TIME
        await asyncio.to_thread(broker.thaw if how == "freeze" else broker.start)
        deadline = time.monotonic() + DEADLINE
        while not (found := await recovered(late, position)).recovered:
            assert time.monotonic() < deadline, f"still {found.reason}"
        assert numbers(found) == [1, 2]
        await send(here, 3)

    async def told_to_a_browser(self, layer: KafkaChannelLayer, position: str) -> dict[str, Any]:
        """Return the verdict for a browser, and fail the test if there is none in time."""
        offers = ["kafka-layer.v1", f"kafka-layer.position.{position}"]
        channel_layers.set("default", layer)
        try:
            browser = WebsocketCommunicator(Room.as_asgi(), "/", subprotocols=offers)
            assert await browser.connect(IN_TIME) == (True, "kafka-layer.v1")
            frame = await browser.receive_json_from(IN_TIME)
            await browser.disconnect(timeout=IN_TIME)
        finally:
            del channel_layers.backends["default"]
        verdict: dict[str, Any] = frame["r"]
        return verdict


class Room(AsyncRecoveryConsumerMixin, AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    groups = (GROUP,)


class TestTheLogHasChanged:
    async def test_its_beginning_is_gone(self, make_layer: Layers, prefix: str) -> None:
        here = make_layer(prefix)
        await tracked(here)
        position = await here.group_position(GROUP)
        await send(here, 1, 2, 3)
        await asyncio.to_thread(cut, here, 2)
        # A server that kept it in memory has it all the same.
        assert numbers(await recovered(here, position)) == [1, 2, 3]
        late = make_layer(prefix)
        found = await recovered(late, position)
        assert (found.reason, found.messages) == ("truncated", [])
        # What was missed is there, although older records are not.
        position = await here.group_position(GROUP)
        await send(here, 4)
        assert numbers(await recovered(make_layer(prefix), position)) == [4]

    async def test_its_topic_was_made_anew(self, make_layer: Layers, prefix: str) -> None:
        make_layer.timings = Timings(topics=0.05)
        here = make_layer(prefix)
        live = await tracked(here)
        await send(here, 1, 2)
        position = await here.group_position(GROUP)
        await asyncio.to_thread(delete_topic, here, Topic.SEND_GROUP)
        await send(here, 3)
        late = make_layer(prefix)
        for layer in (late, here):
            found = await until_decided(layer, position)
            assert (found.reason, found.messages) == ("epoch", [])
        # The channel that stays gets what it was sent before, and is told of the gap.
        *before, gap = await next_messages(here, live, 3)
        assert [each["n"] for each in before] == [1, 2]
        assert gap == {"type": "kafka.gap", "reason": "epoch"}
        position = await late.group_position(GROUP)
        await send(late, 4)
        assert numbers(await recovered(late, position)) == [4]

    async def test_its_end_was_lost_and_it_went_on(
        self, broker: RealBroker, make_layer: Layers, prefix: str
    ) -> None:
        """As after a power failure: other records stand where the position ends."""
        here = make_layer(prefix)
        channel = await tracked(here)
        await send(here, 1)
        topic = topic_name(prefix, Topic.SEND_GROUP)
        segment = broker.segment(topic, partition_of(GROUP, PARTITIONS))
        size = segment.stat().st_size
        await send(here, 2, 3)
        *_, last = await next_messages(here, channel, 3)
        assert isinstance(last, Message)
        position = last.position
        await here.close()
        broker.kill()
        os.truncate(segment, size)
        await asyncio.to_thread(broker.start)
        late = make_layer(prefix)
        await send(late, 4, 5, 6)
        found = await until_decided(late, position)
        assert (found.reason, found.messages) == ("epoch", [])

    async def test_partitions_were_added(self, make_layer: Layers, prefix: str) -> None:
        here = make_layer(prefix)
        # A group whose partition changes.
        group = next(
            name
            for number in range(100)
            if partition_of(name := f"room-{number}", PARTITIONS + 1) == PARTITIONS
        )
        await tracked(here, group)
        position = await here.group_position(group)
        await send(here, 1, 2, group=group)
        await asyncio.to_thread(add_partition, here, Topic.SEND_GROUP, PARTITIONS)
        await asyncio.to_thread(await_growth, here, Topic.SEND_GROUP, PARTITIONS)
        await send(here, 3, 4, group=group)
        late = make_layer(prefix)
        assert numbers(await recovered(late, position, group)) == [1, 2, 3, 4]
        everything = asyncio.get_running_loop().time() + DEADLINE
        while numbers(await recovered(here, position, group)) != [1, 2, 3, 4]:
            # It has not read the new partition yet: those messages come live.
            assert asyncio.get_running_loop().time() < everything


async def until_decided(layer: KafkaChannelLayer, position: str) -> Recovery:
    """Recover, again while the server does not know the new topic yet."""
    deadline = time.monotonic() + DEADLINE
    while (found := await recovered(layer, position)).reason in {"unavailable", "timeout"}:
        assert time.monotonic() < deadline, f"still {found.reason}"
    return found


def cut(layer: KafkaChannelLayer, count: int) -> None:
    """Have the log lose the first records of the group's partition."""
    delete_before(layer, Topic.SEND_GROUP, partition_of(GROUP, PARTITIONS), count)
