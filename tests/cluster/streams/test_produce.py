"""``produce`` on real brokers: where records go, what a worker gets, and what nobody takes."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import ProduceFailed, TopicError
from kafka_layer.signals import produce_failed
from kafka_layer.testing import EmbeddedBroker
from tests.support.layers import Layers
from tests.support.records import console_produce, consume, create_topic
from tests.support.waiting import wait_until, wait_until_async

REPOSITORY = Path(__file__).parents[3]
PARTITIONS = 6
KEYS = ["7", "17", "ü", "a longer key", "x" * 40]


@pytest.fixture
def topic(kafka: str) -> str:
    """A topic that is not the layer's."""
    name = f"shop.{secrets.token_hex(4)}"
    create_topic(kafka, name, PARTITIONS)
    return name


def streams(topic: str, **more: Any) -> dict[str, Any]:
    return {"orders": {"topic": topic, **more}}


def partitions_of_keys(servers: str, topic: str) -> dict[bytes, int]:
    """Return the partition of each record's key."""
    found = {}
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "keys"})
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])

        def read() -> bool:
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                found[message.key() or b""] = message.partition() or 0
            return len(found) == len(KEYS)

        wait_until(read, "a record of each key", 30)
    finally:
        consumer.close()
    return found


async def test_a_key_has_the_partition_that_kafkas_own_producer_gives_it(
    make_layer: Layers, kafka: str, topic: str
) -> None:
    lines = "".join(f"{key}:1\n" for key in KEYS).encode()
    await asyncio.to_thread(console_produce, kafka, topic, lines)
    theirs = await asyncio.to_thread(partitions_of_keys, kafka, topic)
    layer = make_layer(streams=streams(topic), await_produce=True)
    for key in KEYS:
        position = await layer.produce("orders", {"by": "django"}, key=key)
        assert position is not None
        assert (position.topic, position.partition) == (topic, theirs[key.encode()])


async def test_what_lies_in_the_topic_is_what_was_given(
    make_layer: Layers, kafka: str, topic: str
) -> None:
    layer = make_layer(streams=streams(topic))
    headers = {"trace": "a1", "raw": b"\xff"}
    assert await layer.produce("orders", {"n": 1}, key="7", headers=headers, partition=2) is None
    await asyncio.to_thread(layer.produce_sync, "orders", None, key="7", partition=2)
    first, second = await asyncio.to_thread(consume, kafka, topic, 2, 2)
    assert (first.key(), first.value()) == (b"7", b'{"n":1}')
    assert first.headers() == [("trace", b"a1"), ("raw", b"\xff")]
    assert (second.key(), second.value(), second.headers()) == (b"7", None, None)


async def test_a_missing_topic_is_an_error_and_nobody_creates_it(
    make_layer: Layers, kafka: str
) -> None:
    missing = f"missing.{secrets.token_hex(4)}"
    layer = make_layer(streams=streams(missing))
    for _ in range(2):
        with pytest.raises(TopicError, match=rf"{missing} does not exist on {kafka}.*creates no"):
            await layer.produce("orders", 1)
    assert missing not in AdminClient({"bootstrap.servers": kafka}).list_topics(timeout=30).topics
    # As soon as somebody has created it, it is written to.
    create_topic(kafka, missing)
    assert await layer.produce("orders", 1) is None


class TestGivenUp:
    @pytest.fixture
    def lost(self) -> Iterator[list[dict[str, Any]]]:
        """What the signal told."""
        told: list[dict[str, Any]] = []

        def note(**arguments: Any) -> None:
            told.append(arguments)

        produce_failed.connect(note)
        yield told
        produce_failed.disconnect(note)

    async def test_the_signal_carries_what_was_to_be_sent(
        self, make_layer: Layers, topic: str, lost: list[dict[str, Any]]
    ) -> None:
        layer = make_layer(streams=streams(topic), expiry=2)
        value = {"id": 7}
        await layer.produce("orders", value, key="7", headers={"a": "b"}, partition=99)
        await wait_until_async(lambda: lost, "the signal")
        (told,) = lost
        assert isinstance(told["error"], ProduceFailed)
        assert "stream 'orders'" in str(told["error"])
        assert "kafka_setup_topics" not in str(told["error"])
        assert (told["stream"], told["topic"], told["key"]) == ("orders", topic, "7")
        assert told["value"] is value
        assert told["headers"] == [("a", b"b")]
        again = {name: told[name] for name in ("stream", "value", "key", "headers")}
        assert await layer.produce(**again) is None

    async def test_with_await_produce_the_caller_gets_the_error(
        self, make_layer: Layers, topic: str
    ) -> None:
        layer = make_layer(streams=streams(topic), await_produce=True, expiry=2)
        with pytest.raises(ProduceFailed, match="it has no such partition"):
            await layer.produce("orders", 1, partition=99)


@pytest.fixture(scope="module")
def far(embedded: EmbeddedBroker) -> dict[str, Any]:
    """A stream whose topic is on another cluster."""
    topic = f"far.{secrets.token_hex(4)}"
    embedded.create_topic(topic, 1)
    return {"topic": topic, "bootstrap_servers": embedded.bootstrap_servers}


def producers() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name == "kafka-layer-producer"}


class TestAnotherCluster:
    async def test_it_has_a_producer_of_its_own_that_ends_with_the_layer(
        self, make_layer: Layers, topic: str, far: dict[str, Any]
    ) -> None:
        before = producers()
        layer = make_layer(streams={**streams(topic), "far": far, "same": dict(far)})
        await layer.produce("orders", "here")
        assert len(producers() - before) == 1
        for number in range(100):
            await layer.produce("far" if number % 2 else "same", number, key="7")
        assert len(producers() - before) == 2
        # What is queued is written before the layer has closed.
        await layer.close()
        await wait_until_async(lambda: not producers() - before, "them to end")
        records = await asyncio.to_thread(consume, far["bootstrap_servers"], far["topic"], 100)
        assert [record.value() for record in records] == [str(n).encode() for n in range(100)]

    async def test_one_that_is_away_holds_up_neither_the_others_nor_the_end(
        self, make_layer: Layers, topic: str
    ) -> None:
        away = {"topic": "far", "bootstrap_servers": "127.0.0.1:1"}
        make_layer.timings = Timings(start=3.0, close=1.0)
        layer = make_layer(streams={**streams(topic), "away": away})
        await layer.produce("away", "lost")
        await layer.produce("orders", "still here")
        await wait_until_async(lambda: layer.stats().queued == 1, "the other record to be written")
        assert layer.stats().state == "connected"
        began = time.monotonic()
        await layer.close()
        assert time.monotonic() - began < 15

    def test_a_forked_child_has_clients_of_its_own(
        self, kafka: str, topic: str, prefix: str, far: dict[str, Any]
    ) -> None:
        config = {"bootstrap_servers": kafka, "prefix": prefix, "streams": {"far": far}}
        ended = subprocess.run(
            [sys.executable, "-c", FORKS, json.dumps(config)],
            cwd=REPOSITORY,
            timeout=60,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, "")


FORKS = """
import json, os, sys
from tests.support.patience import PatientLayer

layer = PatientLayer(**json.loads(sys.argv[1]), await_produce=True)
assert layer.produce_sync("far", "parent") is not None
child = os.fork()
assert layer.produce_sync("far", "either") is not None
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
