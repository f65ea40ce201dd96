"""What happens to the topics of a stream, on a real broker."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.support.layers import Layers, next_message, next_messages, stats_of
from tests.support.patience import PATIENT
from tests.support.records import console_produce
from tests.support.streams import ForeignTopic, state_of, wait_for_state

SOON = replace(PATIENT, topics=0.3, look=0.2)


def settings(topic: str, **more: Any) -> dict[str, Any]:
    return {"orders": {"topic": topic, "group": "all", "type": "order.changed", **more}}


@pytest.fixture
def topic(make_layer: Layers, prefix: str) -> ForeignTopic:
    return ForeignTopic(make_layer(), prefix).create()


async def member(layer: Any, group: str = "all") -> str:
    channel: str = await layer.new_channel()
    await layer.group_add(group, channel)
    return channel


async def values(layer: Any, channel: str, count: int) -> list[Any]:
    return [each["value"] for each in await next_messages(layer, channel, count)]


async def test_what_kafkas_own_console_producer_writes(
    make_layer: Layers, topic: ForeignTopic
) -> None:
    make_layer.timings = PATIENT
    layer = make_layer(streams=settings(topic.name, group="order-{key}"))
    channel = await member(layer, "order-_xC3_xBC_x207")
    lines = 'ü 7:{"total": 5}\nother:{"total": 6}\n'.encode()
    servers = layer.config.bootstrap_servers
    await asyncio.to_thread(console_produce, servers, topic.name, lines)
    expected = {"type": "order.changed", "stream": "orders", "key": "ü 7", "value": {"total": 5}}
    assert await next_message(layer, channel, 30) == {**expected, "headers": {}}


async def test_a_partition_that_is_added_is_read_from_its_first_record(
    make_layer: Layers, topic: ForeignTopic
) -> None:
    make_layer.timings = SOON
    layers = [make_layer(streams=settings(topic.name)) for _ in range(2)]
    channels = [(layer, await member(layer)) for layer in layers]
    await asyncio.to_thread(topic.add_partitions, 2)
    await asyncio.to_thread(topic.write, b"1", b"2", partition=1)
    for layer, channel in channels:
        assert await values(layer, channel, 2) == [1, 2]
        await wait_for_state(layer, "orders", "reading", partitions=2)


async def test_a_topic_that_is_made_anew_is_read_from_its_start(
    make_layer: Layers, topic: ForeignTopic
) -> None:
    make_layer.timings = SOON
    await asyncio.to_thread(topic.write, b"1", b"2", key=b"old")
    layer = make_layer(streams=settings(topic.name, group="order-{key}", last_value=True))
    channel = await member(layer, "order-old")
    assert await values(layer, channel, 1) == [2]
    await asyncio.to_thread(topic.delete)
    await wait_for_state(layer, "orders", "waiting")
    await layer.group_add("order-new", channel)
    await asyncio.to_thread(topic.create)
    await asyncio.to_thread(topic.write, b"3", b"4", key=b"new")
    assert await values(layer, channel, 2) == [3, 4]
    joiner = await member(layer, "order-old")
    await layer.group_add("order-new", joiner)
    assert await values(layer, joiner, 1) == [4]
    assert not state_of(layer, "orders")["errors"]


async def test_a_topic_that_a_pattern_finds_later_is_read_from_its_start(
    make_layer: Layers, prefix: str
) -> None:
    make_layer.timings = SOON
    first, second = (ForeignTopic(make_layer(), prefix) for _ in range(2))
    await asyncio.to_thread(first.create)
    await asyncio.to_thread(first.write, b"0")
    layer = make_layer(streams=settings(f"^foreign-{re.escape(prefix)}-", group="{topic}"))
    channel = await member(layer, first.name)
    await layer.group_add(second.name, channel)
    await asyncio.to_thread(second.create)
    await asyncio.to_thread(second.write, b"2")
    await asyncio.to_thread(first.write, b"1")
    assert sorted(await values(layer, channel, 2)) == [1, 2]
    await wait_for_state(layer, "orders", "reading", topics=2)


async def test_what_a_transaction_aborts_reaches_nobody_and_its_marker_no_client(
    make_layer: Layers, topic: ForeignTopic, prefix: str
) -> None:
    """A transaction ends in a record that no consumer gets: its client is not deaf for that."""
    make_layer.timings = SOON
    layer = make_layer(streams=settings(topic.name))
    channel = await member(layer)
    servers = layer.config.bootstrap_servers

    def transact() -> None:
        producer = Producer({"bootstrap.servers": servers, "transactional.id": prefix})
        producer.init_transactions(30)
        for value in range(4):
            producer.begin_transaction()
            producer.produce(topic.name, b"%d" % value)
            if value % 2:
                producer.commit_transaction(30)
            else:
                producer.flush(30)
                producer.abort_transaction(30)

    await asyncio.to_thread(transact)
    assert await values(layer, channel, 2) == [1, 3]
    # Long enough for a client that seems behind to be replaced: three looks.
    await asyncio.sleep(SOON.look * 6)
    told = await wait_for_state(layer, "orders", "reading", lag=0)
    assert told["replaced"] == 0


async def test_brokers_of_another_cluster_that_are_away_delay_no_other_message(
    make_layer: Layers, topic: ForeignTopic
) -> None:
    away = {"bootstrap_servers": "127.0.0.1:1", "group": "all", "type": "x"}
    # No channel waits long for a start, so that the other one may still be on its way.
    near = settings(topic.name, start="earliest")
    layer = make_layer(streams={**near, "elsewhere": away})
    channel = await member(layer)
    await asyncio.to_thread(topic.write, b"1")
    await layer.group_send("all", {"type": "x", "value": "sent"})
    assert sorted(map(str, await values(layer, channel, 2))) == ["1", "sent"]
    told = await wait_for_state(layer, "elsewhere", "waiting")
    assert told["detail"]
    assert layer.stats().state == "connected"
    assert not stats_of(layer)["errors._TRANSPORT"]


async def test_a_server_without_a_channel_reads_nothing(
    make_layer: Layers, topic: ForeignTopic
) -> None:
    make_layer.timings = replace(SOON, stream_idle=0.2, upkeep=0.1)
    layer = make_layer(expiry=0.5, streams=settings(topic.name))
    assert state_of(layer, "orders")["state"] == "idle"
    await layer.new_channel()
    await wait_for_state(layer, "orders", "idle", records=0)
    await asyncio.to_thread(topic.write, b"1")
    channel = await member(layer)
    await asyncio.to_thread(topic.write, b"2")
    assert await values(layer, channel, 1) == [2]
