"""Channels that come back after a kill, and where the log has changed."""

from __future__ import annotations

import asyncio

from kafka_layer.config.timings import Timings
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.wire.partitions import partition_of
from kafka_layer.wire.topics import Topic
from tests.faults.asking import DEADLINE, GROUP, numbers, recovered, send, tracked, until_decided
from tests.faults.victim import Victim
from tests.support.kafka import RealBroker
from tests.support.layers import PARTITIONS, Layers, next_messages
from tests.support.patience import PATIENT
from tests.support.topics import add_partition, await_growth, delete_before, delete_topic


class TestKilledInABurst:
    COUNT = 1000
    CHANNELS = 10
    RECEIVED = 3000
    """Messages of all channels together after which the process is killed."""

    async def test_every_channel_gets_each_message_once_and_in_order(
        self, broker: RealBroker, make_layer: Layers, prefix: str
    ) -> None:
        sender, other = make_layer(prefix), make_layer(prefix, timings=PATIENT)
        await other.new_channel()
        config = {"bootstrap_servers": broker.bootstrap_servers, "prefix": prefix}
        victim = await Victim.start(config, GROUP, self.CHANNELS)
        killed = asyncio.Event()
        burst = asyncio.create_task(self.burst(sender, killed))
        await victim.tell(self.RECEIVED)
        await victim.kill()
        killed.set()
        got = {number: [each["n"] for each in told] for number, told in victim.got.items()}

        async def come_back(number: int) -> None:
            channel = await tracked(other)
            found = await other.recover(channel, victim.positions[number], limit=1000)
            got[number] += numbers(found)
            live = await next_messages(other, channel, self.COUNT - len(got[number]))
            got[number] += [each["n"] for each in live]

        await asyncio.gather(*map(come_back, range(self.CHANNELS)))
        await burst
        assert got == {number: list(range(self.COUNT)) for number in range(self.CHANNELS)}

    async def burst(self, sender: KafkaChannelLayer, killed: asyncio.Event) -> None:
        """Send; the second half not before the process is killed."""
        for number in range(self.COUNT):
            if 2 * number == self.COUNT:
                await asyncio.wait_for(killed.wait(), DEADLINE)
            await sender.group_send(GROUP, {"n": number})
            await asyncio.sleep(0)  # others receive meanwhile


class TestTheLogHasChanged:
    async def test_its_beginning_is_gone(self, make_layer: Layers, prefix: str) -> None:
        make_layer.timings = PATIENT
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
        # What its server has not read by then is gone with the topic.
        assert [each["n"] for each in await next_messages(here, live, 2)] == [1, 2]
        position = await here.group_position(GROUP)
        await asyncio.to_thread(delete_topic, here, Topic.SEND_GROUP)
        await send(here, 3)
        # A channel that stays is told of the gap: its server has noticed it.
        (gap,) = await next_messages(here, live, 1)
        assert gap == {"type": "kafka.gap", "reason": "epoch"}
        late = make_layer(prefix)
        for layer in (late, here):
            found = await until_decided(layer, position)
            assert (found.reason, found.messages) == ("epoch", [])
        position = await late.group_position(GROUP)
        await send(late, 4)
        found = await until_decided(late, position)
        assert numbers(found) == [4]

    async def test_partitions_were_added(self, make_layer: Layers, prefix: str) -> None:
        make_layer.timings = PATIENT
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


def cut(layer: KafkaChannelLayer, count: int) -> None:
    """Have the log lose the first records of the group's partition."""
    delete_before(layer, Topic.SEND_GROUP, partition_of(GROUP, PARTITIONS), count)
