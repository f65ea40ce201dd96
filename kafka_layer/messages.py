"""What an application gets from the layer beside plain messages."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Position", "SelfTimedPosition"]


class Position(NamedTuple):
    """Where a record was written.

    Attributes:
        topic: Kafka's name of the topic.
        partition: Number of the partition.
        offset: The record's offset in it.
        timestamp: The broker's, in seconds since the epoch.
    """

    topic: str
    partition: int
    offset: int
    timestamp: float


class SelfTimedPosition(Position):
    """A position whose timestamp is this machine's time, not the broker's append time.

    The topic has ``message.timestamp.type=CreateTime``, or the broker reports no time. A clock that
    follows the broker's must not be set by it.
    """

    __slots__ = ()
