"""Many records of one partition, by column. Pure.

Most of the records that a replay has to read are never asked for, so a record is made when it is.
Nor does Python's garbage collector look at them: a list of theirs would be looked through again and
again, but arrays are not, and a tuple of bytes is once.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from .records import Record
from .topics import Where

__all__ = ["RECORD_BYTES", "Columns", "RecordBlock", "size_of_headers"]

RECORD_BYTES = 300
"""Bytes of a record beside its value and its headers, roughly."""


class Columns(NamedTuple):
    """Some records of one partition in their order, one at least.

    Attributes:
        offsets: Their offsets.
        keys: Their raw keys; a tuple, as all of these that are no numbers.
        values: Their raw values.
        headers: Their Kafka headers; None, or none, for a record without.
        times: Their timestamps, in seconds since the epoch.
        epochs: The leader epochs of the first and of the last one; None where one is unknown.
    """

    offsets: Sequence[int]
    keys: tuple[bytes | None, ...]
    values: tuple[bytes | None, ...]
    headers: tuple[Any, ...]
    times: array[float]
    epochs: tuple[int | None, int | None] = (None, None)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Columns:
        """Return the columns of some records."""
        _, keys, values, headers, times, _, offsets = zip(*records, strict=True)
        return cls(array("q", offsets), keys, values, headers, array("d", times))


class RecordBlock:
    """Consecutive records of one partition; one at least.

    Its index is made by the first ``find``: who reads very many records makes others wait. One
    thread at a time may call its methods.

    Args:
        where: The partition.
        columns: The records.

    Attributes:
        end: The offset behind the last one.
        epochs: The offset and the leader epoch of some of them; nothing is known of the others.
        youngest: The timestamp of the last one.
        size: Their bytes, roughly.
    """

    __slots__ = ("_columns", "_count", "_index", "_where", "end", "epochs", "size", "youngest")

    def __init__(self, where: Where, columns: Sequence[Columns]) -> None:
        self._where = where
        self._columns = columns
        self._index: _Index | None = None
        self._count = sum(len(each.offsets) for each in columns)
        self.end = columns[-1].offsets[-1] + 1
        self.youngest = columns[-1].times[-1]
        self.epochs = [
            (each.offsets[row], epoch)
            for each in columns
            for row, epoch in zip((0, -1), each.epochs, strict=True)
            if epoch is not None
        ]
        self.size = RECORD_BYTES * self._count + sum(
            sum(map(len, filter(None, each.values)))
            + sum(map(size_of_headers, filter(None, each.headers)))
            for each in columns
        )

    @classmethod
    def of(cls, records: Sequence[Record]) -> RecordBlock:
        """Return the block of some records of one partition."""
        return cls((records[0][0], records[0][5]), [Columns.of(records)])

    def __len__(self) -> int:
        return self._count

    def before(self, offset: int) -> RecordBlock | None:
        """Return the records before an offset; None if there are none."""
        if offset >= self.end:
            return self
        records = self.find(None, 0, offset)
        return RecordBlock.of(records) if records else None

    def find(self, key: bytes | None, first: int, end: int) -> list[Record]:
        """Return the records of a key from one offset to before another.

        Args:
            key: The key; None for records of any.
            first: The first offset.
            end: The offset behind the last one.
        """
        index = self._index
        if index is None:
            index = self._index = _Index(self._columns)
            self._columns = ()
        topic, partition = self._where
        of: Any = topic
        return [
            (
                of,
                index.keys[row],
                index.values[row],
                index.headers[row] or (),
                index.times[row],
                partition,
                index.offsets[row],
            )
            for row in index.rows(key, first, end)
        ]


class _Index:
    """Columns of records, and the rows of each key.

    Attributes:
        offsets: As those of ``Columns``.
        keys: The same.
        values: The same.
        headers: The same.
        times: The same.
    """

    __slots__ = ("_before", "_last", "headers", "keys", "offsets", "times", "values")

    def __init__(self, columns: Sequence[Columns]) -> None:
        joined = chain.from_iterable
        self.offsets = array("q", joined(each.offsets for each in columns))
        self.keys = tuple(joined(each.keys for each in columns))
        self.values = tuple(joined(each.values for each in columns))
        self.headers = tuple(joined(each.headers for each in columns))
        self.times = array("d", b"".join(each.times.tobytes() for each in columns))
        # The last row of each key; and for each row the one before it with its key, -1 without one.
        self._last: dict[bytes | None, int] = {}
        before, last = [], self._last
        for row, key in enumerate(self.keys):
            before.append(last.get(key, -1))
            last[key] = row
        self._before = array("i", before)

    def rows(self, key: bytes | None, first: int, end: int) -> Sequence[int]:
        """Return the rows that ``RecordBlock.find`` finds."""
        offsets = self.offsets
        if key is None:
            return range(bisect_left(offsets, first), bisect_left(offsets, end))
        rows = []
        row = self._last.get(key, -1)
        while row >= 0 and offsets[row] >= first:
            if offsets[row] < end:
                rows.append(row)
            row = self._before[row]
        rows.reverse()
        return rows


def size_of_headers(headers: Iterable[tuple[str, bytes | None]]) -> int:
    """Return the bytes of headers: a message may exclude very many channels."""
    return sum(len(name) + len(value or b"") for name, value in headers)
