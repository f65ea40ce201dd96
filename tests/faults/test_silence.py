"""A consumer that gets nothing any more and says nothing: it is replaced where it stopped."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

from kafka_layer.config.librdkafka import Properties
from kafka_layer.kafka import producer_client as producer_module
from kafka_layer.kafka import reader as consumer_module
from kafka_layer.kafka.backplane import KafkaBackplane
from kafka_layer.layer import KafkaChannelLayer
from tests.faults.traffic import Inbox, Stream, Tally, figure
from tests.support.kafka import RealBroker
from tests.support.layers import Layers, stats_of
from tests.support.waiting import wait_until_async


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let servers look whether they read six times a second."""
    monkeypatch.setattr(consumer_module, "_CHECK_INTERVAL", 0.15)


def client_of(layer: KafkaChannelLayer) -> Any:
    backplane: Any = layer._server._backplane
    return backplane._consumer._client


async def test_it_is_replaced_and_nothing_is_lost_or_comes_twice(make_layer: Layers) -> None:
    receiver = make_layer()
    inbox = await Inbox.opened(receiver, "room")
    stream = Stream(make_layer(), "room", [inbox])
    stream.start()
    await stream.goes_on(20)
    for times in (1, 2):
        client = client_of(receiver)
        client.pause(client.assignment())  # as silent as one that librdkafka forgot
        await wait_until_async(
            lambda: stats_of(receiver)["consumer.replaced"] == times,  # noqa: B023
            "the consumer to be replaced",
        )
        await stream.goes_on(20)
    await stream.settled([inbox])
    assert stream.tallies([inbox]) == [Tally(len(stream.accepted), 0, 0, 0)] * 2
    assert not stats_of(receiver)["errors.consumer"]


async def test_after_an_outage_it_looks_more_often(
    broker: RealBroker, make_layer: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A look that no broker answers is followed by the next one after this time.
    interval = 20.0
    monkeypatch.setattr(consumer_module, "_CHECK_INTERVAL", interval)
    receiver = make_layer()
    inbox = await Inbox.opened(receiver, "room")
    stream = Stream(make_layer(), "room", [inbox])
    stream.start()
    await stream.goes_on(20)
    broker.kill()
    await wait_until_async(lambda: receiver.stats().state != "connected", "the outage to be seen")
    await asyncio.to_thread(broker.start)
    await inbox.has("direct", stream.accepted[-1])
    client = client_of(receiver)
    client.pause(client.assignment())
    began = time.monotonic()
    await wait_until_async(
        lambda: stats_of(receiver)["consumer.replaced"] == 1,
        "the consumer to be replaced sooner than three such looks take",
        consumer_module._PATIENCE * interval - 5,
    )
    figure(f"silent after an outage: replaced after {time.monotonic() - began:.1f} s")
    await stream.settled([inbox])
    assert stream.tallies([inbox]) == [Tally(len(stream.accepted), 0, 0, 0)] * 2


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


async def test_one_that_never_finds_a_broker_again_is_replaced(
    make_layer: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "_CHECK_INTERVAL", 3600.0)
    monkeypatch.setattr(consumer_module, "Consumer", DyingConsumer)
    receiver = make_layer()
    inbox = await Inbox.opened(receiver, "room")
    # It sends, so that it learns that there is a broker.
    stream = Stream(receiver, "room", [])
    stream.start()
    await stream.goes_on(20)
    client_of(receiver).die()
    await wait_until_async(
        lambda: stats_of(receiver)["consumer.replaced"] == 1, "the consumer to be replaced", 25
    )
    await inbox.has("group", await stream.stop())
    assert inbox.numbers("group") == stream.accepted
    assert receiver.stats().state == "connected"


async def test_a_producer_that_never_finds_a_broker_is_replaced(
    make_layer: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_client, made = producer_module.new_client, []

    def first_one_is_deaf(kind: Any, properties: Any, keyword: str) -> Any:
        made.append(keyword)
        if len(made) == 1:
            nobody = {"bootstrap.servers": "127.0.0.1:1"}
            properties = Properties({**properties, **nobody})
        return new_client(kind, properties, keyword)

    receiver = make_layer()
    inbox = await Inbox.opened(receiver, "room")
    monkeypatch.setattr(producer_module, "new_client", first_one_is_deaf)
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


async def test_a_producer_is_not_replaced_while_no_broker_answers_anybody(
    broker: RealBroker, make_layer: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    judge = KafkaBackplane._producer_is_deaf

    def count(backplane: KafkaBackplane) -> bool:
        nonlocal asked
        answer = judge(backplane)
        asked += 1
        return answer

    monkeypatch.setattr(KafkaBackplane, "_producer_is_deaf", count)
    receiver = make_layer()
    inbox = await Inbox.opened(receiver, "room")
    sender = make_layer()
    await sender.group_send("room", {"kind": "group", "n": 0})
    await inbox.has("group", 0)
    broker.kill()
    await sender.group_send("room", {"kind": "group", "n": 1})
    await wait_until_async(lambda: asked >= 2, "the producer to be judged", 60)
    await asyncio.to_thread(broker.start)
    await inbox.has("group", 1)
    assert not stats_of(sender)["producer.replaced"]
    assert not stats_of(sender)["failed"]
    await inbox.close()


async def test_one_that_has_nothing_to_read_stays(broker: RealBroker, make_layer: Layers) -> None:
    layer = make_layer()
    inbox = await Inbox.opened(layer, "room")
    client = client_of(layer)
    checked = 0
    ends_of = consumer_module.BroadcastConsumer._ends_of

    def count(*arguments: Any) -> Any:
        nonlocal checked
        checked += 1
        return ends_of(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consumer_module.BroadcastConsumer, "_ends_of", count)
        await wait_until_async(lambda: checked >= 10, "ten looks")
    assert client_of(layer) is client
    await layer.group_send("room", {"kind": "group", "n": 1})
    await inbox.has("group", 1)
    await inbox.close()
