"""What happens to the topics of a layer from outside, on a real broker."""

from __future__ import annotations

from confluent_kafka import KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from kafka_layer.kafka.admin import TopicAdmin
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.wire.topics import Topic, WorkTopic, topic_name
from tests.support.inspect import server_of
from tests.support.waiting import wait_until

__all__ = ["add_partition", "admin_of", "await_growth", "delete_before", "delete_topic"]

_DEADLINE = 30.0


def admin_of(layer: KafkaChannelLayer) -> AdminClient:
    """Return a client for a layer's brokers, which has to be held until its requests are answered:
    one that nobody holds is freed, and its futures never end.
    """
    return AdminClient({"bootstrap.servers": layer.config.bootstrap_servers, "log_level": 0})


def add_partition(layer: KafkaChannelLayer, topic: Topic, partitions: int) -> None:
    """Add one partition to a topic that has so many; blocks."""
    with TopicAdmin(layer.config, _DEADLINE) as admin:
        admin.add_partitions({topic_name(layer.config.prefix, topic): partitions + 1})


def await_growth(layer: KafkaChannelLayer, topic: Topic, partitions: int) -> None:
    """Wait until a layer knows more than so many partitions of a topic; blocks."""
    transport = server_of(layer).transport

    def has_grown() -> bool:
        # Again and again: a broker may not show a new partition at once.
        transport.refresh()
        return transport.partitions(topic) > partitions

    wait_until(has_grown, f"a new partition of {topic.value}", pause=0.1)


def delete_before(layer: KafkaChannelLayer, topic: Topic, partition: int, offset: int) -> None:
    """Have the log lose the records of a partition before an offset; blocks."""
    where = TopicPartition(topic_name(layer.config.prefix, topic), partition, offset)
    admin = admin_of(layer)
    admin.delete_records([where])[where].result(_DEADLINE)


def delete_topic(layer: KafkaChannelLayer, topic: Topic | WorkTopic) -> None:
    """Delete a topic, and return when its broker takes no more records for it; blocks."""
    name = topic_name(layer.config.prefix, topic)
    admin = admin_of(layer)
    before = _id_of(admin, name)
    admin.delete_topics([name])[name].result(_DEADLINE)
    # A server that runs may make it anew at once.
    wait_until(lambda: _id_of(admin, name) != before, f"{name} to be gone", _DEADLINE)


def _id_of(admin: AdminClient, name: str) -> str | None:
    try:
        described = admin.describe_topics(TopicCollection([name]))[name].result(_DEADLINE)
    except KafkaException:
        return None
    return str(described.topic_id)
