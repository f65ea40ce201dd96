"""Records as plain tuples: one that is to be written, and one that was read."""

from __future__ import annotations

from collections.abc import Sequence

from ..exceptions import UnreadableRecord
from .topics import StreamTopic, Topic, WorkTopic

__all__ = [
    "Place",
    "ProducerRecord",
    "Record",
    "StreamProducerRecord",
    "offset_of",
    "unreadable_key",
    "written_at",
]

ProducerRecord = tuple[
    "Topic | WorkTopic", "str | None", bytes, "int | None", Sequence[tuple[str, bytes]]
]
"""A record to be written: its topic, the address or None, the value as it stands on the wire, the
partition (None: the key decides, or the transport where there is no key), and Kafka headers. A
plain tuple, as ``Record`` is, because every send makes one."""

StreamProducerRecord = tuple[
    StreamTopic, "bytes | None", "bytes | None", "int | None", Sequence[tuple[str, bytes]]
]
"""A record to be written to the topic of a stream: as ``ProducerRecord``, with any bytes as its
key, and None as the value of a tombstone. Its headers are ``ProducedHeaders``."""

Record = tuple[
    Topic,
    "bytes | None",
    "bytes | None",
    Sequence[tuple[str, "bytes | None"]],
    float,
    int,
    int,
]
"""A record that was read: its topic, raw key, raw value, Kafka headers (none in most records), the
broker's timestamp in seconds since the epoch, its partition and its offset. Python makes and
unpacks a plain tuple in half the time of a named one."""

Place = tuple["Topic | WorkTopic | StreamTopic", int, int, float]
"""The place of a record in the log: topic, partition, offset, and the broker's timestamp in seconds
since the epoch; of a stream's record its own timestamp."""


def offset_of(record: Record) -> int:
    """Return the offset of a record, to sort and to search by it."""
    return record[6]


def written_at(record: Record) -> float:
    """Return the broker's timestamp of a record, to merge partitions by it."""
    return record[4]


def unreadable_key(key: bytes | None) -> UnreadableRecord:
    """Return the error for a record whose key is no text."""
    return UnreadableRecord("undecodable", f"its key {key!r} is not UTF-8")
