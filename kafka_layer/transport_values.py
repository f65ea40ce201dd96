"""The values that every server gets from its backplane, and the error of a full queue.

``transport.py`` has the protocols, which only type checking needs, and the values for features.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["Backlog", "Health", "QueueFull", "ReadFrom"]


class QueueFull(Exception):
    """The backplane's queue of records to be written is full."""


class Health(NamedTuple):
    """The health of a backplane.

    Attributes:
        connected: Whether a broker can be reached, as far as is known.
        doubtful: Whether to ask a broker now: a client reached none, and no client has got an
            answer since.
        queued: Records that wait for an acknowledgement.
        lag: Records in the log that were not read yet, a few seconds ago.
        addressable: Whether records for this server alone can reach it; False, and for good, when
            its inbox partition is gone.
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
    """The backlog of a worker channel.

    Attributes:
        channel: The channel's name.
        waiting: Records that no worker has taken yet; None if it is unknown, or the group has not
            begun.
        workers: The number of members that share them now.
        stream: The stream whose records they are; None if the channel has a topic of its own.
        trouble: Why ``waiting`` is unknown, as text; empty otherwise.
    """

    channel: str
    waiting: int | None
    workers: int
    stream: str | None = None
    trouble: str = ""


class ReadFrom(NamedTuple):
    """The place from which a partition is read.

    Attributes:
        offset: The offset of the next record.
        topic_id: Kafka's id of the topic; None if it is unknown.
    """

    offset: int
    topic_id: str | None
