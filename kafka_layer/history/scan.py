"""Reads some partitions of the log backwards or forwards, within bounds; knows no Kafka.

A partition is read in chunks, each larger than the one before, because few of its records may be
wanted. Of several partitions that one comes next which is the furthest behind by the broker's time,
so that the records are found in the order in which they are told.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..transport import Past
from ..wire.records import Record, written_at
from ..wire.topics import Where

__all__ = [
    "MAX_BYTES",
    "MAX_RECORDS",
    "Budget",
    "Cursor",
    "in_order",
    "read_back",
    "read_on",
    "told_until",
]

MAX_RECORDS = 10_000
"""How many records one question reads."""

MAX_BYTES = 32 * 1024 * 1024
"""How many bytes of values one question reads; the last chunk may exceed it."""

_FIRST_CHUNK = 100
_LARGEST_CHUNK = 2000
# Bytes of a chunk, as far as the records before tell their size.
_CHUNK_BYTES = 4 * 1024 * 1024


class Budget:
    """What one question may still read.

    Args:
        past: Reads the records; its deadline is one of the bounds.
        answered: Whether a broker gave records for this question before.
        records: How many records may be read; as many as for one history where it is None.
        size: How many bytes of values; as many as for one history where it is None.
    """

    def __init__(
        self,
        past: Past,
        answered: bool = False,
        records: int | None = None,
        size: int | None = None,
    ) -> None:
        self._past = past
        self._answered = answered
        self._max_records = self._records = MAX_RECORDS if records is None else records
        self._max_bytes = self._bytes = MAX_BYTES if size is None else size

    def read(self, cursor: Cursor, first: int, end: int) -> tuple[int, Sequence[Record]] | None:
        """Read a part of a cursor's partition; None if nothing more may be read.

        Raises:
            BrokerUnavailable: If no broker answers.
            TopicError: If the topic may not be read.
            TimeoutError: If the deadline came before the first answer of all.
        """
        if self._records <= 0 or self._bytes <= 0:
            return None
        try:
            start, records = self._past.read(cursor.where, first, end)
        except TimeoutError:
            if not self._answered:
                raise
            return None
        self._answered = True
        self._records -= end - first
        self._bytes -= sum(len(record[2] or b"") for record in records)
        return start, records

    def chunk(self, cursor: Cursor) -> int:
        """Return how many records to read next of a partition."""
        largest = max(_LARGEST_CHUNK, self._max_records // 100)
        size = min(_FIRST_CHUNK << 2 * cursor.chunks, largest, self._records)
        cursor.chunks += 1
        read, large = self._max_records - self._records, self._max_bytes - self._bytes
        if large:
            size = min(size, _CHUNK_BYTES * read // large)
        return max(1, size)


@dataclass
class Cursor:
    """The scan of one partition.

    Attributes:
        where: The partition.
        first: The first offset that is not read yet.
        end: The offset behind the last one that is not read yet.
        cut: Whether the log no longer holds records before ``first`` that were asked for.
        reached: The timestamp of the record that was read last; None before the first.
        found: The wanted records, in the order of the log.
        chunks: How many chunks were read.
    """

    where: Where
    first: int
    end: int
    cut: bool = False
    reached: float | None = None
    found: list[Record] = field(default_factory=list)
    chunks: int = 0

    @property
    def done(self) -> bool:
        """Whether the partition is read."""
        return self.first >= self.end


def in_order(cursors: Sequence[Cursor]) -> Iterator[Record]:
    """Return the found records of all cursors by the broker's time, each partition in its order."""
    return heapq.merge(*(cursor.found for cursor in cursors), key=written_at)


def read_back(
    budget: Budget,
    cursors: Sequence[Cursor],
    is_wanted: Callable[[Record], bool],
    limit: int | None = None,
    since: float = float("-inf"),
) -> bool:
    """Read partitions from their ends, until ``limit`` wanted records are found.

    Args:
        budget: What may be read.
        cursors: The partitions; gather what is found.
        is_wanted: Tells which records are wanted.
        limit: How many of the last ones are wanted; None for all.
        since: Where a record is older than this time of the broker, none before it is wanted.

    Returns:
        Whether it got so far; False if the budget was spent before. What the log no longer holds is
        told by the cursors' ``cut``.
    """
    while (cursor := _next(cursors, limit, back=True)) is not None:
        first = max(cursor.first, cursor.end - budget.chunk(cursor))
        read = budget.read(cursor, first, cursor.end)
        if read is None:
            return False
        start, records = read
        cursor.end = first
        if start > first:
            # Deleted since the question began.
            cursor.first, cursor.cut = cursor.end, True
        if records:
            cursor.reached = records[0][4]
            if cursor.reached < since:
                cursor.first, cursor.cut = cursor.end, False
        cursor.found[:0] = filter(is_wanted, records)
    return True


def read_on(
    budget: Budget,
    cursors: Sequence[Cursor],
    is_wanted: Callable[[Record], bool],
    limit: int,
) -> bool:
    """Read partitions on from their starts, until ``limit`` wanted records are found.

    Args and result as for ``read_back``. The cursors' ``first`` tells how far each was read.
    """
    while (cursor := _next(cursors, limit, back=False)) is not None:
        end = min(cursor.end, cursor.first + budget.chunk(cursor))
        read = budget.read(cursor, cursor.first, end)
        if read is None:
            return False
        start, records = read
        if start > cursor.first:
            cursor.cut = True
        cursor.first = max(end, start)
        if records:
            cursor.reached = records[-1][4]
        cursor.found += filter(is_wanted, records)
    return True


def _next(cursors: Sequence[Cursor], limit: int | None, *, back: bool) -> Cursor | None:
    """Return the partition that was read least far; None if all is read, or enough is found.

    Enough are ``limit`` records up to the time that this partition has reached: no record that is
    not read yet comes before them.
    """
    onward = -1 if back else 1

    def place(cursor: Cursor) -> float:
        return float("-inf") if cursor.reached is None else onward * cursor.reached

    cursor = min((each for each in cursors if not each.done), key=place, default=None)
    if cursor is None or cursor.reached is None or limit is None:
        return cursor
    reached = place(cursor)
    found = sum(onward * record[4] <= reached for each in cursors for record in each.found)
    return None if found >= limit else cursor


def told_until(cursors: Sequence[Cursor], untold: Iterable[Record]) -> dict[int, int]:
    """Return how far each partition was told after ``read_on``, by its number.

    Args:
        cursors: The partitions.
        untold: Records that were found and not told.
    """
    offsets = {cursor.where[1]: cursor.first for cursor in cursors}
    for _, _, _, _, _, partition, offset in untold:
        offsets[partition] = min(offsets[partition], offset)
    return offsets
