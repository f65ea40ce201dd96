"""Records that a program with the right to write could make up: on topics with writers' times."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer

from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.wire.topics import Topic, topic_name
from tests.support.layers import next_message, stats_of
from tests.support.waiting import PATIENCE, wait_until_async

CREATE_TIME = {
    topic.value: {
        "config": {
            "message.timestamp.type": "CreateTime",
            "max.message.bytes": "12000000",
            "retention.ms": "-1",
        }
    }
    for topic in Topic
}
MakeLayer = Callable[..., KafkaChannelLayer]


def write(layer: KafkaChannelLayer, topic: Topic, value: bytes, **record: Any) -> None:
    failures: list[object] = []
    producer = Producer(
        {"bootstrap.servers": layer.config.bootstrap_servers, "message.max.bytes": 12_000_000}
    )
    producer.produce(
        topic_name(layer.config.prefix, topic),
        value=value,
        on_delivery=lambda error, _: error and failures.append(error),
        **record,
    )
    assert producer.flush(PATIENCE) == 0
    assert not failures


async def member(layer: KafkaChannelLayer) -> str:
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    return channel


async def test_timestamps_in_1970_and_in_the_future(make_layer: MakeLayer, prefix: str) -> None:
    layer = make_layer(prefix, topics=CREATE_TIME)
    channel = await member(layer)
    write(layer, Topic.SEND_GROUP, b'{"n": 1}', key="room", partition=0, timestamp=1)
    await wait_until_async(lambda: stats_of(layer)["dropped.expired"] == 1, "1970 to be dropped")
    ahead = int((time.time() + 3000) * 1000)
    write(layer, Topic.SEND_GROUP, b'{"n": 2}', key="room", partition=0, timestamp=ahead)
    assert await next_message(layer, channel) == {"n": 2}
    await layer.group_send("room", {"n": 3})
    assert await next_message(layer, channel) == {"n": 3}
    latency = layer.stats().latency_p50
    assert latency is not None
    assert latency < 60


async def test_10_mb(make_layer: MakeLayer, prefix: str) -> None:
    layer = make_layer(prefix, topics=CREATE_TIME)
    channel = await member(layer)
    big = "x" * 10_000_000
    write(layer, Topic.SEND_GROUP, json.dumps({"text": big}).encode(), key="room", partition=0)
    write(layer, Topic.SEND_GROUP, b"\x00" + big.encode(), key="room", partition=0)
    write(layer, Topic.SEND_GROUP, b'{"n": 1}', key="room", partition=0)
    assert await next_message(layer, channel) == {"text": big}
    assert await next_message(layer, channel) == {"n": 1}
    assert stats_of(layer)["dropped.undecodable"] == 1


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_forged_flush(make_layer: MakeLayer, prefix: str, encrypted: bool) -> None:
    keys = {"symmetric_encryption_keys": ["secret"]} if encrypted else {}
    layer = make_layer(prefix, topics=CREATE_TIME, **keys)
    channel = await member(layer)
    ahead = int((time.time() + 3000) * 1000)
    write(
        layer,
        Topic.SEND_ALL,
        b'{"command": "flush", "server": "0-forged00"}',
        headers={"command": b"flush", "unknown": None, "exclude": b"\xff,"},
        timestamp=ahead,
    )
    if encrypted:
        await wait_until_async(lambda: stats_of(layer)["dropped.decrypt"] == 1, "it to be refused")
    else:
        # Who may write to the topics may flush; but it must not last.
        await wait_until_async(lambda: not layer.stats().groups, "it to be carried out")
        over = time.time() + 2
        await wait_until_async(lambda: time.time() > over, "2 s to pass")
        channel = await member(layer)
    await layer.group_send("room", {"n": 1})
    assert await next_message(layer, channel) == {"n": 1}
