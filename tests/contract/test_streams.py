"""Streams: from a topic that is not the layer's to channels. In memory and on Kafka."""

from __future__ import annotations

import asyncio
import datetime
from dataclasses import replace
from typing import Any

import pytest

from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import CommandFailed, RegistryAway, TopicError
from kafka_layer.messages import Message
from tests.support.layers import (
    Backend,
    Layers,
    backend_named,
    backends,
    next_message,
    next_messages,
    unhurried,
)
from tests.support.streams import SOON, ForeignTopic, state_of, wait_for_state


@pytest.fixture(scope="module", params=backends("memory", "kafka"))
def backend(request: pytest.FixtureRequest) -> Backend:
    # Librdkafka's own broker creates no topics on request.
    return unhurried(backend_named(request.param, request))


class Shop:
    """A topic, and layers that read it as the stream ``orders``."""

    def __init__(self, make_layer: Layers, prefix: str) -> None:
        self._make_layer = make_layer
        self.topic = ForeignTopic(make_layer(), prefix)

    def layer(self, *, capacity: int = 100, **settings: Any) -> Any:
        return self._make_layer(
            capacity=capacity,
            streams={
                "orders": {
                    "topic": self.topic.name,
                    "group": "order-{key}",
                    "type": "order.changed",
                    **settings,
                }
            },
        )


@pytest.fixture
def shop(make_layer: Layers, prefix: str) -> Shop:
    return Shop(make_layer, prefix)


async def member(layer: Any, group: str = "order-7") -> str:
    channel: str = await layer.new_channel()
    await layer.group_add(group, channel)
    return channel


async def values(layer: Any, channel: str, count: int) -> list[Any]:
    return [each["value"] for each in await next_messages(layer, channel, count)]


async def test_members_on_two_servers_get_each_record_in_its_order(shop: Shop) -> None:
    await asyncio.to_thread(shop.topic.create, 2)
    here, there = shop.layer(), shop.layer()
    channels = [(layer, await member(layer)) for layer in (here, there)]
    await asyncio.to_thread(shop.topic.write, *(b"%d" % number for number in range(300)))
    for layer, channel in channels:
        assert await values(layer, channel, 300) == list(range(300))


async def test_what_is_written_after_new_channel_returned_arrives(shop: Shop) -> None:
    await asyncio.to_thread(shop.topic.create)
    await asyncio.to_thread(shop.topic.write, b'"before"')
    layer = shop.layer()
    channel = await member(layer)
    await asyncio.to_thread(shop.topic.write, b'"after"')
    message = await next_message(layer, channel)
    expected = {"type": "order.changed", "stream": "orders", "key": "7", "value": "after"}
    assert message == {**expected, "headers": {}}


@pytest.mark.parametrize(
    "start", ["earliest", datetime.timedelta(minutes=10)], ids=["earliest", "some-time-ago"]
)
async def test_a_start_in_the_past(shop: Shop, start: Any) -> None:
    await asyncio.to_thread(shop.topic.create)
    await asyncio.to_thread(shop.topic.write, b"1", b"2")
    layer = shop.layer(start=start)
    await layer.new_channel()
    await wait_for_state(layer, "orders", "reading", records=2)
    channel = await member(layer)
    await asyncio.to_thread(shop.topic.write, b"3")
    assert await values(layer, channel, 1) == [3]


async def test_a_pause_and_a_resume_lose_nothing(shop: Shop) -> None:
    await asyncio.to_thread(shop.topic.create)
    layer = shop.layer()
    channel = await member(layer)
    await asyncio.to_thread(shop.topic.write, b"1")
    assert await values(layer, channel, 1) == [1]
    await layer.pause_stream("orders")
    assert state_of(layer, "orders")["state"] == "paused"
    await asyncio.to_thread(shop.topic.write, b"2", b"3")
    # What is sent now comes first, because nothing of the stream does.
    await layer.send(channel, {"type": "x", "value": "barrier"})
    assert await values(layer, channel, 1) == ["barrier"]
    await layer.resume_stream("orders")
    assert await values(layer, channel, 2) == [2, 3]


async def test_a_seek_reads_again_and_the_end_leaves_out(shop: Shop) -> None:
    await asyncio.to_thread(shop.topic.create)
    layer = shop.layer()
    channel = await member(layer)
    await asyncio.to_thread(shop.topic.write, b"1", b"2")
    assert await values(layer, channel, 2) == [1, 2]
    await layer.seek_stream("orders", "earliest")
    assert await values(layer, channel, 2) == [1, 2]
    await layer.pause_stream("orders")
    await asyncio.to_thread(shop.topic.write, b"3")
    await layer.seek_stream("orders", "latest")
    await layer.resume_stream("orders")
    await asyncio.to_thread(shop.topic.write, b"4")
    assert await values(layer, channel, 1) == [4]


