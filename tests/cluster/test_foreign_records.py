"""Records that other programs produce: readable ones arrive, others are counted and skipped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from kafka_layer.config.timings import Timings
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.wire.topics import Topic, topic_name
from tests.support.inspect import partitions_read, server_of
from tests.support.kafka import fetch_jars, missing_tools
from tests.support.layers import PARTITIONS, Layers, next_message, next_messages, stats_of
from tests.support.records import console_produce
from tests.support.waiting import PATIENCE, wait_until_async

JSON = b'{"type": "chat.message", "text": "Gr\xc3\xbc\xc3\x9fe"}'


class Foreign:
    """A bare producer on the layer's topics."""

    def __init__(self, make_layer: Layers) -> None:
        self._prefix = make_layer.prefix
        servers = make_layer.backend.config["bootstrap_servers"]
        self._producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random"})

    def produce(self, topic: Topic, **record: Any) -> None:
        failures: list[object] = []
        self._producer.produce(
            topic_name(self._prefix, topic),
            on_delivery=lambda error, _: error and failures.append(error),
            **record,
        )
        assert self._producer.flush(PATIENCE) == 0
        assert not failures


async def listener(layer: KafkaChannelLayer) -> str:
    channel = await layer.new_channel()
    await layer.group_add("room-1", channel)
    await layer.user_add("7", channel)
    return channel


async def test_json_of_a_console_producer_reaches_groups_users_all_and_channels(
    make_layer: Layers,
) -> None:
    layer = make_layer()
    channel = await listener(layer)
    foreign = Foreign(make_layer)
    inbox = server_of(layer).identity.name.partition
    for topic, record in (
        (Topic.SEND_GROUP, {"key": "room-1"}),
        (Topic.SEND_USER, {"key": "7"}),
        (Topic.SEND_ALL, {}),
        (Topic.SEND_ALL, {"key": "whatever"}),
        (Topic.SEND_CONN, {"key": channel, "partition": inbox}),
        # on any partition: every server reads all of them
        (Topic.SEND_GROUP, {"key": "room-1", "partition": PARTITIONS - 1}),
        (Topic.SEND_GROUP, {"key": "room-1", "headers": {"traceparent": b"00-1", "x": None}}),
    ):
        foreign.produce(topic, value=JSON, **record)
        assert await next_message(layer, channel) == {"type": "chat.message", "text": "Grüße"}
    foreign.produce(
        Topic.SEND_GROUP, key="room-1", value=JSON, headers={"exclude": channel.encode()}
    )
    foreign.produce(Topic.SEND_GROUP, key="room-1", value=b'{"n": 2}')
    assert await next_message(layer, channel) == {"n": 2}


async def test_kafkas_own_console_producer(make_layer: Layers) -> None:
    if missing_tools() or not any(fetch_jars().glob("kafka-tools-[0-9]*.jar")):
        pytest.skip("Kafka's console producer is not among the jars")
    layer = make_layer()
    channel = await listener(layer)
    servers = make_layer.backend.config["bootstrap_servers"]
    topic = topic_name(make_layer.prefix, Topic.SEND_GROUP)
    await asyncio.to_thread(console_produce, servers, topic, b"room-1:" + JSON + b"\n")
    assert await next_message(layer, channel, 30) == {"type": "chat.message", "text": "Grüße"}


GARBAGE: dict[str, tuple[Topic, dict[str, Any], str]] = {
    "random bytes": (Topic.SEND_GROUP, {"key": "room-1", "value": b"\x00\xff\x13"}, "undecodable"),
    "cut JSON": (Topic.SEND_GROUP, {"key": "room-1", "value": JSON[:-5]}, "undecodable"),
    "Latin-1": (Topic.SEND_GROUP, {"key": "room-1", "value": b'{"": "\xff"}'}, "undecodable"),
    "a JSON list": (Topic.SEND_GROUP, {"key": "room-1", "value": b"[1]"}, "undecodable"),
    "a msgpack list": (Topic.SEND_GROUP, {"key": "room-1", "value": b"\x91\x01"}, "undecodable"),
    "deep nesting": (Topic.SEND_GROUP, {"key": "room-1", "value": b"\x91" * 99_999}, "undecodable"),
    "deep JSON": (
        Topic.SEND_GROUP,
        {"key": "room-1", "value": b'{"a":' * 9_999 + b"1" + b"}" * 9_999},
        "undecodable",
    ),
    "no value": (Topic.SEND_GROUP, {"key": "room-1"}, "undecodable"),
    "an empty value": (Topic.SEND_GROUP, {"key": "room-1", "value": b""}, "undecodable"),
    "encrypted": (Topic.SEND_GROUP, {"key": "room-1", "value": b"gAAAAABn"}, "decrypt"),
    "a key that is not UTF-8": (Topic.SEND_GROUP, {"key": b"\xff", "value": JSON}, "undecodable"),
    "a command that is garbage": (
        Topic.SEND_ALL,
        {"value": b"\xc1", "headers": {"command": b"flush"}},
        "undecodable",
    ),
}


