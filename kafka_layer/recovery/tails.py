"""The most recent records of partitions, by key: the common base of two logs. Pure.

The logs are those of ``recent.py`` and ``stream_log.py``. Hot path: while a channel is tracked and
the limit is reached, each record that is added drops an earlier one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import Any, Generic, TypeVar

from ..config.threads import RLock
from ..wire.record_block import RECORD_BYTES, size_of_headers
from ..wire.records import offset_of
from ..wire.topics import Where

__all__ = ["TELLING", "Run", "Tail", "Tails", "size_of"]

K = TypeVar("K")

TELLING = 2000
"""From this many records on, their average size is an estimate of the size of others."""

# Dropped records that may stay in the list of a key before the list is cut.
_MOST_DROPPED = 64


class Run:
    """The records of one key in one partition, in order; those before ``head`` are dropped."""

    __slots__ = ("head", "records")

    def __init__(self) -> None:
        self.head = 0
        self.records: list[Any] = []


class Tail(Generic[K]):
    """The kept end of one partition, without gaps: all records from offset ``begin`` on."""

    __slots__ = ("begin", "runs")

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.runs: dict[K, Run] = {}

    def drop_first(self, key: K) -> None:
        """Forget the first record of a key; hot path."""
        run = self.runs[key]
        run.head += 1
        if run.head == len(run.records):
            del self.runs[key]
        elif run.head > _MOST_DROPPED and run.head > len(run.records) // 2:
            del run.records[: run.head]
            run.head = 0


class Tails(Generic[K]):
    """Keeps the tail of each partition, bounded in bytes, by the keys of its records.

    Any thread may call any method; a subclass adds what is read.

    Args:
        most_bytes: Limit in bytes, roughly. Records that are prepended may exceed it until the next
            record is added.

    Attributes:
        size: Bytes of the kept records, roughly.
    """

    def __init__(self, most_bytes: int) -> None:
        self.size = 0
        self._most_bytes = most_bytes
        self._tails: dict[Where, Tail[K]] = {}
        # All kept records; those of one partition are in the order of their offsets.
        self._order: deque[Any] = deque()
        # Re-entrant: a signal handler may interrupt the holder and ask.
        self._lock = RLock()

    @property
    def room(self) -> int:
        """How many older records may be prepended: an estimate by the size of the kept ones."""
        with self._lock:
            kept, left = self._count(), max(0, self._most_bytes - self.size)
            if kept < TELLING:
                return min(TELLING, left // RECORD_BYTES)
            return left * kept // self.size

    def begin(self, where: Where) -> int:
        """Return the offset from which a partition is kept; 0 if the partition is not read."""
        tail = self._tails.get(where)
        return 0 if tail is None else tail.begin

    def find(
        self, where: Where, key: K, first: int, end: int, most: int | None = None
    ) -> list[Any] | None:
        """Return the records of a key in a part of a partition.

        Args:
            where: The partition.
            key: The records' key.
            first: The first offset.
            end: The offset after the last one; at most the end of what was read.
            most: Limit of the returned records, from the first one on; None: no limit.

        Returns:
            The records; None if the beginning of the part is not kept.
        """
        with self._lock:
            tail = self._tails.get(where)
            if first >= end:
                return []
            if tail is None or first < tail.begin:
                return None
            run = tail.runs.get(key)
            if run is None:
                return []
            records = run.records
            low = bisect_left(records, first, run.head, key=offset_of)
            high = bisect_left(records, end, low, key=offset_of)
            return records[low : high if most is None else min(high, low + most)]

    def _count(self) -> int:
        """Return how many records are kept."""
        return len(self._order)

    def _begin(self, where: Where, offset: int) -> Tail[K]:
        """Keep a partition from an offset on, and drop all its kept records."""
        if where in self._tails:
            kept: deque[Any] = deque()
            for record in self._order:
                if (record[0], record[5]) == where:
                    self.size -= size_of(record)
                else:
                    kept.append(record)
            self._order = kept
        tail = self._tails[where] = Tail(offset)
        return tail


def size_of(record: Any) -> int:
    """Return the bytes of a record, roughly."""
    headers = record[3]
    return RECORD_BYTES + len(record[2] or b"") + (size_of_headers(headers) if headers else 0)
