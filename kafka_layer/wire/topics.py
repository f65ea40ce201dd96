"""The topics of a layer, and Kafka's names of them."""

from __future__ import annotations

import enum
import hashlib
import re
from typing import NamedTuple

__all__ = [
    "BROADCAST_TOPICS",
    "CONTROL_TOPICS",
    "INBOX_TOPICS",
    "AnyTopic",
    "StreamTopic",
    "Topic",
    "Where",
    "WorkTopic",
    "kind_of",
    "topic_ids_differ",
    "topic_name",
]


class Topic(str, enum.Enum):
    """The fixed topics of a layer, by their names after the prefix."""

    # The one of Enum is Python code, and each record is looked up by its topic several times.
    __hash__ = str.__hash__

    SEND_GROUP = "send-group"
    SEND_USER = "send-user"
    SEND_ALL = "send-all"
    SEND_CONN = "send-conn"
    GROUP_MGMT = "group-mgmt"
    ACK = "ack"


BROADCAST_TOPICS = (Topic.SEND_GROUP, Topic.SEND_USER, Topic.SEND_ALL)
"""Every server reads all partitions of these."""

INBOX_TOPICS = (Topic.SEND_CONN, Topic.GROUP_MGMT, Topic.ACK)
"""Each server reads only its inbox partition of these."""

CONTROL_TOPICS = (Topic.GROUP_MGMT, Topic.ACK)
"""The inbox topics that carry commands and their answers, and no messages of the application."""


class WorkTopic(NamedTuple):
    """The topic of a worker channel: a work queue of which each message has one receiver."""

    channel: str

    @property
    def value(self) -> str:
        """The topic's name after the prefix.

        Kafka refuses topic names that differ in ``.`` and ``_`` only, and names over 249
        characters. So ``-`` becomes ``--`` and ``_`` becomes ``-u``, and a name that is too long
        ends in ``-h`` and a hash: every legal channel name has a legal topic name of its own.
        """
        escaped = self.channel.replace("-", "--").replace("_", "-u")
        if len(escaped) > _LONGEST_WORK_NAME:
            digest = hashlib.sha256(self.channel.encode()).hexdigest()[:32]
            escaped = f"{escaped[: _LONGEST_WORK_NAME - 34].rstrip('-')}-h{digest}"
        return f"work.{escaped}"

    @classmethod
    def parse(cls, value: str) -> WorkTopic | None:
        """Return the topic with this ``value``; None where a hash hides the channel's name."""
        kind, _, escaped = value.partition(".")
        channel = _ESCAPED.sub(lambda found: "_" if found[0] == "-u" else "-", escaped)
        return cls(channel) if kind == "work" and cls(channel).value == value else None


_ESCAPED = re.compile("-[-u]")

# With the longest prefix (100) and "-work." (6) within Kafka's 249.
_LONGEST_WORK_NAME = 140


class StreamTopic(NamedTuple):
    """A topic that is not the layer's own; a stream of the settings reads it or writes to it.

    Attributes:
        stream: The stream's name in the settings.
        name: Kafka's name of the topic.
    """

    stream: str
    name: str

    @property
    def value(self) -> str:
        """The topic's name as Kafka has it: no prefix belongs before it."""
        return self.name


AnyTopic = Topic | WorkTopic | StreamTopic
"""A topic of any kind."""


_KINDS = {
    Topic.SEND_GROUP: "group",
    Topic.SEND_USER: "user",
    Topic.SEND_ALL: "all",
    Topic.SEND_CONN: "channel",
    Topic.GROUP_MGMT: "command",
    Topic.ACK: "command",
}


def kind_of(topic: AnyTopic) -> str:
    """Return the kind under which the records of a topic are counted."""
    if isinstance(topic, Topic):
        return _KINDS[topic]
    return "job" if isinstance(topic, WorkTopic) else "stream"


Where = tuple[Topic | StreamTopic, int]
"""A partition of which servers read all that is written: its topic and its number."""


def topic_ids_differ(one: str | None, other: str | None) -> bool:
    """Tell whether two of Kafka's ids of a topic are of two topics; None is an unknown id."""
    return None not in (one, other) and one != other


def topic_name(prefix: str, topic: AnyTopic) -> str:
    """Return the Kafka name of a topic; that of a stream has no prefix."""
    return topic.name if isinstance(topic, StreamTopic) else f"{prefix}-{topic.value}"
