"""What a send returns or raises: positions, what the broker said, and the produce_failed signal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from channels.exceptions import MessageTooLarge
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka import Message as Record
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import ProduceFailed
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.messages import Position
from kafka_layer.signals import produce_failed
from kafka_layer.wire.names import owner_of
from kafka_layer.wire.topics import Topic, topic_name
from tests.cluster.cluster import MESSAGE
from tests.support.layers import Layers, decoded, next_messages, stats_of
from tests.support.waiting import wait_until, wait_until_async

DEADLINE = 30.0

Call = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["async", "sync"])
def call(request: pytest.FixtureRequest) -> Call:
    """Calls a method of a layer, or its synchronous twin in a thread."""

    async def call(layer: KafkaChannelLayer, method: str, *arguments: Any) -> Any:
        if request.param == "async":
            return await getattr(layer, method)(*arguments)
        return await asyncio.to_thread(getattr(layer, f"{method}_sync"), *arguments)

    return call


def record_at(servers: str, topic: str, partition: int, offset: int) -> Record:
    """Read one record with a client that knows nothing of the layer."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "reader"})

    def poll() -> Record | None:
        return consumer.poll(0.1)

    try:
        consumer.assign([TopicPartition(topic, partition, offset)])
        record = wait_until(poll, f"a record at {topic}[{partition}]")
        assert record is not None
        assert record.error() is None
        return record
    finally:
        consumer.close()


class TestPositions:
    """With await_produce a send returns where its record is."""

    async def test_of_every_send(self, make_layer: Layers, kafka: str, call: Call) -> None:
        layer = make_layer(await_produce=True, serializer_format="json")
        remote = await make_layer().new_channel()
        sends: list[tuple[str, tuple[Any, ...], str, list[str | None]]] = [
            ("send", (remote,), "send-conn", [remote]),
            ("send", ("worker",), "work.worker", [None]),
            ("group_send", ("room",), "send-group", ["room"]),
            ("user_send", (7,), "send-user", ["7"]),
            ("all_send", (), "send-all", [None]),
            ("send_many", ([remote, remote],), "send-conn", [remote, remote]),
            ("group_send_many", (["one", "two"],), "send-group", ["one", "two"]),
            ("user_send_many", (["ann", 8],), "send-user", ["ann", "8"]),
        ]
        for number, (method, arguments, topic, keys) in enumerate(sends):
            message = {"number": number, "token": secrets.token_hex(4)}
            sent = time.time()
            result = await call(layer, method, *arguments, message)
            positions = result if isinstance(result, list) else [result]
            assert len(positions) == len(keys)
            for position, key in zip(positions, keys, strict=True):
                assert isinstance(position, Position)
                assert position.topic == f"{layer.config.prefix}-{topic}"
                record = await asyncio.to_thread(record_at, kafka, *position[:3])
                assert json.loads(record.value() or b"") == message
                assert record.key() == (key and key.encode())
                assert record.timestamp()[1] / 1000 == position.timestamp
                assert abs(position.timestamp - sent) < DEADLINE

    async def test_of_a_channel_of_this_server(self, make_layer: Layers, call: Call) -> None:
        """It never went to Kafka: there is no position."""
        layer, other = make_layer(await_produce=True), make_layer()
        mine, remote = await layer.new_channel(), await other.new_channel()
        assert await call(layer, "send", mine, MESSAGE) is None
        first, second = await call(layer, "send_many", [mine, remote], MESSAGE)
        assert first is None
        server = owner_of(remote)
        assert server is not None
        assert second.partition == server.partition

    async def test_of_many_in_flight(self, make_layer: Layers, kafka: str, call: Call) -> None:
        layer = make_layer(await_produce=True, serializer_format="json")
        positions = await asyncio.gather(
            *(call(layer, "group_send", f"room-{n % 7}", {"n": n}) for n in range(100))
        )
        assert len({position[:3] for position in positions}) == 100
        for number in (0, 13, 57, 99):
            record = await asyncio.to_thread(record_at, kafka, *positions[number][:3])
            assert json.loads(record.value() or b"") == {"n": number}
            assert record.key() == f"room-{number % 7}".encode()

    async def test_without_await_produce_there_are_none(
        self, make_layer: Layers, call: Call
    ) -> None:
        layer = make_layer()
        remote = await make_layer().new_channel()
        assert await call(layer, "send", remote, MESSAGE) is None
        assert await call(layer, "group_send", "room", MESSAGE) is None
        assert await call(layer, "user_send", "ann", MESSAGE) is None
        assert await call(layer, "all_send", MESSAGE) is None
        assert await call(layer, "send_many", [remote], MESSAGE) == [None]
        assert await call(layer, "group_send_many", ["room"], MESSAGE) == [None]
        assert await call(layer, "user_send_many", ["ann"], MESSAGE) == [None]


