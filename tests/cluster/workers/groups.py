"""What the broker knows of a worker channel: its topic and the positions of its consumer group."""

from __future__ import annotations

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.wire.topics import WorkTopic, topic_name

__all__ = ["handed_out", "members", "topic_of"]

_TIMEOUT = 30.0


def topic_of(layer: KafkaChannelLayer, channel: str) -> str:
    """Return Kafka's name of a worker channel's topic."""
    return topic_name(layer.config.prefix, WorkTopic(channel))


def handed_out(layer: KafkaChannelLayer, channel: str) -> int:
    """Return how many messages the positions say were handed out, of a topic that keeps all."""
    topic = topic_of(layer, channel)
    reader = Consumer(
        {"bootstrap.servers": layer.config.bootstrap_servers, "group.id": topic, "log_level": 0}
    )
    try:
        partitions = reader.list_topics(topic, timeout=_TIMEOUT).topics[topic].partitions
        asked = [TopicPartition(topic, number) for number in partitions]
        return sum(max(0, each.offset) for each in reader.committed(asked, timeout=_TIMEOUT))
    finally:
        reader.close()


def members(layer: KafkaChannelLayer, channel: str) -> int:
    """Return how many workers the broker counts in a worker channel's group."""
    group = topic_of(layer, channel)
    admin = AdminClient({"bootstrap.servers": layer.config.bootstrap_servers, "log_level": 0})
    described = admin.describe_consumer_groups([group], request_timeout=_TIMEOUT)[group]
    return len(described.result(_TIMEOUT).members)
