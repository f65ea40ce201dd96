"""How far a tracked channel has come in one log: the layer's, or a stream's. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from ..delivery.mailbox import Envelope
from ..wire.places import lane_of
from ..wire.position_token import StreamPosition, TopicPosition, short_hash
from ..wire.records import Record, offset_of
from ..wire.topics import StreamTopic, Topic, Where
from .epochs import UNKNOWN, LeaderEpochs
from .kept_stream import KeptStream
from .read_through import KeptLog
from .recent import Key, Loss
from .replay import EVERYBODY, counts_of_streams, partitions_of

__all__ = ["LogPart", "Progress", "Vector", "covers", "highest", "is_of_log", "place_of"]

Vector = Mapping[Where, int]
"""An offset for each partition; replaced, never changed."""

_SEND_CONN = Topic.SEND_CONN


class LogIdentity(NamedTuple):
    """Identifies the log of a position. A log that has lost its end is another log.

    Attributes:
        topic_ids: The ids of its topics; empty before the reader has reported its positions.
        epochs: The leader epochs of its records.
    """

    topic_ids: Mapping[Any, str | None]
    epochs: LeaderEpochs


class LogPart(NamedTuple):
    """The part of a position in one log.

    Attributes:
        progress: The channel's progress in the log.
        vector: The position.
        since: The position from which each address reaches the channel.
        identity: The log at that position.
    """

    progress: Progress
    vector: Vector
    since: Mapping[Key, Vector]
    identity: LogIdentity

    def topics(self, counts: Mapping[Any, int]) -> dict[Any, TopicPosition]:
        """Return the position in each topic, given the number of partitions of each."""
        identity, ends = self.identity, self.progress.log.ends
        topics = {}
        for topic, count in counts.items():
            wheres = [(topic, number) for number in range(count)]
            offsets = tuple(self.vector.get(where, 0) for where in wheres)
            epochs = tuple(
                identity.epochs.at(where, offset - 1, ends.get(where, 0))
                for where, offset in zip(wheres, offsets, strict=True)
            )
            if max(epochs, default=UNKNOWN) == UNKNOWN:
                epochs = ()
            topics[topic] = TopicPosition(identity.topic_ids.get(topic), offsets, epochs)
        return topics

    def starts(self, keys: Iterable[Key]) -> dict[Key, dict[Where, int]]:
        """Return the first offsets of addresses that begin after the position, by partition."""
        found = {}
        ends = self.progress.log.ends
        for key in keys:
            later = {}
            for where in self.progress.partitions(key, ends) if key in self.since else ():
                at = self.since[key].get(where, 0)
                if at > self.vector.get(where, 0):
                    later[where] = at
            if later:
                found[key] = later
        return found

    def of_stream(self, keys: Collection[Key]) -> StreamPosition:
        """Return the position in the topics of the stream."""
        stream = self.progress.stream
        if stream is None or not stream.is_begun:
            return StreamPosition(None)
        counts = counts_of_streams(self.progress.log.ends)
        starts = {}
        for (kind, name), later in self.starts(filter(stream.concerns, keys)).items():
            starts[kind, short_hash(name)] = {
                lane_of(topic): tuple(later.get((topic, number), 0) for number in range(count))
                for topic, count in counts.items()
            }
        topics = {lane_of(topic): place for topic, place in self.topics(counts).items()}
        return StreamPosition(topics, starts)


class Progress:
    """How far one channel has come in one log. The channel's lock guards it.

    Args:
        log: The kept records of the log.
        stream: The stream whose log it is; None for the layer's own.

    Attributes:
        log: As given.
        stream: As given.
        identity: The log of the position.
        since: By address: the position from which it reaches the channel; the channel's beginning
            if there is no entry.
        start: Stands for ``Envelope.before`` in messages that have none: before those that were
            routed before the channel was tracked, or its stream kept; later as ``live_from``.
        begun: The position at which the channel began.
        live_from: The same, or the position at which the channel became LIVE again.
        overlap: The position up to which the reader may bring messages a second time; empty if it
            does not.
        read: The position up to which the channel has read, while it is not LIVE.
        lost: How records were lost, so that it cannot continue; None while none are lost.
        last: The message that was taken last, if several logs fill the mailbox.
        handed_over: By partition, if several logs fill the mailbox: the offset after the last
            message that was handed over.
        replayed: By replayed address: the position up to which it was replayed.
        recovered: The replayed addresses that the given position covered.
    """

    __slots__ = (
        "begun",
        "handed_over",
        "identity",
        "last",
        "live_from",
        "log",
        "lost",
        "overlap",
        "read",
        "recovered",
        "replayed",
        "since",
        "start",
        "stream",
    )

    def __init__(self, log: KeptLog, stream: KeptStream | None = None) -> None:
        self.log = log
        self.stream = stream
        self.since: dict[Key, Vector] = {}
        self.start: Vector = {}
        self.begun: Vector = {}
        self.live_from: Vector = {}
        self.overlap: Vector = {}
        self.read: Vector = {}
        self.lost: Loss | None = None
        self.last: Envelope | None = None
        self.handed_over: dict[Where, int] = {}
        self.replayed: dict[Key, Vector] = {}
        self.recovered: frozenset[Key] = frozenset()
        self.identity = self.present()

    def present(self) -> LogIdentity:
        """Return the log as it is now."""
        return LogIdentity(self.log.topic_ids, self.log.epochs)

    def owns(self, where: Where) -> bool:
        """Tell whether a partition is of this log."""
        topic = where[0]
        if self.stream is None:
            return not isinstance(topic, StreamTopic)
        return isinstance(topic, StreamTopic) and topic.stream == self.stream.name

    def partitions(self, key: Key, ends: Vector) -> list[Where]:
        """Return the partitions in which records of an address may lie.

        Args:
            key: The address.
            ends: For each partition of the log the offset behind its last record.
        """
        if self.stream is not None:
            return list(ends) if self.stream.concerns(key) else []
        topic = key[0]
        count = max((number for each, number in ends if each is topic), default=-1) + 1
        return [(topic, number) for number in partitions_of(key, 1, count)]

    def find(
        self, key: Key, where: Where, first: int, end: int, most: int | None = None
    ) -> list[Any] | None:
        """Return the kept records of an address in a part of a partition; see ``Tails.find``."""
        if self.stream is not None:
            return self.log.find(where, key, first, end, most)
        name = None if key == EVERYBODY else key[1].encode()
        return self.log.find(where, name, first, end, most)

    def find_next(
        self, keys: Collection[Key], ends: Vector, most: int
    ) -> tuple[dict[Where, list[Record]], dict[Where, int] | None]:
        """Return the records to read next, of each partition.

        Args:
            keys: The addresses that reach the channel.
            ends: For each partition the offset after its last record.
            most: The number of records of a partition that are enough.

        Returns:
            At least ``most`` records of each partition, if there are as many, and the position up
            to which they are complete; None for the position if some are not kept any more.
        """
        found: dict[Where, list[Record]] = {}
        until = dict(ends)
        for key in keys:
            since = self.since.get(key, {})
            for where in self.partitions(key, ends):
                first = max(self.read.get(where, 0), since.get(where, 0))
                records = self.find(key, where, first, ends.get(where, 0), most)
                if records is None:
                    return {}, None
                if len(records) == most:
                    # The key may have more, and records of other keys may be after those.
                    until[where] = min(until[where], records[-1][6] + 1)
                if records:
                    found.setdefault(where, []).extend(records)
        return {
            where: sorted(_once(records, until[where]), key=offset_of)
            for where, records in found.items()
        }, until

    def join(self, key: Key) -> None:
        """Note that an address reaches the channel from now on."""
        self.since[key] = highest(self.log.routed, self.replayed.get(key, {}))

    def begin(self, taken_or_waiting: Iterable[Envelope]) -> None:
        """Begin the position before the first message that is not handed over."""
        start = dict(self.log.routed)
        for envelope in taken_or_waiting:
            where, offset = place_of(envelope)
            start[where] = min(start.get(where, offset), offset)
        self.start, self.identity = start, self.present()

    def before(self, envelope: Envelope) -> Vector:
        """Return the position before a message of this log."""
        return self.start if envelope.before is None else envelope.before

    def behind(self, envelope: Envelope) -> dict[Where, int]:
        """Return the position right after a message of this log."""
        where, offset = place_of(envelope)
        return highest(self.before(envelope), self.live_from, {where: offset + 1})

    def behind_last(self) -> Callable[[], Vector]:
        """Return a function that returns the position after the last message that was taken."""
        last, start, live_from = self.last, self.start, self.live_from
        if last is None or last.before is None:
            handed_over = dict(self.handed_over)
            return lambda: highest(start, live_from, handed_over)
        where, offset = place_of(last)
        before = self.before(last)
        return lambda: highest(before, live_from, {where: offset + 1})

    def reach(self, routed: Vector) -> None:
        """Note that the channel has all messages that were routed up to here."""
        if self.overlap and covers(routed, self.overlap):
            self.overlap, self.live_from = {}, {}
            self.replayed, self.recovered = {}, frozenset()

    def forget(self, wheres: Collection[Where]) -> None:
        """Forget from where addresses reach the channel in partitions that have another log now."""
        self.since = {key: _without(wheres, at) for key, at in self.since.items()}
        self.replayed = {key: _without(wheres, at) for key, at in self.replayed.items()}
        self.overlap = _without(wheres, self.overlap)

    def go_live(self, ends: Vector) -> None:
        """Note that the channel has all records that were read."""
        # Every other position is before the end, or in another log.
        self.live_from, self.start, self.identity = ends, ends, self.present()
        self.overlap = highest(self.overlap, ends)
        self.lost, self.last = None, None
        self.handed_over = {}


def place_of(envelope: Envelope) -> tuple[Where, int]:
    """Return the partition and the offset of a message of the log."""
    topic: Any = envelope.topic
    return (topic, envelope.partition), envelope.offset


def is_of_log(envelope: Envelope) -> bool:
    """Tell whether a message can be read from a log again."""
    return envelope.topic is not None and envelope.topic is not _SEND_CONN


def highest(*vectors: Vector) -> dict[Where, int]:
    """Return the highest offset of each partition."""
    found = dict(vectors[0])
    for vector in vectors[1:]:
        for where, offset in vector.items():
            if offset > found.get(where, 0):
                found[where] = offset
    return found


def _once(records: Iterable[Record], end: int) -> Iterable[Record]:
    """Return the records before an offset, each once, even if it has several addresses."""
    return {record[6]: record for record in records if record[6] < end}.values()


def _without(wheres: Collection[Where], vector: Vector) -> Vector:
    return {where: offset for where, offset in vector.items() if where not in wheres}


def covers(vector: Vector, other: Vector) -> bool:
    """Tell whether a position is in no partition before another one."""
    return all(vector.get(where, 0) >= offset for where, offset in other.items())
