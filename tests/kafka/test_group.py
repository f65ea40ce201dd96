"""What the consumer of a worker channel gives back, told apart by when it held the partition."""

from __future__ import annotations

import time
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from kafka_layer.config.settings import LayerConfig
from kafka_layer.delivery.wakeups import Wakeups
from kafka_layer.jobs.channel import WorkChannel
from kafka_layer.kafka.connection import Connection
from kafka_layer.kafka.group import WorkConsumer
from kafka_layer.observe.counters import Stats
from kafka_layer.server.clock import BrokerClock
from kafka_layer.wire.encryption import Encryption, ReplayGuard
from kafka_layer.wire.topics import WorkTopic

TOPIC = "channels-work.jobs"


class Client:
    """Stands in for a Consumer, which notes what is committed."""

    def __init__(self) -> None:
        self.committed: list[dict[int, int]] = []

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition]:
        self.committed.append({each.partition: each.offset for each in offsets})
        return offsets

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        pass

    incremental_unassign = incremental_assign


class Record:
    """Stands in for a Message of partition 0."""

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def error(self) -> None:
        return None

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def value(self) -> bytes:
        return b'{"type": "job"}'

    def timestamp(self) -> tuple[int, int]:
        return 1, int(time.time() * 1000)


PARTITION = [TopicPartition(TOPIC, 0)]


@pytest.fixture
def client() -> Any:
    return Client()


@pytest.fixture
def channel() -> WorkChannel:
    config = LayerConfig.from_keywords(bootstrap_servers="nowhere:9092")
    return WorkChannel(
        WorkTopic("jobs"),
        config.worker_settings("jobs"),
        ReplayGuard(Encryption(), 60),
        Stats("channels"),
        BrokerClock(),
        Wakeups(),
    )


@pytest.fixture
def consumer(channel: WorkChannel) -> WorkConsumer:
    config = LayerConfig.from_keywords(bootstrap_servers="nowhere:9092")
    stats = Stats("channels")
    return WorkConsumer(config, TOPIC, channel, stats, Connection("nowhere:9092", stats))


def hand_out(consumer: WorkConsumer, channel: WorkChannel, offset: int) -> None:
    """Let a job get as far as a receive that was cancelled then."""
    consumer._keep(Record(offset))  # type: ignore[arg-type]
    job = consumer._fetched.pop().job
    assert job is not None
    channel.hand_out([job])


def test_what_no_receive_took_is_uncommitted(
    consumer: WorkConsumer, channel: WorkChannel, client: Any
) -> None:
    consumer._on_assign(client, PARTITION)
    hand_out(consumer, channel, 7)
    hand_out(consumer, channel, 8)
    consumer._take_back(client)
    assert client.committed == [{0: 7}]
    assert [each.offset for each in consumer._fetched] == [7, 8]
    assert channel.mailbox.take() is None


@pytest.mark.parametrize("give_back", ["_take_back", "_on_revoke"])
def test_what_was_taken_before_the_partition_was_lost_stays_here(
    consumer: WorkConsumer, channel: WorkChannel, client: Any, give_back: str
) -> None:
    consumer._on_assign(client, PARTITION)
    hand_out(consumer, channel, 7)
    consumer._on_lost(client, PARTITION)
    # Meanwhile another worker may have gone on to any offset: committing 7 would repeat all those.
    consumer._on_assign(client, PARTITION)
    if give_back == "_take_back":
        consumer._take_back(client)
    else:
        consumer._on_revoke(client, PARTITION)
    assert client.committed == []
    assert channel.mailbox.take() is not None
