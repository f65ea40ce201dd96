"""The parts of partitions that were read last, kept for the questions that follow. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..wire.records import Record, offset_of
from ..wire.topics import Where

__all__ = ["ReadParts"]

_MAX_BYTES = 8 * 1024 * 1024
# Bytes of a record beside its value, roughly.
_RECORD_BYTES = 300

Read = Callable[[int, int], tuple[int, Sequence[Record]]]
"""Reads the records from an offset to before another one; returns the first offset that the log
still holds, and the records."""


@dataclass
class _Part:
    """A part of one partition, without holes.

    Attributes:
        first: Its first offset.
        end: The offset behind its last one.
        records: Its records; offsets may be missing, such as those of transactions.
        size: Its size in bytes, roughly.
    """

    first: int
    end: int
    records: list[Record]
    size: int


class ReadParts:
    """Keeps one part of each partition, and reads missing records; for one thread.

    The records of a log never change. So a part stays valid until the topic is created again or its
    end is cut off; the owner forgets it then.
    """

    def __init__(self) -> None:
        self._parts: dict[Where, _Part] = {}

    def forget(self, end: Callable[[Where], int | None]) -> None:
        """Forget parts that lie beyond the end of their log.

        Args:
            end: Returns the end of a partition; None if it is not known.
        """
        for where, part in tuple(self._parts.items()):
            known = end(where)
            if known is not None and known < part.end:
                del self._parts[where]

    def clear(self) -> None:
        """Forget all."""
        self._parts.clear()

    def read(self, where: Where, first: int, end: int, read: Read) -> tuple[int, Sequence[Record]]:
        """Return the records of a part of a partition.

        Args:
            where: The partition.
            first: The first offset.
            end: The offset behind the last one.
            read: Reads records that are not kept.

        Returns:
            As ``read``.
        """
        part = self._parts.get(where)
        if part is None or end < part.first or first > part.end:
            return self._keep(where, first, end, *read(first, end))
        if first < part.first:
            start, older = read(first, part.first)
            part.first = min(start, part.first)
            part.records[:0] = older
            part.size += _size(older)
        if end > part.end:
            start, newer = read(part.end, end)
            if start > part.end:
                # The log has lost its records up to there, and those of the part.
                return self._keep(where, first, end, start, newer)
            part.end = end
            part.records += newer
            part.size += _size(newer)
        low = bisect_left(part.records, first, key=offset_of)
        found = part.records[low : bisect_left(part.records, end, key=offset_of)]
        self._bound()
        return max(first, part.first), found

    def _keep(
        self, where: Where, first: int, end: int, start: int, records: Sequence[Record]
    ) -> tuple[int, Sequence[Record]]:
        self._parts[where] = _Part(start, end, list(records), _size(records))
        self._bound()
        return max(first, start), records

    def _bound(self) -> None:
        if sum(part.size for part in self._parts.values()) > _MAX_BYTES:
            self._parts.clear()


def _size(records: Sequence[Record]) -> int:
    return sum(len(record[2] or b"") + _RECORD_BYTES for record in records)
