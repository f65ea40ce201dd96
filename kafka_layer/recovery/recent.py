"""The youngest records of the topics that all servers read, for replays. Pure.

Hot path: while a channel is tracked, ``append`` gets every record that the server reads.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from ..config.threads import RLock
from ..transport import ReadFrom
from ..wire.record_block import RECORD_BYTES, RecordBlock, size_of_headers
from ..wire.records import Record, offset_of
from ..wire.topics import StreamTopic, Topic, Where, topic_ids_differ
from .epochs import LeaderEpochs

__all__ = ["TELLING", "Key", "Loss", "RecentLog"]

Key = tuple[Topic, str]
"""An address: ``SEND_GROUP`` and a group, ``SEND_USER`` and a user, or that of everybody."""


Loss = Literal["truncated", "epoch"]
"""How a partition lost records that were not read."""

TELLING = 2000
"""So many records tell how large the others are."""

# Records of a key that were dropped and still lie in its list, before the list is cut.
_MOST_DROPPED = 64

_SEND_ALL, _SEND_CONN = Topic.SEND_ALL, Topic.SEND_CONN


class _Run:
    """The records of one key in one partition, in its order; those before ``head`` are dropped."""

    __slots__ = ("head", "records")

    def __init__(self) -> None:
        self.head = 0
        self.records: list[Record] = []


class _Tail:
    """The kept part of one partition, without holes: all records from offset ``begin`` on.

    ``runs`` has what was appended, by key; ``older`` what lies before that.
    """

    __slots__ = ("begin", "older", "runs")

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.older: deque[RecordBlock] = deque()
        self.runs: dict[bytes | None, _Run] = {}


class RecentLog:
    """Keeps the tail of each partition, bounded in bytes and in time, by the key of its records.

    The thread that reads appends a batch before it routes it, and notes afterwards that it is
    routed. So a record below ``ends`` is found here, one below ``routed`` is in the mailboxes, and
    ``routed`` never exceeds ``ends``. Any thread may look; the thread that reads the past adds what
    lies before.

    Args:
        most_bytes: Bytes that it keeps, roughly. What is prepended may exceed them until the next
            record is appended, and goes first, a block at a time.
        seconds: How old a record may be, by the timestamps of the broker.

    Attributes:
        ends: For each partition the offset behind its last record. Replaced, never changed.
        routed: For each partition the offset behind its last routed record. Replaced, never
            changed.
        topic_ids: Kafka's ids of the topics that are read; None where one is unknown. Replaced,
            never changed.
        epochs: What is known of the records' leader epochs. Where the log lost records, another
            object takes its place, and the old one stays right for the log before.
        size: Bytes that are kept, roughly.
    """

    def __init__(self, most_bytes: int, seconds: float) -> None:
        self.ends: Mapping[Where, int] = {}
        self.routed: Mapping[Where, int] = {}
        self.topic_ids: Mapping[Topic | StreamTopic, str | None] = {}
        self.epochs = LeaderEpochs()
        self.size = 0
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._tails: dict[Where, _Tail] = {}
        # All kept records that were appended; those of one partition are in its order.
        self._order: deque[Record] = deque()
        # How many blocks lie before them.
        self._older = 0
        # Re-entrant: a signal handler may interrupt the holder and ask.
        self._lock = RLock()
        # Of the batch that is being routed: its records, how many of them ``before`` passed, and
        # the ends there.
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
                    run = tail.runs[run_key] = _Run()
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
                self._bound(order[-1][4] - self._seconds)

    def before(self, record: Record) -> Mapping[Where, int]:
        """Return the ends before a record of the last batch; the reading thread.

        Args:
            record: Not before the one of the last call.
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
        """Note from where partitions are read on; the reading thread, between two batches.

        Args:
            positions: The next offset of each partition that is read.

        Returns:
            The partitions of which records were lost, and how: ``truncated``, or ``epoch`` where
            the topic was made anew or lost its end. What was kept of these is dropped.
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
            self.ends = self.routed = ends
            self.topic_ids = ids
        return lost

    def prepend(self, where: Where, first: int, end: int, blocks: Iterable[RecordBlock]) -> None:
        """Add what lies before the kept records of a partition.

        It is ignored if records were dropped since, so that others would be missing between.

        Args:
            where: The partition.
            first: An offset.
            end: The offset from which records were kept a moment ago.
            blocks: All records between.
        """
        with self._lock:
            tail = self._tails.get(where)
            if tail is None or not first < tail.begin <= end:
                return
            older = [block for each in blocks if (block := each.before(tail.begin))]
            tail.older.extendleft(reversed(older))
            tail.begin = first
            self._older += len(older)
            self.size += sum(block.size for block in older)

    @property
    def room(self) -> int:
        """For how many records before the kept ones there is room, as far as these tell."""
        with self._lock:
            older = sum(len(block) for tail in self._tails.values() for block in tail.older)
            kept, left = len(self._order) + older, max(0, self._most_bytes - self.size)
            if kept < TELLING:
                return min(TELLING, left // RECORD_BYTES)
            return left * kept // self.size

    def begin(self, where: Where) -> int:
        """Return the offset from which a partition is kept; 0 for one that is not read."""
        tail = self._tails.get(where)
        return 0 if tail is None else tail.begin

    def find(
        self, where: Where, key: bytes | None, first: int, end: int, most: int | None = None
    ) -> list[Record] | None:
        """Return the records of a key in a part of a partition.

        Args:
            where: The partition.
            key: The records' key; None for all of ``send-all``.
            first: The first offset.
            end: The offset behind the last one; not beyond ``ends``.
            most: How many of the first ones to return at most; None for all.

        Returns:
            The records; None if the part is not kept from its beginning.
        """
        with self._lock:
            tail = self._tails.get(where)
            if first >= end:
                return []
            if tail is None or first < tail.begin:
                return None
            found = []
            for block in tail.older:
                found += block.find(key, first, end)
            run = tail.runs.get(key)
            if run is not None:
                records = run.records
                low = bisect_left(records, first, run.head, key=offset_of)
                high = bisect_left(records, end, low, key=offset_of)
                found += records[low : high if most is None else min(high, low + most)]
            return found if most is None else found[:most]

    def clear(self) -> None:
        """Forget all records."""
        with self._lock:
            self._tails.clear()
            self._order.clear()
            self.ends = self.routed = {}
            self.size = self._older = 0

    def _begin(self, where: Where, offset: int) -> _Tail:
        former = self._tails.get(where)
        if former is not None:
            while former.older:
                self._drop_block(former)
            kept: list[Record] = []
            for record in self._order:
                if (record[0], record[5]) == where:
                    self.size -= _size(record)
                else:
                    kept.append(record)
            self._order = deque(kept)
        tail = self._tails[where] = _Tail(offset)
        return tail

    def _bound(self, oldest: float) -> None:
        while self._older:
            older = [tail for tail in self._tails.values() if tail.older]
            tail = min(older, key=lambda tail: tail.older[0].youngest)
            if self.size <= self._most_bytes and tail.older[0].youngest >= oldest:
                # What was appended is younger.
                return
            self._drop_block(tail)
        order = self._order
        while order and (self.size > self._most_bytes or order[0][4] < oldest):
            record = order.popleft()
            self.size -= _size(record)
            topic, key, _, _, _, partition, offset = record
            key = None if topic is _SEND_ALL else key
            tail = self._tails[topic, partition]
            tail.begin = offset + 1
            run = tail.runs[key]
            run.head += 1
            if run.head == len(run.records):
                del tail.runs[key]
            elif run.head > _MOST_DROPPED and run.head > len(run.records) // 2:
                del run.records[: run.head]
                run.head = 0

    def _drop_block(self, tail: _Tail) -> None:
        block = tail.older.popleft()
        tail.begin = block.end
        self._older -= 1
        self.size -= block.size


def _size(record: Record) -> int:
    headers = record[3]
    return RECORD_BYTES + len(record[2] or b"") + (size_of_headers(headers) if headers else 0)
