"""Plain Kafka clients for tests: topics made, records produced and read, without the layer."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from tests.support.kafka import run_kafka_tool
from tests.support.waiting import wait_until

__all__ = [
    "console_produce",
    "consume",
    "create_topic",
    "kafka_tool",
    "leader_of",
    "produce",
    "produce_keyed",
]

_TIMEOUT = 30.0

# The classes that Kafka's scripts start.
_TOOLS = {
    "kafka-console-producer.sh": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
}

# Quick reconnects, and no word of the outages that tests make on purpose.
_CLIENT: dict[str, str | int | float | bool] = {"reconnect.backoff.max.ms": 200, "log_level": 0}


def create_topic(
    servers: str, name: str, partitions: int = 1, replication_factor: int = -1
) -> None:
    """Create a topic on a real broker and return when each partition has a leader."""
    admin = AdminClient({"bootstrap.servers": servers, **_CLIENT})
    topic = NewTopic(name, partitions, replication_factor)
    admin.create_topics([topic])[name].result(_TIMEOUT)
    for partition in range(partitions):
        led = functools.partial(_leader_of, admin, name, partition)
        wait_until(led, f"a leader of {name}[{partition}]", _TIMEOUT)


def leader_of(servers: str, topic: str, partition: int = 0) -> int | None:
    """Return the id of the broker that leads a partition, or None where nobody does yet."""
    return _leader_of(AdminClient({"bootstrap.servers": servers, **_CLIENT}), topic, partition)


def _leader_of(admin: AdminClient, topic: str, partition: int) -> int | None:
    found = admin.list_topics(topic, timeout=_TIMEOUT).topics[topic].partitions.get(partition)
    return None if found is None or found.leader < 0 else found.leader


def produce(
    servers: str, topic: str, values: Sequence[bytes], partition: int = 0, key: bytes | None = None
) -> list[Message]:
    """Produce the values with acks=all and return their delivery reports, in order.

    Args:
        servers: The brokers.
        topic: The topic.
        values: The values, in this order.
        partition: The partition; -1 for the one that Kafka's default partitioner gives the key.
        key: The key of all of them.

    Raises:
        AssertionError: One was not delivered in 30 s.
    """
    return _produce(servers, topic, [(key, value) for value in values], partition)


def produce_keyed(
    servers: str, topic: str, records: Sequence[tuple[bytes, bytes]]
) -> list[Message]:
    """Produce keys with values to the partitions of the keys, as Kafka's console producer does.

    That one takes a second to start. Otherwise like :func:`produce`.
    """
    return _produce(servers, topic, records, -1)


def _produce(
    servers: str, topic: str, records: Sequence[tuple[bytes | None, bytes]], partition: int
) -> list[Message]:
    reports: list[Message] = []
    failures: list[object] = []

    def on_delivery(error: object, message: Message) -> None:
        failures.append(error) if error else reports.append(message)

    config = {"partitioner": "murmur2_random", "acks": "all", "linger.ms": 0, **_CLIENT}
    producer = Producer({"bootstrap.servers": servers, **config})
    for key, value in records:
        producer.produce(topic, value, key, partition, on_delivery)
    left = producer.flush(_TIMEOUT)
    assert len(reports) == len(records), f"{left} left for {topic}, failed: {failures}"
    return reports


def console_produce(servers: str, topic: str, lines: bytes) -> None:
    """Have Kafka's own console producer write lines of ``key:value``; blocks for a second."""
    where = ["--bootstrap-server", servers, "--topic", topic]
    split = ["--property", "parse.key=true", "--property", "key.separator=:"]
    kafka_tool("kafka-console-producer.sh", *where, *split, lines=lines)


def kafka_tool(script: str, *arguments: str, lines: bytes = b"") -> None:
    """Run one of Kafka's own tools with these lines as its input; blocks for a second."""
    done = run_kafka_tool(_TOOLS[script], *arguments, lines=lines.decode())
    assert done.returncode == 0, done.stdout


def consume(
    servers: str, topic: str, count: int, partition: int = 0, *, first: int = 0
) -> list[Message]:
    """Read ``count`` records of a partition, from the offset ``first`` on.

    Raises:
        TimeoutError: They were not there in 30 s.
    """
    records: list[Message] = []
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "reader", "fetch.wait.max.ms": 5, **_CLIENT}
    )

    def poll() -> bool:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            records.append(message)
        return len(records) >= count

    try:
        consumer.assign([TopicPartition(topic, partition, first)])
        wait_until(poll, f"{count} records of {topic}[{partition}]", _TIMEOUT)
    finally:
        consumer.close()
    return records
