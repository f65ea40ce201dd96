"""A worker channel of a stream on a real broker: each record of a foreign topic once in the group.

Kafka's own console producer, and a transactional one, write the records.
"""

from __future__ import annotations

import asyncio
import io
import json
import secrets
from functools import partial
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]
from django.core.management import CommandError, call_command
from django.test import override_settings

from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import RegistryAway, TopicError, UnreadableRecord
from kafka_layer.layer import KafkaChannelLayer
from tests.support.inspect import server_of
from tests.support.layers import Layers, next_message, next_messages
from tests.support.records import create_topic, leader_of, produce, produce_keyed
from tests.support.waiting import wait_until, wait_until_async

PARTITIONS = 4


@pytest.fixture
def topic(kafka: str) -> str:
    """A topic that is not the layer's."""
    name = f"shop.{secrets.token_hex(4)}"
    create_topic(kafka, name, PARTITIONS)
    return name


@pytest.fixture
def channel() -> str:
    """A worker channel, and consumer group, that no other test uses."""
    return f"orders-to-db-{secrets.token_hex(4)}"


def streams(topic: str, channel: str, **more: Any) -> dict[str, Any]:
    return {"orders": {"topic": topic, "type": "order", "worker_channel": channel, **more}}


async def takes_part(layer: KafkaChannelLayer, channel: str) -> asyncio.Task[dict[str, Any]]:
    """Begin to receive; return once the group has its positions."""
    task = asyncio.create_task(next_message(layer, channel, 60))
    await wait_until_async(
        lambda: task.done() or server_of(layer).jobs.mailbox(channel) is not None,
        "the group to form",
        60,
    )
    return task


async def test_two_workers_get_each_record_once(
    make_layer: Layers, kafka: str, topic: str, channel: str
) -> None:
    one, other = (make_layer(streams=streams(topic, channel)) for _ in range(2))
    first = [await takes_part(layer, channel) for layer in (one, other)]
    written = [(b"%d" % n, b'{"n": %d}' % n) for n in range(400)]
    await asyncio.to_thread(produce_keyed, kafka, topic, written)
    received: list[dict[str, Any]] = []

    async def work(layer: KafkaChannelLayer, task: asyncio.Task[dict[str, Any]]) -> None:
        received.append(await task)
        while len(received) < 400:
            received.append(await next_message(layer, channel, 60))

    workers = [
        asyncio.ensure_future(work(layer, task))
        for layer, task in zip((one, other), first, strict=True)
    ]
    await wait_until_async(lambda: len(received) >= 400, "all records", 60)
    for worker in workers:
        worker.cancel()
    assert sorted(each["value"]["n"] for each in received) == list(range(400))
    assert received[0] == {
        "type": "order",
        "stream": "orders",
        "key": str(received[0]["value"]["n"]),
        "value": received[0]["value"],
        "headers": {},
    }


@pytest.mark.parametrize(
    ("start", "protocol"),
    [("latest", "classic"), ("earliest", "classic"), ("latest", "consumer")],
)
async def test_a_new_group_begins_at_start_and_later_goes_on_where_it_was(
    make_layer: Layers, kafka: str, topic: str, channel: str, start: str, protocol: str
) -> None:
    await asyncio.to_thread(produce, kafka, topic, [b'"before"'])
    config = {
        "streams": streams(topic, channel, start=start),
        "worker_group_protocol": protocol,
    }
    layer = make_layer(**config)
    waiting = await takes_part(layer, channel)
    if start == "latest":
        await asyncio.to_thread(produce, kafka, topic, [b'"first"'])
    assert (await waiting)["value"] == ("first" if start == "latest" else "before")
    await layer.close()
    await asyncio.to_thread(produce, kafka, topic, [b'"while away"'])
    again = make_layer(**config)
    assert (await next_message(again, channel, 60))["value"] == "while away"


async def test_a_partition_that_is_added_is_read_from_its_first_record(
    make_layer: Layers, kafka: str, topic: str, channel: str
) -> None:
    layer = make_layer(streams=streams(topic, channel))
    waiting = await takes_part(layer, channel)
    await layer.close()
    waiting.cancel()
    admin = AdminClient({"bootstrap.servers": kafka})
    future = admin.create_partitions([NewPartitions(topic, PARTITIONS + 1)])[topic]
    await asyncio.to_thread(future.result, 30)
    # A broker may not show a new partition at once.
    led = partial(leader_of, kafka, topic, PARTITIONS)
    await asyncio.to_thread(wait_until, led, "a leader of the new partition", 30)
    await asyncio.to_thread(produce, kafka, topic, [b'"new"'], PARTITIONS)
    again = make_layer(streams=streams(topic, channel))
    assert (await next_message(again, channel, 60))["value"] == "new"


async def test_of_a_transactional_producer_only_what_it_committed_comes(
    make_layer: Layers, kafka: str, topic: str, channel: str
) -> None:
    layer = make_layer(streams=streams(topic, channel, start="earliest"))

    def write() -> None:
        producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic})
        producer.init_transactions(30)
        for outcome in ("abort", "commit", "abort"):
            producer.begin_transaction()
            for number in range(3):
                producer.produce(topic, json.dumps([outcome, number]), partition=0)
            producer.flush(30)
            getattr(producer, f"{outcome}_transaction")(30)

    await asyncio.to_thread(write)
    received = await next_messages(layer, channel, 3, 60)
    assert [each["value"] for each in received] == [["commit", number] for number in range(3)]
    # The markers behind them are nobody's: none waits.
    waiting = await takes_part(layer, channel)
    alone = {"waiting": 0, "members": 1}
    await wait_until_async(lambda: status_of(kafka, topic, channel) == alone, "no backlog")
    waiting.cancel()


