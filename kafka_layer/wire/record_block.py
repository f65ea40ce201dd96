"""Many records of one partition, by column: few objects for Python's garbage collector. Pure.

A record of its own is six objects and a place in the collector's lists. Most of the records that a
replay has to read are never asked for, so a record is made when it is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from .records import Record
from .topics import Topic

__all__ = ["RECORD_BYTES", "Columns", "RecordBlock", "size_of_headers"]

T = TypeVar("T")

RECORD_BYTES = 300
"""Bytes of a record beside its value and its headers, roughly."""


class Columns(NamedTuple):
    """Some records of one partition in their order, one at least.

    Attributes:
        offsets: Their offsets.
        keys: Their raw keys.
        values: Their raw values.
        headers: Their Kafka headers; None, or none, for a record without.
        times: Their timestamps, in seconds since the epoch.
        epochs: The leader epochs of the first and of the last one; None where one is unknown.
    """

    offsets: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Any]
    times: Sequence[float]
    epochs: tuple[int | None, int | None] = (None, None)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Columns:
        """Return the columns of some records."""
        _, keys, values, headers, times, _, offsets = zip(*records, strict=True)
        return cls(offsets, keys, values, headers, times)


class RecordBlock:
    """Consecutive records of one partition; one at least, and never changed.

    Args:
        where: The partition.
        columns: The records.

    Attributes:
        offsets: Their offsets.
        epochs: The offset and the leader epoch of some of them; nothing is known of the others.
        youngest: The timestamp of the last one.
        size: Their bytes, roughly.
    """

    __slots__ = (
        "_before",
        "_headers",
        "_keys",
        "_last",
        "_times",
        "_values",
        "_where",
        "epochs",
        "offsets",
        "size",
        "youngest",
    )

    def __init__(self, where: tuple[Topic, int], columns: Sequence[Columns]) -> None:
        self._where = where
        self.offsets = _joined(each.offsets for each in columns)
        self._keys = _joined(each.keys for each in columns)
        self._values = _joined(each.values for each in columns)
        self._headers = _joined(each.headers for each in columns)
        self._times = _joined(each.times for each in columns)
        self.epochs = [
            (each.offsets[row], epoch)
            for each in columns
            for row, epoch in zip((0, -1), each.epochs, strict=True)
            if epoch is not None
        ]
        self.youngest = self._times[-1]
        self.size = (
            RECORD_BYTES * len(self.offsets)
            + sum(map(len, filter(None, self._values)))
            + sum(map(size_of_headers, filter(None, self._headers)))
        )
        # The last row of each key, and for each row the one before it with its key, -1 without one.
        # A list for each key would be an object for the collector again.
        self._last: dict[bytes | None, int] = {}
        self._before: list[int] = []
        last, before = self._last, self._before
        for row, key in enumerate(self._keys):
            before.append(last.get(key, -1))
            last[key] = row

    @classmethod
    def of(cls, records: Sequence[Record]) -> RecordBlock:
        """Return the block of some records of one partition."""
        return cls((records[0][0], records[0][5]), [Columns.of(records)])

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def end(self) -> int:
        """The offset behind the last record."""
        return self.offsets[-1] + 1

    def before(self, offset: int) -> RecordBlock | None:
        """Return the records before an offset; None if there are none."""
        if offset >= self.end:
            return self
        rows = bisect_left(self.offsets, offset)
        if not rows:
            return None
        return RecordBlock.of(list(map(self._record, range(rows))))

    def find(self, key: bytes | None, first: int, end: int) -> list[Record]:
        """Return the records of a key from one offset to before another.

        Args:
            key: The key; None for records of any.
            first: The first offset.
            end: The offset behind the last one.
        """
        offsets = self.offsets
        if key is None:
            rows = range(bisect_left(offsets, first), bisect_left(offsets, end))
            return list(map(self._record, rows))
        found = []
        row = self._last.get(key, -1)
        while row >= 0 and offsets[row] >= first:
            if offsets[row] < end:
                found.append(self._record(row))
            row = self._before[row]
        found.reverse()
        return found

    def _record(self, row: int) -> Record:
        topic, partition = self._where
        return (
            topic,
            self._keys[row],
            self._values[row],
            self._headers[row] or (),
            self._times[row],
            partition,
            self.offsets[row],
        )


def _joined(parts: Iterable[Iterable[T]]) -> list[T]:
    return list(chain.from_iterable(parts))


def size_of_headers(headers: Iterable[tuple[str, bytes | None]]) -> int:
    """Return the bytes of headers: a message may exclude very many channels."""
    return sum(len(name) + len(value or b"") for name, value in headers)
