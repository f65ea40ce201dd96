"""The positions of records, which sends return with ``await_produce``."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Position", "SelfTimedPosition"]


class Position(NamedTuple):
    """The place of a record in the log.

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

    The topic has ``message.timestamp.type=CreateTime``, or the broker reports no time. It must not
    set a clock that follows the broker's.
    """

    __slots__ = ()