async def test_every_server_carries_it_out_before_the_call_returns(shop: Shop) -> None:
    await asyncio.to_thread(shop.topic.create)
    here, there = shop.layer(), shop.layer()
    channels = [(layer, await member(layer)) for layer in (here, there)]
    states: list[str] = []
    while states != ["paused"] * 2:
        # One that is slow to say that it has the command is not waited for.
        await here.pause_stream("orders", everywhere=True)
        states = [state_of(layer, "orders")["state"] for layer in (here, there)]
    await asyncio.to_thread(shop.topic.write, b"1")
    start = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=5)
    await there.seek_stream("orders", start, everywhere=True)
    await there.resume_stream("orders", everywhere=True)
    for layer, channel in channels:
        assert await values(layer, channel, 1) == [1]


async def test_a_server_that_reads_no_such_stream_is_named(shop: Shop, make_layer: Layers) -> None:
    layer, other = shop.layer(), make_layer()
    await member(layer)
    await other.new_channel()

    async def pause() -> None:
        while True:  # until the other one is quick enough to be heard
            await layer.pause_stream("orders", everywhere=True)

    with pytest.raises(CommandFailed, match="reads no stream 'orders'"):
        await pause()
    with pytest.raises(TopicError, match="no stream 'order'"):
        await layer.pause_stream("order")


async def test_a_topic_is_waited_for_and_read_from_its_start(
    shop: Shop, make_layer: Layers
) -> None:
    make_layer.timings = SOON
    layer = shop.layer()
    channel = await member(layer)
    told = await wait_for_state(layer, "orders", "waiting")
    assert "exist" in told["detail"]
    await asyncio.to_thread(shop.topic.create)
    await asyncio.to_thread(shop.topic.write, b"1")
    assert await values(layer, channel, 1) == [1]
    await wait_for_state(layer, "orders", "reading", partitions=1, detail=None)


async def test_a_stream_stops_at_a_poison_record_and_a_seek_leads_on(shop: Shop) -> None:
    await asyncio.to_thread(shop.topic.create)
    layer = shop.layer(on_error="stop")
    channel = await member(layer)
    await asyncio.to_thread(shop.topic.write, b"1", b"poison", b"2")
    assert await values(layer, channel, 1) == [1]
    told = await wait_for_state(layer, "orders", "stopped", errors={"undecodable": 1})
    assert f"{shop.topic.name}[0] at offset 1" in told["detail"]
    await layer.resume_stream("orders")
    await wait_for_state(layer, "orders", "stopped", errors={"undecodable": 2})
    await layer.seek_stream("orders", "latest")
    await asyncio.to_thread(shop.topic.write, b"3")
    assert await values(layer, channel, 1) == [3]


async def test_who_joins_gets_the_last_record_of_a_group_first(shop: Shop) -> None:
    await asyncio.to_thread(shop.topic.create, 2)
    await asyncio.to_thread(shop.topic.write, b"1", b"2")
    await asyncio.to_thread(shop.topic.write, b"3", None, key=b"8")
    layer = shop.layer(last_value=True)
    early = await member(layer)
    assert await values(layer, early, 1) == [2]
    await wait_for_state(layer, "orders", "reading")
    gone = await member(layer, "order-8")
    late = await member(layer)
    await asyncio.to_thread(shop.topic.write, b"4")
    assert await values(layer, early, 1) == [4]
    assert await values(layer, late, 2) == [2, 4]
    await layer.send(gone, {"type": "x", "value": "barrier"})
    assert await values(layer, gone, 1) == ["barrier"]


class AwayForAWhile:
    """A codec whose registry is away."""

    def __init__(self) -> None:
        self.is_away = True

    def decode(self, data: bytes) -> int:
        if self.is_away:
            raise RegistryAway("no registry answers")
        return int(data)


async def test_a_registry_that_is_away_holds_up_its_stream_alone(
    shop: Shop, make_layer: Layers
) -> None:
    make_layer.timings = replace(Timings(), registry_retry=0.05)
    await asyncio.to_thread(shop.topic.create)
    codec = AwayForAWhile()
    layer = shop.layer(value=codec, on_error="stop")
    channel = await member(layer)
    await asyncio.to_thread(shop.topic.write, *(b"%d" % number for number in range(50)))
    told = await wait_for_state(layer, "orders", "held up")
    assert told["detail"] == "no registry answers"
    await layer.group_send("order-7", {"type": "x", "value": "sent"})
    assert await values(layer, channel, 1) == ["sent"]
    # It ends the wait, and is not lost in it.
    await layer.pause_stream("orders")
    await layer.resume_stream("orders")
    codec.is_away = False
    assert await values(layer, channel, 50) == list(range(50))
    assert state_of(layer, "orders")["errors"] == {}


async def test_a_tracked_channel_that_is_slow_gets_each_record(shop: Shop) -> None:
    await asyncio.to_thread(shop.topic.create)
    layer = shop.layer(capacity=4)
    channel = await layer.new_channel()
    layer.track(channel)
    await layer.group_add("order-7", channel)
    await asyncio.to_thread(shop.topic.write, *(b"%d" % number for number in range(40)))
    messages = await next_messages(layer, channel, 40)
    assert [each["value"] for each in messages] == list(range(40))
    assert all(isinstance(each, Message) and each.position for each in messages)
