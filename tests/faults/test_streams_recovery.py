"""Channels that follow streams: after a kill, and where the topic or its cluster has changed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Producer

from kafka_layer.config.timings import Timings
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.testing import EmbeddedBroker
from tests.faults.asking import DEADLINE, IN_TIME, tracked
from tests.faults.conftest import LayersOn
from tests.faults.victim import Victim
from tests.support.layers import Layers, next_message, next_messages
from tests.support.patience import PATIENT, START
from tests.support.streams import ForeignTopic, wait_for_state

GROUP = "order-7"


@pytest.fixture
def make_layer(kafka: str, layers_on: LayersOn) -> Layers:
    """On the broker of all tests: what these break is theirs."""
    return layers_on(kafka)


def streams(topic: str, **settings: Any) -> dict[str, Any]:
    stream = {"topic": topic, "group": "order-{key}", "type": "order.changed", **settings}
    return {"orders": stream}


class TestKilledInABurst:
    COUNT = 300
    """Records in each of two partitions, and messages to the group."""
    CHANNELS = 5
    RECEIVED = 1000
    """Messages of all channels together after which the process is killed."""

    async def test_every_channel_gets_each_record_once_and_in_order(
        self, kafka: str, make_layer: Layers, prefix: str
    ) -> None:
        sender = make_layer(prefix)
        topic = await asyncio.to_thread(ForeignTopic(sender, prefix).create, 2)
        config = {
            "bootstrap_servers": kafka,
            "prefix": prefix,
            "streams": streams(topic.name),
            "capacity": 20,
        }
        other = make_layer(prefix, streams=config["streams"], timings=PATIENT)
        await other.new_channel()
        victim = await Victim.start(config, GROUP, self.CHANNELS)
        killed = asyncio.Event()
        burst = asyncio.create_task(self.burst(sender, topic, killed))
        await victim.tell(self.RECEIVED)
        await victim.kill()
        killed.set()
        got = {
            number: [each.get("value") or each["n"] for each in told]
            for number, told in victim.got.items()
        }

        async def come_back(number: int) -> None:
            channel = await tracked(other, GROUP)
            found = await other.recover(channel, victim.positions[number], limit=1000)
            assert found.recovered, found.reason
            live = await next_messages(
                other, channel, 3 * self.COUNT - len(got[number]) - len(found.messages)
            )
            got[number] += [each.get("value") or each["n"] for each in [*found.messages, *live]]

        await asyncio.gather(*map(come_back, range(self.CHANNELS)))
        await burst
        for lane in range(3):
            expected = [[lane, number] for number in range(self.COUNT)]
            for number in range(self.CHANNELS):
                assert [each for each in got[number] if each[0] == lane] == expected

    async def burst(
        self, sender: KafkaChannelLayer, topic: ForeignTopic, killed: asyncio.Event
    ) -> None:
        """Send to all lanes; the second half not before the process is killed."""
        for number in range(0, self.COUNT, 5):
            if 2 * number >= self.COUNT:
                await asyncio.wait_for(killed.wait(), DEADLINE)
            for each in range(number, number + 5):
                await sender.group_send(GROUP, {"n": [2, each]})
            for lane in range(2):
                records = [b"[%d, %d]" % (lane, each) for each in range(number, number + 5)]
                await asyncio.to_thread(topic.write, *records, partition=lane)


async def test_a_topic_that_was_made_anew(make_layer: Layers, prefix: str) -> None:
    make_layer.timings = replace(PATIENT, topics=0.1)
    topic = await asyncio.to_thread(ForeignTopic(make_layer(prefix), prefix).create, 1)
    here = make_layer(prefix, streams=streams(topic.name))
    live = await tracked(here, GROUP)
    await asyncio.to_thread(topic.write, b"1", b"2")
    assert [each["value"] for each in await next_messages(here, live, 2)] == [1, 2]
    position = here.position(live)
    await asyncio.to_thread(topic.delete)
    await asyncio.to_thread(topic.create, 1)
    await asyncio.to_thread(topic.write, b"3")
    assert await next_message(here, live, DEADLINE) == {"type": "kafka.gap", "reason": "epoch"}
    late = make_layer(prefix, streams=streams(topic.name))
    for layer in (late, here):
        channel = await tracked(layer, GROUP)
        found = await layer.recover(channel, position)
        assert (found.reason, found.messages) == ("epoch", [])


async def test_the_brokers_of_a_stream_are_away(make_layer: Layers, prefix: str) -> None:
    """The layer's own messages come all the same, and whoever comes back is told."""
    # A recovery is told so long after its begin that no broker answers, and not because its time is
    # up.
    make_layer.timings = Timings(recovery=10.0, history_answer=0.5)
    away = streams("orders", bootstrap_servers="127.0.0.1:1")
    layer = make_layer(prefix, streams=away)
    began = time.monotonic()
    channel = await tracked(layer, GROUP)
    another = await tracked(layer, GROUP)
    assert time.monotonic() - began < IN_TIME
    await layer.group_send(GROUP, {"n": 1})
    assert [await next_message(layer, each) for each in (channel, another)] == [{"n": 1}] * 2
    for position in (layer.position(channel), await layer.group_position(GROUP)):
        again = await tracked(layer, GROUP)
        found = await asyncio.wait_for(layer.recover(again, position), IN_TIME)
        assert (found.reason, found.messages) == ("unavailable", [])
    # Who was in no group that the stream may reach is none of its business.
    room = await tracked(layer, "room")
    again = await tracked(layer, "room")
    assert (await layer.recover(again, layer.position(room))).recovered


