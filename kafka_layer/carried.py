"""What a backplane tells and raises, as values; ``transport.py`` has its protocols.

Every server needs these, and the protocols only where types are checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from .wire.topics import Where

__all__ = [
    "Backlog",
    "BatchFacts",
    "Extent",
    "Health",
    "QueueFull",
    "ReadFrom",
    "StreamFacts",
]


class QueueFull(Exception):
    """The backplane's queue of records to be written is full."""


class Health(NamedTuple):
    """The health of a backplane.

    Attributes:
        connected: Whether a broker can be reached, as far as is known.
        doubtful: Whether to ask a broker now: a client found none, and no client got an answer
            since.
        queued: Records that wait for an acknowledgement.
        lag: Records in the log that were not read yet, some seconds ago.
        addressable: Whether records for this server alone can reach it; False for good once its
            inbox partition is gone.
        lags: ``lag`` by Kafka's name of the topic.
        dead: The names of the threads that have ended although they should run.
    """

    connected: bool
    queued: int
    lag: int
    doubtful: bool = False
    addressable: bool = True
    lags: Mapping[str, int] = MappingProxyType({})
    dead: tuple[str, ...] = ()


class Backlog(NamedTuple):
    """What waits in a worker channel.

    Attributes:
        channel: The channel's name.
        waiting: Records that no worker has taken yet; None if that is unknown, or its workers have
            not begun.
        workers: How many processes share them now.
        stream: The stream whose records they are; None if the channel has a topic of its own.
        trouble: Why it is unknown, in words; empty if it is not.
    """

    channel: str
    waiting: int | None
    workers: int
    stream: str | None = None
    trouble: str = ""


class ReadFrom(NamedTuple):
    """The place from which a partition is read on.

    Attributes:
        offset: The offset of the next record.
        topic_id: Kafka's id of the topic; None if it is unknown.
    """

    offset: int
    topic_id: str | None


class Extent(NamedTuple):
    """What the log of one partition holds.

    Attributes:
        topic_id: Kafka's id of the topic; None if it is unknown.
        start: The offset of its oldest record; greater than 0 where older ones were deleted.
        end: The offset of the next record to be written.
    """

    topic_id: str | None
    start: int
    end: int


class StreamFacts(NamedTuple):
    """What is known of the topics of a stream.

    Attributes:
        topics: Kafka's names of the topics that exist.
        partitions: How many partitions they have together.
        lag: Records in the log that were not read yet, some seconds ago.
        trouble: Why topics cannot be read, in words; empty if they can.
    """

    topics: tuple[str, ...] = ()
    partitions: int = 0
    lag: int = 0
    trouble: str = ""


class BatchFacts(NamedTuple):
    """What is known of messages without reading each.

    Attributes:
        ends: For each of their partitions the offset behind the last one.
        size: Bytes of their values and headers.
    """

    ends: Mapping[Where, int]
    size: int
