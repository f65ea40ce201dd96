"""The most recent records of the topics that all servers read, for replays. Pure.

Hot path: while a channel is tracked, ``append`` gets every record that the server reads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from ..transport import ReadFrom
from ..wire.record_block import RECORD_BYTES, RecordBlock, size_of_headers
from ..wire.records import Record
from ..wire.topics import StreamTopic, Topic, Where, topic_ids_differ
from .epochs import LeaderEpochs
from .tails import Run, Tail, Tails

__all__ = ["Key", "Loss", "RecentLog", "until_told"]

Key = tuple[Topic, str]
"""An address: ``SEND_GROUP`` and a group, ``SEND_USER`` and a user, or that of everybody."""


Loss = Literal["truncated", "epoch"]
"""How a partition lost records that were not read."""

_SEND_ALL, _SEND_CONN = Topic.SEND_ALL, Topic.SEND_CONN


def until_told(
    ends: Mapping[Where, int], lost: Collection[Where], routed: Mapping[Where, int]
) -> dict[Where, int]:
    """Return up to where records count as routed until the channels are told of a loss.

    Args:
        ends: From where the partitions are read now.
        lost: Those that lost records.
        routed: Up to where records were routed before.
    """
    return {**ends, **{each: min(ends[each], routed.get(each, ends[each])) for each in lost}}


class RecentLog(Tails[bytes | None]):
    """Keeps the tail of each partition, bounded in bytes and in time, by the key of its records.

    The reading thread appends a batch, then routes it, then notes that it is routed. So a record
    below ``ends`` is found here, a record below ``routed`` is in the mailboxes, and ``routed``
    never exceeds ``ends``. Any thread may read the log. The thread that reads the past prepends
    older records in blocks, which are dropped first.

    Args:
        most_bytes: As for ``Tails``.
        seconds: How old a record may be, by the timestamps of the broker.

    Attributes:
        ends: For each partition the offset after its last record. Replaced, never changed.
        routed: For each partition the offset after its last routed record. Replaced, never changed.
        topic_ids: Kafka's ids of the topics that are read; None if an id is unknown. Replaced,
            never changed.
        epochs: The known leader epochs of records. When the log lost records, another object
            replaces it; the old one stays valid for the log before the loss.
    """

    def __init__(self, most_bytes: int, seconds: float) -> None:
        super().__init__(most_bytes)
        self.ends: Mapping[Where, int] = {}
        self.routed: Mapping[Where, int] = {}
        self.topic_ids: Mapping[Topic | StreamTopic, str | None] = {}
        self.epochs = LeaderEpochs()
        self._seconds = seconds
        # By partition: the blocks before the appended records; only partitions that have some.
        self._older: dict[Where, deque[RecordBlock]] = {}
        # The records of the batch that is being routed, the number of those that before() has
        # passed, and the ends at that place.
        self._batch: Sequence[Record] = ()
        self._passed = 0
        self._reached: dict[Where, int] = {}

    def append(self, records: Sequence[Record]) -> None:
        """Add records that were read and are not routed yet; the reading thread."""
        with self._lock:
            ends = dict(self.ends)
            tails, order, size = self._tails, self._order, 0
            for record in records:
                topic, key, value, headers, _, partition, offset = record
                if topic is _SEND_CONN:
                    continue
                where = topic, partition
                tail = tails.get(where)
                if tail is None or offset < ends[where]:
                    tail = self._begin(where, offset)
                    order = self._order
                run_key = None if topic is _SEND_ALL else key
                run = tail.runs.get(run_key)
                if run is None:
                    run = tail.runs[run_key] = Run()
                run.records.append(record)
                order.append(record)
                ends[where] = offset + 1
                size += RECORD_BYTES + (len(value) if value else 0)
                if headers:
                    size += size_of_headers(headers)
            self._batch, self._passed, self._reached = records, 0, dict(self.ends)
            self.ends = ends
            self.size += size
            if order:
                self._drop(order[-1][4] - self._seconds)

    def before(self, record: Record) -> Mapping[Where, int]:
        """Return the ends before a record of the last batch; called by the reading thread.

        Args:
            record: The record; not before that of the last call.
        """
        batch, reached, passed = self._batch, self._reached, self._passed
        while batch[passed] is not record:
            topic, _, _, _, _, partition, offset = batch[passed]
            if topic is not _SEND_CONN:
                reached[topic, partition] = offset + 1
            passed += 1
        self._passed = passed
        return dict(reached)

    def read_epoch(self, where: Where, offset: int, epoch: int) -> None:
        """Note that the leader epoch changes with a record that is appended next."""
        self.epochs.read(where, offset, epoch)

    def note_routed(self) -> None:
        """Note that all appended records are routed; the reading thread."""
        self.routed = self.ends

    def move(self, positions: Mapping[Where, ReadFrom]) -> dict[Where, Loss]:
        """Note the offsets from which partitions are read; the reading thread, between batches.

        Until ``note_routed``, ``routed`` stays before what was lost: the position of a channel
        that was not told of the loss yet must not be behind it.

        Args:
            positions: The next offset of each partition that is read.

        Returns:
            The partitions that lost records, and how: ``truncated``, or ``epoch`` if the topic was
            created again or lost its end. Their kept records are dropped.
        """
        lost: dict[Where, Loss] = {}
        with self._lock:
            ends, ids = dict(self.ends), dict(self.topic_ids)
            for where, (offset, topic_id) in positions.items():
                known, end = self.topic_ids.get(where[0]), ends.get(where)
                anew = topic_ids_differ(topic_id, known)
                if end is not None and (anew or offset != end):
                    lost[where] = "epoch" if anew or offset < end else "truncated"
                if end is None or where in lost:
                    self._begin(where, offset)
                ends[where] = offset
                ids[where[0]] = topic_id or known
            if lost:
                former, self.epochs = self.epochs, self.epochs.without(lost)
                former.end(self.ends)
            self.ends, self.routed = ends, until_told(ends, lost, self.routed)
            self.topic_ids = ids
        return lost

    def prepend(self, where: Where, first: int, end: int, blocks: Iterable[RecordBlock]) -> None:
        """Add the records before the kept ones of a partition.

        They are ignored if records were dropped meanwhile, because there would be a gap.

        Args:
            where: The partition.
            first: The first offset of the blocks.
            end: The offset from which records were kept a moment ago.
            blocks: All records between the two.
        """
        with self._lock:
            tail = self._tails.get(where)
            if tail is None or not first < tail.begin <= end:
                return
            older = [block for each in blocks if (block := each.before(tail.begin))]
            if older:
                self._older.setdefault(where, deque()).extendleft(reversed(older))
            tail.begin = first
            self.size += sum(block.size for block in older)

    def find(
        self, where: Where, key: bytes | None, first: int, end: int, most: int | None = None
    ) -> list[Record] | None:
        """Do what ``Tails.find`` does; the key None finds all records of ``send-all``."""
        with self._lock:
            found = super().find(where, key, first, end, most)
            if found is None or first >= end or where not in self._older:
                return found
            older = [each for block in self._older[where] for each in block.find(key, first, end)]
            return (older + found)[:most]

    def clear(self) -> None:
        """Forget all records."""
        with self._lock:
            self._tails.clear()
            self._order.clear()
            self._older.clear()
            self.ends = self.routed = {}
            self.size = 0

    def _count(self) -> int:
        older = sum(len(block) for blocks in self._older.values() for block in blocks)
        return super()._count() + older

    def _begin(self, where: Where, offset: int) -> Tail[bytes | None]:
        while where in self._older:
            self._drop_block(where)
        return super()._begin(where, offset)

    def _drop(self, oldest: float) -> None:
        """Drop records beyond the limit or older than a timestamp; the oldest ones first."""
        while self._older:
            where, blocks = min(self._older.items(), key=lambda each: each[1][0].youngest)
            if self.size <= self._most_bytes and blocks[0].youngest >= oldest:
                return
            self._drop_block(where)
        order, tails, size, most = self._order, self._tails, self.size, self._most_bytes
        while order and (size > most or order[0][4] < oldest):
            topic, key, value, headers, _, partition, offset = order.popleft()
            # size_of(), in place.
            size -= RECORD_BYTES + (len(value) if value else 0)
            if headers:
                size -= size_of_headers(headers)
            tail = tails[topic, partition]
            tail.begin = offset + 1
            tail.drop_first(None if topic is _SEND_ALL else key)
        self.size = size

    def _drop_block(self, where: Where) -> None:
        blocks = self._older[where]
        block = blocks.popleft()
        if not blocks:
            del self._older[where]
        self._tails[where].begin = block.end
        self.size -= block.size