class Failures:
    """What the produce_failed signal said."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: list[dict[str, Any]] = []

    def on_failure(self, **arguments: Any) -> None:
        with self._lock:
            self._seen.append(arguments)

    async def of(self, topic: str, count: int) -> list[dict[str, Any]]:
        """Wait until ``count`` records of a topic failed, and return what was said of them."""
        await wait_until_async(
            lambda: len(self._of(topic)) >= count, f"{count} signals for {topic}", DEADLINE
        )
        return self._of(topic)

    def _of(self, topic: str) -> list[dict[str, Any]]:
        with self._lock:
            return [each for each in self._seen if each["topic"] == topic]


@pytest.fixture
def failures() -> Iterator[Failures]:
    """Listens to the produce_failed signal."""
    failures = Failures()
    produce_failed.connect(failures.on_failure)
    yield failures
    produce_failed.disconnect(failures.on_failure)


class TestWhatTheBrokerSays:
    async def test_larger_than_the_topic_allows(
        self, make_layer: Layers, kafka: str, prefix: str, failures: Failures, call: Call
    ) -> None:
        """The limit of the topic was lowered behind the layer's back."""
        awaiting, other = make_layer(prefix, await_produce=True), make_layer(prefix)
        channel = await other.new_channel()
        await other.group_add("room", channel)
        topic = topic_name(prefix, Topic.SEND_GROUP)
        await asyncio.to_thread(lower_limit, kafka, topic, 5000)
        large = {"text": "x" * 6000}
        await until_it_fails(MessageTooLarge, awaiting.group_send, "elsewhere", large)
        with pytest.raises(MessageTooLarge, match=rf"{topic}, key b?'room'.*max\.message\.bytes"):
            await call(awaiting, "group_send", "room", large)
        # Where nobody waits, the signal tells.
        assert await call(other, "group_send", "room", large) is None
        said = await failures.of(topic, 3)
        assert [each["key"] for each in said] == [b"elsewhere", b"room", b"room"]
        for each in said:
            assert isinstance(each["error"], MessageTooLarge)
            assert decoded(other, each["value"]) == large
            assert not each["headers"]
        assert stats_of(other)["failed"] == stats_of(other)["dropped.produce"] == 1
        # What comes after it is not lost with it.
        await call(other, "group_send", "room", {"n": 1})
        await call(awaiting, "group_send", "room", {"n": 2})
        received = await next_messages(other, channel, 2)
        assert sorted(each["n"] for each in received) == [1, 2]

    async def test_a_topic_that_was_deleted(
        self, make_layer: Layers, kafka: str, prefix: str, failures: Failures, call: Call
    ) -> None:
        # A topic that is not there may be one that is just being created: librdkafka waits a bit.
        config: dict[str, Any] = {"producer_config": {"topic.metadata.propagation.max.ms": 1000}}
        maker = make_layer(prefix)
        await maker.group_send("room", MESSAGE)
        await maker.close()
        # A layer that may create topics would make it anew, and nothing would fail for long.
        config["auto_create_topics"] = False
        awaiting = make_layer(prefix, await_produce=True, **config)
        other = make_layer(prefix, **config)
        await call(awaiting, "user_send", "ann", MESSAGE)
        await call(other, "group_send", "room", MESSAGE)
        topic = topic_name(prefix, Topic.SEND_USER)
        admin = AdminClient({"bootstrap.servers": kafka})
        await asyncio.to_thread(admin.delete_topics([topic])[topic].result, DEADLINE)
        await until_it_fails(ProduceFailed, awaiting.user_send, "ann", MESSAGE)
        with pytest.raises(ProduceFailed, match=f"{topic}, key b?'ann'.*kafka_setup_topics"):
            await call(awaiting, "user_send", "ann", MESSAGE)
        assert await call(other, "user_send", "bob", MESSAGE) is None
        said = (await failures.of(topic, 3))[-1]
        assert isinstance(said["error"], ProduceFailed)
        assert said["key"] == b"bob"
        assert decoded(other, said["value"]) == MESSAGE
        # The other topics are not concerned.
        assert await call(awaiting, "group_send", "room", MESSAGE) is not None

    async def test_a_partition_that_does_not_exist(
        self, make_layer: Layers, failures: Failures, call: Call
    ) -> None:
        """The name of a channel outlived its server and the topics of that time."""
        make_layer.timings = Timings(unknown_partition=0.3)
        awaiting, other = make_layer(await_produce=True), make_layer()
        gone = "specific.77-deadbeef!gone"
        for method, *arguments in (("send", gone, MESSAGE), ("send_many", [gone], MESSAGE)):
            with pytest.raises(ProduceFailed, match="no such partition"):
                await call(awaiting, method, *arguments)
            await call(other, method, *arguments)
        said = await failures.of(topic_name(other.config.prefix, Topic.SEND_CONN), 4)
        assert [each["key"] for each in said] == [gone.encode()] * 4
        assert stats_of(other)["dropped.produce"] == 2
        for command in ("group_add", "user_discard"):
            with pytest.raises(ProduceFailed, match="no such partition"):
                await call(other, command, "name", gone)

    async def test_many_small_ones_in_a_topic_with_a_low_limit(
        self, make_layer: Layers, prefix: str
    ) -> None:
        """Each is within the limit, and so is every batch that the producer makes of them."""
        topics = {"send-group": {"config": {"max.message.bytes": 20_000}}}
        sender, receiver = (make_layer(prefix, topics=topics, capacity=5000) for _ in range(2))
        channel = await receiver.new_channel()
        await receiver.group_add("room", channel)
        for number in range(1500):
            await sender.group_send("room", {"n": number, "text": "x" * 500})
        received = await next_messages(receiver, channel, 1500)
        assert [each["n"] for each in received] == list(range(1500))
        assert stats_of(sender)["failed"] == 0
        with pytest.raises(MessageTooLarge, match="send-group"):
            await sender.group_send("room", {"text": "x" * 20_000})
        with pytest.raises(MessageTooLarge, match="send-group"):
            await asyncio.to_thread(sender.group_send_sync, "room", {"text": "x" * 20_000})

    async def test_a_worker_channel_with_a_limit_of_its_own(
        self, make_layer: Layers, prefix: str, kafka: str, call: Call
    ) -> None:
        layer = make_layer(
            prefix,
            await_produce=True,
            worker_channels={"films": {"config": {"max.message.bytes": 4_000_000}}},
        )
        position = await call(layer, "send", "films", {"data": b"x" * 3_000_000})
        record = await asyncio.to_thread(record_at, kafka, *position[:3])
        assert len(record.value() or b"") > 3_000_000


def lower_limit(servers: str, topic: str, limit: int) -> None:
    """Set a topic's max.message.bytes; the broker abides by it soon."""
    entry = ConfigEntry(
        "max.message.bytes", str(limit), incremental_operation=AlterConfigOpType.SET
    )
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": servers})
    admin.incremental_alter_configs([resource])[resource].result(DEADLINE)


async def until_it_fails(error: type[Exception], send: Call, *arguments: Any) -> None:
    """Send again and again until the broker has carried out what an admin request asked for."""

    async def send_until_then() -> None:
        with contextlib.suppress(error):
            while True:
                await send(*arguments)

    await asyncio.wait_for(send_until_then(), DEADLINE)
