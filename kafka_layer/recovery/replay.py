"""Determines the parts of the log with the records that a channel missed since a position. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..exceptions import Reason
from ..wire.headers import EXCLUDE, excluded, has_command
from ..wire.partitions import partitions_while_growing
from ..wire.places import lane_of
from ..wire.position_token import LogPosition, StreamPosition, short_hash
from ..wire.records import Record, offset_of, written_at
from ..wire.topics import BROADCAST_TOPICS, StreamTopic, Topic, Where
from .recent import Key

__all__ = [
    "EVERYBODY",
    "Key",
    "NotRecovered",
    "Part",
    "Reason",
    "counts_of",
    "counts_of_streams",
    "in_order",
    "is_command",
    "is_excluded",
    "missed_keys",
    "missed_parts",
    "missed_stream_parts",
    "partitions_of",
]

EVERYBODY: Key = (Topic.SEND_ALL, "")


class NotRecovered(Exception):
    """Not all missed messages can be replayed, or it is not known whether they can."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Part(NamedTuple):
    """A part of a partition in which records of one address may lie.

    Attributes:
        key: The address.
        where: The partition.
        first: The first offset that was not handed over.
        end: The offset after the last record that this server had read.
    """

    key: Key
    where: Where
    first: int
    end: int


def missed_keys(
    position: LogPosition, groups: Collection[str], users: Collection[str], hears_all: bool
) -> list[Key]:
    """Return the addresses of a position that reach a channel now.

    Args:
        position: The position.
        groups: The groups of the channel.
        users: Its users.
        hears_all: Whether messages to everybody reach it.

    Raises:
        NotRecovered: If the position is of other users.
    """
    keys = [
        (Topic.SEND_GROUP, group)
        for group in groups
        if position.groups and short_hash(group) in position.groups
    ]
    if position.users:
        if position.users != {short_hash(user) for user in users}:
            raise NotRecovered("user")
        keys += [(Topic.SEND_USER, user) for user in users]
    return [*keys, EVERYBODY] if hears_all else keys


def missed_parts(
    position: LogPosition, keys: Iterable[Key], ends: Mapping[Where, int]
) -> list[Part]:
    """Return the parts of the log with missed records.

    Args:
        position: The position.
        keys: The addresses.
        ends: For each partition the offset after the last record that was read.
    """
    counts = counts_of(ends)
    parts = []
    for key in keys:
        topic, name = key
        place, count = position.topics.get(topic), counts[topic]
        if place is None:
            continue
        hashed = short_hash(name)
        for number in partitions_of(key, len(place.offsets), count):
            # A partition that was added since is read from its beginning.
            first = place.offsets[number] if number < len(place.offsets) else 0
            first = max(first, position.starts.get((topic, hashed, number), 0))
            where = topic, number
            parts.append(Part(key, where, first, ends.get(where, 0)))
    return parts


def missed_stream_parts(
    position: StreamPosition, keys: Iterable[Key], ends: Mapping[Where, int]
) -> list[Part]:
    """Return the parts of a stream's log with missed records.

    Other programs write the records, so an address may have records in every partition. Topics that
    are not in the position are new: their parts begin at the beginning.

    Args:
        position: The position in the stream.
        keys: The addresses that the stream may reach.
        ends: For each partition the offset after the last record that was read.

    Raises:
        NotRecovered: If a topic of the position is not read any more, or the position has no
            offsets for the stream.
    """
    if position.topics is None:
        raise NotRecovered("unavailable")
    lanes = {topic: lane_of(topic) for topic in counts_of_streams(ends)}
    if not position.topics.keys() <= set(lanes.values()):
        raise NotRecovered("epoch")
    parts = []
    for where, end in ends.items():
        topic, number = where
        lane = lanes[topic] if isinstance(topic, StreamTopic) else ""
        first = position.offset(lane, number)
        for key in keys:
            start = position.start(key[0], short_hash(key[1]), lane, number)
            parts.append(Part(key, where, max(first, start), end))
    return parts


def counts_of_streams(ends: Iterable[Where]) -> dict[StreamTopic, int]:
    """Return the number of partitions that are read, by topic of the streams."""
    counts: dict[StreamTopic, int] = {}
    for topic, number in ends:
        if isinstance(topic, StreamTopic):
            counts[topic] = max(counts.get(topic, 0), number + 1)
    return counts


def counts_of(ends: Iterable[Where]) -> dict[Topic, int]:
    """Return the number of partitions that are read, by topic of the layer."""
    counts = dict.fromkeys(BROADCAST_TOPICS, 0)
    for topic, number in ends:
        if isinstance(topic, Topic):
            counts[topic] = max(counts[topic], number + 1)
    return counts


def partitions_of(key: Key, fewest: int, count: int) -> Sequence[int]:
    """Return the partitions that may have records of an address, if the topic has grown.

    Args:
        key: The address.
        fewest: The number of partitions that the topic had at first; at least 1 is assumed.
        count: The number of partitions that it has now.
    """
    topic, name = key
    if topic is Topic.SEND_ALL:
        return range(count)
    return partitions_while_growing(name, fewest, count)


def in_order(parts: Iterable[Sequence[Record]]) -> Iterator[Record]:
    """Return the records of several parts: by the broker's time, each partition in its order.

    Args:
        parts: Records in any order, each part of one partition; several may be of the same one.
    """
    by_partition: dict[Where, list[Record]] = {}
    for records in parts:
        if records:
            by_partition.setdefault((records[0][0], records[0][5]), []).extend(records)
    for merged in by_partition.values():
        merged.sort(key=offset_of)
    return heapq.merge(*by_partition.values(), key=written_at)


def is_command(record: Record) -> bool:
    """Tell whether a record is a command instead of a message."""
    return record[0] is Topic.SEND_ALL and has_command(record[3])


def is_excluded(record: Record, names: Collection[bytes]) -> bool:
    """Tell whether a message excludes a channel.

    Args:
        record: The message.
        names: The hashes of the channel's names.
    """
    headers = record[3]
    if isinstance(record[0], StreamTopic) or not any(name == EXCLUDE for name, _ in headers):
        return False
    return any(short_hash(name) in names for name in excluded(headers))
