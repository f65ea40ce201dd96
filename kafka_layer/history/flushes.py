"""Finds the time of the last flush, from the records on ``send-all``; knows no Kafka."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..transport import Extent
from ..wire.records import Record
from ..wire.topics import Topic, Where
from .scan import MAX_RECORDS, Budget, Cursor, read_back

__all__ = ["Flushes"]


@dataclass
class _Known:
    """The part of one partition whose flushes are known.

    Attributes:
        topic_id: The id of its topic.
        first: Its first offset.
        end: The offset after its last record.
        reached: The timestamp of its first record; infinite before a record was read.
    """

    topic_id: str | None
    first: int
    end: int
    reached: float = float("inf")


class Flushes:
    """Knows the flushes in a part of the log, which grows with each query; one thread at a time.

    Args:
        is_flush: Tells whether a record is a flush.

    Attributes:
        latest: When the last known flush was written, in seconds of the broker's clock.
    """

    def __init__(self, is_flush: Callable[[Record], bool]) -> None:
        self.latest = float("-inf")
        self._is_flush = is_flush
        self._known: dict[Where, _Known] = {}

    def learn(self, budget: Budget, extents: Mapping[Where, Extent], since: float) -> bool:
        """Read the flushes that are not known yet.

        Args:
            budget: Limits the reading.
            extents: The extents of the log; topics other than ``send-all`` are skipped.
            since: The time of the broker's clock from which flushes matter.

        Returns:
            Whether all of them are known now.
        """
        return all(
            self._learn(budget, where, extent, since)
            for where, extent in extents.items()
            if where[0] is Topic.SEND_ALL
        )

    def _learn(self, budget: Budget, where: Where, extent: Extent, since: float) -> bool:
        known = self._known.get(where)
        if (
            known is None
            or known.topic_id != extent.topic_id
            or not known.end <= extent.end < known.end + MAX_RECORDS
        ):
            known = _Known(extent.topic_id, extent.end, extent.end)
        # Kept again only when it is complete, because it must not have a gap.
        self._known.pop(where, None)
        newer = Cursor(where, max(known.end, extent.start), extent.end)
        if not self._read(budget, newer, known):
            return False
        known.end = extent.end
        self._known[where] = known
        if known.reached < since or known.first <= extent.start:
            return True
        older = Cursor(where, extent.start, known.first)
        whole = self._read(budget, older, known, since)
        known.first = older.end
        return whole

    def _read(
        self, budget: Budget, cursor: Cursor, known: _Known, since: float = float("-inf")
    ) -> bool:
        whole = read_back(budget, [cursor], self._is_flush, since=since)
        if cursor.reached is not None:
            known.reached = min(known.reached, cursor.reached)
        for record in cursor.found:
            self.latest = max(self.latest, record[4])
        return whole
