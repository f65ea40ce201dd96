"""A client that gets nothing any more and says nothing: it is replaced where it stopped.

What decides that is tested in tests/kafka/test_liveness.py; here is one real case of each kind.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

from kafka_layer.config.librdkafka import Properties
from kafka_layer.config.timings import Timings
from kafka_layer.kafka import producer_client as producer_module
from kafka_layer.kafka import reader as reader_module
from kafka_layer.wire.topics import Topic
from tests.faults.traffic import Inbox, Stream, Tally
from tests.support.inspect import consumer_of
from tests.support.layers import Layers, stats_of
from tests.support.silence import MutedConsumer
from tests.support.waiting import wait_until_async


@pytest.fixture
def muted_consumers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "Consumer", MutedConsumer)


@pytest.mark.usefixtures("muted_consumers")
async def test_readers_of_messages_and_of_commands_are_replaced(make_layer: Layers) -> None:
    make_layer.timings = Timings(look=0.15)
    await asyncio.gather(
        nothing_is_lost_or_comes_twice(make_layer), commands_are_carried_out(make_layer)
    )


async def nothing_is_lost_or_comes_twice(make_layer: Layers) -> None:
    receiver = make_layer()
    inbox = await Inbox.opened(receiver, "room")
    stream = Stream(make_layer(), "room", [inbox])
    stream.start()
    await stream.goes_on(20)
    for _ in range(2):
        # A busy machine may make a client look silent, too.
        before = stats_of(receiver)["consumer.replaced"]
        await consumer_of(receiver, Topic.SEND_GROUP).mute()
        await wait_until_async(
            lambda: stats_of(receiver)["consumer.replaced"] > before,  # noqa: B023
            "the client to be replaced",
        )
        await stream.goes_on(20)
    await stream.settled([inbox])
    assert stream.tallies([inbox]) == [Tally(len(stream.accepted), 0, 0, 0)] * 2
    assert not stats_of(receiver)["errors.consumer"]


async def commands_are_carried_out(make_layer: Layers) -> None:
    receiver, asker = make_layer(), make_layer(ack_timeout=60)
    channel = await receiver.new_channel()
    await asker.new_channel()
    for times in (1, 2):
        before = stats_of(receiver)["consumer.replaced"]
        await consumer_of(receiver, Topic.GROUP_MGMT).mute()
        await asker.group_add(f"room-{times}", channel)
        assert stats_of(receiver)["consumer.replaced"] > before


class DyingConsumer(Consumer):
    """Is lost without a trace after an outage, as librdkafka now and then: it asks nobody again."""

    dead = says_so = False

    def __init__(self, properties: dict[str, Any]) -> None:
        super().__init__(properties)
        self._on_error = properties["error_cb"]

    def die(self) -> None:
        self.dead = self.says_so = True

    def poll(self, timeout: float) -> Any:
        if not self.dead:
            return super().poll(timeout)
        time.sleep(timeout)
        if self.says_so:
            self.says_so = False
            self._on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN))
        return None

    def consume(self, *arguments: Any) -> Any:
        return [] if self.dead else super().consume(*arguments)

    def list_topics(self, *arguments: Any) -> Any:
        self._require_life()
        return super().list_topics(*arguments)

    def offsets_for_times(self, *arguments: Any) -> Any:
        self._require_life()
        return super().offsets_for_times(*arguments)

    def _require_life(self) -> None:
        if self.dead:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))


async def test_a_reader_that_never_finds_a_broker_again_is_replaced(
    make_layer: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It tells of trouble: the next looks come soon, however long the interval.
    make_layer.timings = Timings(look=3600.0)
    monkeypatch.setattr(reader_module, "Consumer", DyingConsumer)
    receiver = make_layer()
    inbox = await Inbox.opened(receiver, "room")
    # It sends, so that it learns that there is a broker.
    stream = Stream(receiver, "room", [])
    stream.start()
    await stream.goes_on(20)
    consumer_of(receiver, Topic.SEND_GROUP).die()
    await wait_until_async(
        lambda: stats_of(receiver)["consumer.replaced"], "the client to be replaced"
    )
    await inbox.has("group", await stream.stop())
    assert inbox.numbers("group") == stream.accepted
    await wait_until_async(lambda: receiver.stats().state == "connected", "it to be connected")


async def test_a_producer_that_never_finds_a_broker_is_replaced(
    make_layer: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_client, made = producer_module.new_client, []

    def first_one_is_cut_off(kind: Any, properties: Any, keyword: str) -> Any:
        made.append(keyword)
        if len(made) == 1:
            nobody = {"bootstrap.servers": "127.0.0.1:1"}
            properties = Properties({**properties, **nobody})
        return new_client(kind, properties, keyword)

    receiver = make_layer()
    inbox = await Inbox.opened(receiver, "room")
    monkeypatch.setattr(producer_module, "new_client", first_one_is_cut_off)
    # The new one is not replaced in turn: it would have to be silent for longer than this repair.
    make_layer.timings = Timings(start=1.0, upkeep=0.05, request=0.2, repair=2.0)
    sender = make_layer()
    for number in range(10):
        await sender.group_send("room", {"kind": "group", "n": number})
    await wait_until_async(
        lambda: stats_of(sender)["producer.replaced"] == 1, "the producer to be replaced", 60
    )
    # They may be with the broker, for all that the layer knows, so they are not sent again.
    await wait_until_async(
        lambda: stats_of(sender)["dropped.produce"] == 10, "what it held to be reported"
    )
    await sender.group_send("room", {"kind": "group", "n": 10})
    await inbox.has("group", 10)
    assert inbox.numbers("group") == [10]
    await wait_until_async(
        lambda: sender.stats().state == "connected", "an answer to the new producer"
    )
    assert len(made) == 2
    await inbox.close()
