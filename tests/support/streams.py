"""Topics of streams: made, written to from outside the layer, and what a layer tells of them."""

from __future__ import annotations

import itertools
import time
from typing import Any

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic  # type: ignore[attr-defined]

from kafka_layer.config.timings import Timings
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.testing.memory import InMemoryBackplane
from kafka_layer.wire.position_token import LogPosition
from kafka_layer.wire.topics import StreamTopic
from tests.support.inspect import server_of
from tests.support.waiting import wait_until, wait_until_async

__all__ = ["SOON", "ForeignTopic", "state_of", "wait_for_state", "wait_until_covered"]

SOON = Timings(topics=0.3, registry_retry=0.1)
"""What a layer takes where a test waits for it to notice a topic or a registry."""

_TIMEOUT = 30.0
_numbers = itertools.count()


class ForeignTopic:
    """A topic that is not the layer's, and its producer; on Kafka, or in memory.

    Args:
        layer: A layer on the same brokers.
        prefix: Part of the topic's name.

    Attributes:
        name: Kafka's name of it.
        servers: The brokers.
    """

    def __init__(self, layer: KafkaChannelLayer, prefix: str) -> None:
        self.name = f"foreign-{prefix}-{next(_numbers)}"
        self._layer = layer
        self.servers = layer.config.bootstrap_servers
        self.in_memory = isinstance(server_of(layer).transport, InMemoryBackplane)
        self._producer: Producer | None = None
        self._written_at = 0

    def create(self, partitions: int = 1, **config: str) -> ForeignTopic:
        """Create the topic; in memory it exists from its first record on."""
        if not self.in_memory:
            admin = self._admin()
            topic = NewTopic(self.name, partitions, 1, config=config)
            admin.create_topics([topic])[self.name].result(_TIMEOUT)
            wait_until(
                lambda: self._leaders(admin) == partitions, f"leaders of {self.name}", _TIMEOUT
            )
        return self

    def add_partitions(self, partitions: int) -> None:
        """Raise the number of partitions."""
        new = NewPartitions(self.name, partitions)
        admin = self._admin()
        admin.create_partitions([new])[self.name].result(_TIMEOUT)
        wait_until(lambda: self._leaders(admin) == partitions, f"leaders of {self.name}", _TIMEOUT)

    def delete(self) -> None:
        """Delete the topic; returns when no broker shows it."""
        admin = self._admin()
        admin.delete_topics([self.name])[self.name].result(_TIMEOUT)
        wait_until(lambda: not self._leaders(admin), f"{self.name} to be gone", _TIMEOUT)
        # The client of the deleted topic knows its leader epoch.
        self._producer = None

    def delete_before(self, partition: int, offset: int) -> None:
        """Have the topic lose the records of a partition before an offset."""
        if self.in_memory:
            transport = server_of(self._layer).transport
            assert isinstance(transport, InMemoryBackplane)
            transport.stream_topics.delete_before((self.name, partition), offset)
            return
        where = TopicPartition(self.name, partition, offset)
        admin = self._admin()
        admin.delete_records([where])[where].result(_TIMEOUT)

    def write(
        self, *values: bytes | None, key: bytes | None = b"7", partition: int = 0
    ) -> ForeignTopic:
        """Write records of one key, in order, as another program does; blocks.

        Their time is later than that of the call before: records of several partitions are told by
        their times, which count milliseconds.
        """
        if self.in_memory:
            transport = server_of(self._layer).transport
            assert isinstance(transport, InMemoryBackplane)
            for value in values:
                topic = StreamTopic("foreign", self.name)
                transport.stream_topics.write(topic, key, value, partition)
            return self
        failed: list[object] = []
        producer = self._open_producer()
        self._written_at = max(self._written_at + 1, int(time.time() * 1000))
        for value in values:
            producer.produce(
                self.name,
                value,
                key,
                partition,
                timestamp=self._written_at,
                on_delivery=lambda error, _: failed.append(error) if error else None,
            )
            producer.poll(0)
        left = producer.flush(_TIMEOUT)
        assert (left, failed) == (0, []), f"records of {self.name} were not written"
        return self

    def _open_producer(self) -> Producer:
        if self._producer is None:
            self._producer = Producer(
                {"bootstrap.servers": self.servers, "linger.ms": 0, "acks": "all", "log_level": 0}
            )
        return self._producer

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.servers, "log_level": 0})

    def _leaders(self, admin: AdminClient) -> int:
        told = admin.list_topics(self.name, _TIMEOUT).topics.get(self.name)
        partitions = {} if told is None else told.partitions
        return sum(each.leader >= 0 for each in partitions.values())


def state_of(layer: KafkaChannelLayer, stream: str) -> dict[str, Any]:
    """Return what a layer tells of a stream."""
    return dict(layer.stats().streams[stream])


async def wait_for_state(
    layer: KafkaChannelLayer, stream: str, state: str, **figures: Any
) -> dict[str, Any]:
    """Wait until a stream is in a state, with these figures; return all of them."""

    def told() -> dict[str, Any]:
        told = state_of(layer, stream)
        wanted = {"state": state, **figures}
        return told if wanted.items() <= told.items() else {}

    await wait_until_async(
        lambda: told() or None, f"{stream} to be {state} {figures}; it is {state_of(layer, stream)}"
    )
    return state_of(layer, stream)


async def wait_until_covered(layer: KafkaChannelLayer, channel: str) -> None:
    """Wait until a tracked channel's position tells where it is in a stream."""

    def is_covered() -> bool:
        position = LogPosition.read(layer.position(channel), layer.config.prefix)
        return any(each.topics is not None for each in position.streams.values())

    await wait_until_async(is_covered, "the position to cover the stream")
