"""The questions that tests ask of the inside of a layer, each in one place."""

from __future__ import annotations

from typing import Any

from kafka_layer.kafka.backplane import KafkaBackplane
from kafka_layer.kafka.read_positions import PartitionState
from kafka_layer.kafka.reader import Reader
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.server.server import Server
from kafka_layer.wire.topics import CONTROL_TOPICS, Topic, topic_name

__all__ = [
    "backplane_of",
    "consumer_of",
    "is_waited_for",
    "partitions_read",
    "reader_of",
    "server_of",
]


def server_of(layer: KafkaChannelLayer) -> Server:
    """Return the server that a layer has at this moment: one that runs, or the next to start."""
    return layer._server


def backplane_of(layer: KafkaChannelLayer) -> KafkaBackplane:
    """Return what carries the records of a layer."""
    backplane = server_of(layer).transport
    assert isinstance(backplane, KafkaBackplane)
    return backplane


def reader_of(layer: KafkaChannelLayer, topic: Topic) -> Reader:
    """Return what reads a topic for a layer that receives."""
    data, control = (reader for reader, _ in backplane_of(layer)._readers)
    return control if topic in CONTROL_TOPICS else data


def consumer_of(layer: KafkaChannelLayer, topic: Topic) -> Any:
    """Return the client that reads a topic at this moment."""
    return reader_of(layer, topic)._client


def partitions_read(layer: KafkaChannelLayer, topic: Topic) -> set[int]:
    """Return the partitions of a topic that a layer reads.

    Its reader is asked, not its client: that belongs to the thread that polls it.
    """
    name = topic_name(layer.config.prefix, topic)
    read = reader_of(layer, topic)._positions.partitions_in(PartitionState.READING)
    return {partition for topic_read, partition in read if topic_read == name}


def is_waited_for(layer: KafkaChannelLayer, channel: str) -> bool:
    """Tell whether the thread that reads waits until a channel has room."""
    mailbox = server_of(layer).registry.mailbox(channel)
    return mailbox is not None and mailbox.congestion().room is not None