def status_of(kafka: str, topic: str, channel: str) -> dict[str, Any]:
    """Return what ``kafka_status`` tells of the channel."""
    config = {
        "bootstrap_servers": kafka,
        "prefix": f"test-{secrets.token_hex(4)}",
        "streams": streams(topic, channel),
    }
    layers = {"default": {"BACKEND": "kafka_layer.layer.KafkaChannelLayer", "CONFIG": config}}
    out = io.StringIO()
    with override_settings(CHANNEL_LAYERS=layers), pytest.raises(CommandError):
        # The layer's own topics are missing.
        call_command("kafka_status", "--json", stdout=out)
    (lag,) = json.loads(out.getvalue())[0]["stream_work"]
    assert (lag.pop("topic"), lag.pop("group")) == (topic, channel)
    found: dict[str, Any] = lag
    return found


async def test_the_backlog_is_shown_and_no_command_makes_its_topic(
    make_layer: Layers, kafka: str, topic: str, channel: str
) -> None:
    assert status_of(kafka, topic, channel) == {"waiting": None, "members": 0}
    layer = make_layer(streams=streams(topic, channel, start="earliest"))
    await asyncio.to_thread(produce, kafka, topic, [b"1", b"2", b"3"])
    await next_message(layer, channel, 60)
    await layer.close()
    left = {"waiting": 2, "members": 0}
    await wait_until_async(lambda: status_of(kafka, topic, channel) == left, "it to have left")
    config = {
        "bootstrap_servers": kafka,
        "prefix": f"test-{secrets.token_hex(4)}",
        "default_partitions": 1,
        "streams": {**streams(topic, channel), "gone": {"topic": f"{topic}.gone"}},
        "worker_channels": {channel: {"partitions": 9}},
    }
    layers = {"default": {"BACKEND": "kafka_layer.layer.KafkaChannelLayer", "CONFIG": config}}
    with override_settings(CHANNEL_LAYERS=layers):
        call_command("kafka_setup_topics", "--increase-partitions", stdout=io.StringIO())
        with pytest.raises(CommandError, match=r"leaves it alone"):
            call_command("kafka_setup_topics", "--worker-channel", channel, stdout=io.StringIO())
    topics = AdminClient({"bootstrap.servers": kafka}).list_topics(timeout=30).topics
    assert len(topics[topic].partitions) == PARTITIONS
    assert f"{topic}.gone" not in topics
    assert not [name for name in topics if name.startswith(f"{config['prefix']}-work.")]


async def test_a_poison_record_stops_the_group_there_or_is_skipped(
    make_layer: Layers, kafka: str, topic: str, channel: str
) -> None:
    await asyncio.to_thread(produce, kafka, topic, [b'"good"', b"no JSON", b'"behind"'])
    config = streams(topic, channel, start="earliest", on_error="stop")
    layer = make_layer(streams=config)
    assert (await next_message(layer, channel, 60))["value"] == "good"
    for _ in range(2):
        with pytest.raises(UnreadableRecord, match=rf"{topic}\[0\] offset 1, .*no JSON"):
            await next_message(layer, channel, 60)
    await layer.close()
    # Its position stayed before the record; a worker that skips such records goes on from there.
    skipping = make_layer(streams=streams(topic, channel))
    assert (await next_message(skipping, channel, 60))["value"] == "behind"
    assert skipping.stats().dropped == {"undecodable": 1}


class Asking:
    """A codec whose registry is away now and then."""

    def __init__(self) -> None:
        self.asked = 0

    def decode(self, data: bytes) -> int:
        self.asked += 1
        if self.asked in (1, 2, 5, 9):
            raise RegistryAway("the registry does not answer")
        return int(data)


async def test_a_registry_that_is_away_delays_and_neither_drops_nor_repeats(
    make_layer: Layers, kafka: str, topic: str, channel: str
) -> None:
    for partition in (0, 1):
        values = [str(10 * partition + number).encode() for number in range(6)]
        await asyncio.to_thread(produce, kafka, topic, values, partition)
    make_layer.timings = Timings(registry_retry=0.1)
    codec = Asking()
    layer = make_layer(
        streams=streams(topic, channel, start="earliest", value=codec),
        worker_channels={channel: {"prefetch_count": 4}},
    )
    received = [each["value"] for each in await next_messages(layer, channel, 12, 60)]
    assert [value for value in received if value < 10] == list(range(6))
    assert [value for value in received if value >= 10] == list(range(10, 16))
    assert codec.asked >= 12 + 4
    assert layer.stats().dropped == {}


async def test_a_topic_that_is_missing_is_an_error(make_layer: Layers, channel: str) -> None:
    missing = f"missing.{secrets.token_hex(4)}"
    layer = make_layer(streams=streams(missing, channel))
    with pytest.raises(TopicError, match=f"Stream 'orders' has no topic: {missing}"):
        await layer.receive(channel)
