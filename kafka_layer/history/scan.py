"""Reads some partitions of the log backwards or forwards, within limits; knows no Kafka.

A partition is read in chunks, each larger than the last one, because few of its records may be
wanted. With several partitions the next chunk is always of the one that is furthest behind by the
broker's timestamps, so that records are found in the order in which they are returned.
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
"""Limit of the records that one query reads."""

MAX_BYTES = 32 * 1024 * 1024
"""Limit of the bytes of values that one query reads; the last chunk may exceed it."""

_FIRST_CHUNK = 100
_LARGEST_CHUNK = 2000
# Limit of the bytes of a chunk, estimated by the size of earlier records.
_CHUNK_BYTES = 4 * 1024 * 1024


class Budget:
    """Limits the reading of one query.

    Args:
        past: Reads the records; its deadline is one of the limits.
        answered: Whether a broker has returned records for this query before.
        records: Most records to read; None: ``MAX_RECORDS``.
        size: Most bytes of values to read; None: ``MAX_BYTES``.
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
        """Read a part of a cursor's partition; None if a limit is reached.

        Raises:
            BrokerUnavailable: If no broker answers.
            TopicError: If the topic may not be read.
            TimeoutError: If the deadline came before any answer to this query.
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
        """Return the number of records to read next from a partition."""
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
        end: The offset after the last one that is not read yet.
        cut: Whether wanted records before ``first`` may have been deleted.
        reached: The timestamp of the record that was read last; None before the first.
        found: The wanted records, in the order of the log.
        chunks: The number of chunks that were read.
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
    """Return the found records of all cursors by timestamp, each partition in its order."""
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
        budget: Limits the reading.
        cursors: The partitions; they collect the found records.
        is_wanted: Tells whether a record is wanted.
        limit: Most records to find; None: all.
        since: A partition is done at a record that is older than this time of the broker's clock.

    Returns:
        Whether that was reached within the budget. ``cut`` of a cursor tells whether the log has
        deleted records of the partition.
    """
    while (cursor := _next(cursors, limit, back=True)) is not None:
        first = max(cursor.first, cursor.end - budget.chunk(cursor))
        read = budget.read(cursor, first, cursor.end)
        if read is None:
            return False
        start, records = read
        cursor.end = first
        if start > first:
            # Records were deleted since the query began.
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
    """Read partitions from their starts, until ``limit`` wanted records are found.

    Args and result as for ``read_back``. ``first`` of a cursor is the end of what was read.
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
    """Return the partition that is furthest behind; None if all is read, or enough is found.

    ``limit`` records are enough if they are not later than the time that this partition has
    reached: then no unread record is before them.
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
    """Return the end of the returned records after ``read_on``, by the partition's number.

    Args:
        cursors: The partitions.
        untold: Records that were found and are not returned.
    """
    offsets = {cursor.where[1]: cursor.first for cursor in cursors}
    for _, _, _, _, _, partition, offset in untold:
        offsets[partition] = min(offsets[partition], offset)
    return offsets