async def test_the_brokers_of_a_stream_go_away(
    layers_on: LayersOn, make_layer: Layers, prefix: str
) -> None:
    """What a server has read itself, it replays; what it lacks is ``unavailable``."""
    with EmbeddedBroker() as elsewhere:
        foreign = layers_on(elsewhere.bootstrap_servers)(prefix)
        topic = ForeignTopic(foreign, prefix)
        elsewhere.create_topic(topic.name, 1)
        settings = streams(topic.name, bootstrap_servers=elsewhere.bootstrap_servers)
        make_layer.timings = Timings(recovery=START, stream_start=START)
        here = make_layer(prefix, streams=settings)
        channel = await tracked(here, GROUP)
        position = here.position(channel)
        await asyncio.to_thread(topic.write, b"1")
        await next_message(here, channel)
        there = make_layer(prefix, streams=settings)
        late = await tracked(there, GROUP)
        await foreign.close()
        elsewhere.stop()
        found = await there.recover(late, position)
        assert (found.reason, found.messages) == ("unavailable", [])
        again = await tracked(here, GROUP)
        found = await here.recover(again, position)
        assert [each["value"] for each in found.messages] == [1]


async def test_markers_of_transactions_are_no_loss(make_layer: Layers, prefix: str) -> None:
    make_layer.timings = PATIENT
    topic = await asyncio.to_thread(ForeignTopic(make_layer(prefix), prefix).create, 1)
    layer, late = (make_layer(prefix, streams=streams(topic.name)) for _ in range(2))
    channel = await tracked(layer, GROUP)
    position = layer.position(channel)
    servers = layer.config.bootstrap_servers
    await asyncio.to_thread(write_in_transactions, servers, topic.name, 3)
    messages: list[Any] = await next_messages(layer, channel, 3)
    assert [each["value"] for each in messages] == [0, 1, 2]
    behind = messages[-1].position
    # It goes on behind the last marker, which no reader gets.
    await layer.pause_stream("orders")
    await layer.resume_stream("orders")
    await asyncio.to_thread(topic.write, b"3")
    assert [each["value"] for each in await next_messages(layer, channel, 1)] == [3]
    await wait_for_state(layer, "orders", "reading", records=4)
    for server in (layer, late):
        for since, expected in ((position, [0, 1, 2, 3]), (behind, [3])):
            again = await tracked(server, GROUP)
            found = await server.recover(again, since)
            assert (found.reason, [each["value"] for each in found.messages]) == (None, expected)


def write_in_transactions(servers: str, topic: str, count: int) -> None:
    """Write records, each in a transaction, and after each another one that is aborted."""
    producer = Producer(
        {"bootstrap.servers": servers, "transactional.id": f"for-{topic}", "log_level": 0}
    )
    producer.init_transactions(DEADLINE)
    for number in range(count):
        for value, end in (
            (b"%d" % number, producer.commit_transaction),
            (b"-1", producer.abort_transaction),
        ):
            producer.begin_transaction()
            producer.produce(topic, value, b"7", 0)
            producer.flush(DEADLINE)
            end(DEADLINE)
