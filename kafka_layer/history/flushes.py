"""When everything was last flushed, as the records on ``send-all`` say; knows no Kafka."""

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
        end: The offset behind its last one.
        reached: The timestamp of its first record; infinite before one was read.
    """

    topic_id: str | None
    first: int
    end: int
    reached: float = float("inf")


class Flushes:
    """Knows the flushes of a part of the log that grows as it is asked; for one thread at a time.

    Args:
        is_flush: Tells the records that are flushes.

    Attributes:
        latest: When the last known one was written, by the broker's clock in seconds.
    """

    def __init__(self, is_flush: Callable[[Record], bool]) -> None:
        self.latest = float("-inf")
        self._is_flush = is_flush
        self._known: dict[Where, _Known] = {}

    def learn(self, budget: Budget, extents: Mapping[Where, Extent], since: float) -> bool:
        """Read the flushes that are not known yet.

        Args:
            budget: What may be read.
            extents: What the log holds; other topics are skipped.
            since: The time of the broker from which the flushes matter.

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
        # Kept once it is whole: a part with a hole in it is not known.
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