async def test_what_cannot_be_read_is_counted_and_the_next_one_arrives(make_layer: Layers) -> None:
    layer = make_layer()
    channel = await listener(layer)
    foreign = Foreign(make_layer)
    for name, (topic, record, cause) in GARBAGE.items():
        before = dropped(layer, cause)
        waiting = asyncio.create_task(next_message(layer, channel))
        foreign.produce(topic, **record)
        await wait_until_async(
            lambda cause=cause, before=before: dropped(layer, cause) == before + 1,  # type: ignore[misc]
            f"{name!r} to be counted",
        )
        foreign.produce(Topic.SEND_GROUP, key="room-1", value=JSON)
        assert (await waiting)["text"] == "Grüße", name
        assert dropped(layer, cause) == before + 1, name


FOR_NOBODY: list[dict[str, Any]] = [
    {"key": "nobody", "value": JSON},
    {"value": JSON},
    {"key": "", "value": JSON},
    {"key": "room-1!", "value": b"\xc1"},
]


async def test_what_is_for_nobody_is_skipped(make_layer: Layers) -> None:
    layer = make_layer()
    channel = await listener(layer)
    foreign = Foreign(make_layer)
    inbox = server_of(layer).identity.name.partition
    for record in FOR_NOBODY:
        for topic in Topic:
            if topic is not Topic.SEND_ALL:
                foreign.produce(topic, partition=inbox, **record)
        foreign.produce(Topic.SEND_GROUP, key="room-1", partition=inbox, value=JSON)
        assert (await next_message(layer, channel))["text"] == "Grüße", record


NO_COMMANDS = [
    *(b"\xc1", b"{}", b'{"command": "made_up"}', b'{"id": [1]}', b'{"id": {}, "error": "x"}'),
    *(b'{"command": 1, "reply_to": 2}', b'{"command": "group_add", "reply_to": "999999-a"}'),
    b'{"command": "group_add", "name": null, "channel": [], "reply_to": "0-abc", "id": 1}',
]


@pytest.mark.parametrize("topic", [Topic.GROUP_MGMT, Topic.ACK])
async def test_commands_that_make_no_sense_harm_nobody(make_layer: Layers, topic: Topic) -> None:
    layer = make_layer()
    channel = await listener(layer)
    foreign = Foreign(make_layer)
    name = server_of(layer).identity.name
    other = make_layer()
    for number, value in enumerate(NO_COMMANDS):
        foreign.produce(topic, key=str(name), partition=name.partition, value=value)
        # a barrier: the next command on the same partition
        await other.group_add(f"room-{number}-2", channel)
        await other.group_send(f"room-{number}-2", {"n": number})
        assert await next_message(layer, channel) == {"n": number}, value


async def test_partitions_raised_while_servers_run(make_layer: Layers, prefix: str) -> None:
    make_layer.timings = Timings(refresh=0.5)
    here, there = (make_layer(prefix) for _ in range(2))
    channel = await there.new_channel()
    groups = [f"room-{number}" for number in range(30)]
    for group in groups:
        await there.group_add(group, channel)
    for group in groups:
        await here.group_send(group, {"group": group, "n": -1})
    await next_messages(there, channel, 30)
    receiving = asyncio.create_task(next_messages(there, channel, 300, 2 * PATIENCE))
    await asyncio.to_thread(raise_partitions, here, 8)
    fresh = make_layer(prefix=prefix)  # a sender that sees the new partitions at once
    for number in range(10):
        for group in groups:
            sender = fresh if number % 2 else here
            await sender.group_send(group, {"group": group, "n": number})
    await wait_until_async(
        lambda: len(partitions_read(there, Topic.SEND_GROUP)) == 8,
        "the server to read all 8 partitions",
    )
    received = await receiving
    assert len({(each["group"], each["n"]) for each in received}) == 300
    # and its own inbox is where it was
    await fresh.send(channel, {"n": "direct"})
    assert await next_message(there, channel) == {"n": "direct"}


async def test_messages_and_commands_to_a_server_in_a_new_partition(
    make_layer: Layers, prefix: str
) -> None:
    """Their senders' clients do not know the partition yet: 7 messages of a long run failed."""
    make_layer.timings = Timings(refresh=60, topics=60)
    sender, asker, old = (make_layer(prefix) for _ in range(3))
    channel = await old.new_channel()
    await sender.send(channel, {"n": 0})
    await asker.new_channel()
    await asker.group_add("room", channel)
    assert await next_message(old, channel) == {"n": 0}
    await asyncio.to_thread(raise_partitions, old, 16)
    while True:
        new = make_layer(prefix)
        channel = await new.new_channel()
        if server_of(new).identity.require().partition >= PARTITIONS:
            break
    await asker.group_add("room", channel)
    for number in range(100):
        await sender.send(channel, {"n": number})
    assert await next_messages(new, channel, 100) == [{"n": number} for number in range(100)]
    assert stats_of(sender)["failed"] == stats_of(asker)["failed"] == 0


def raise_partitions(layer: KafkaChannelLayer, count: int) -> None:
    admin = AdminClient({"bootstrap.servers": layer.config.bootstrap_servers})
    names = [topic_name(layer.config.prefix, topic) for topic in Topic]
    for future in admin.create_partitions([NewPartitions(name, count) for name in names]).values():
        future.result(PATIENCE)


def dropped(layer: KafkaChannelLayer, cause: str) -> int:
    counted: Callable[[str], bool] = lambda name: name.startswith(f"dropped.{cause}")  # noqa: E731
    return sum(number for name, number in stats_of(layer).items() if counted(name))
