"""The leader epochs of records, which show that a log has lost its end. Pure.

Kafka increases the epoch of a partition with each new leader. Two records with the same offset and
the same leader epoch are the same record, and so are all records before them. If a log lost its end
and was continued, the lost offsets have other records, with a later epoch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..config.threads import RLock
from ..wire.topics import Where

__all__ = ["UNKNOWN", "LeaderEpochs"]

UNKNOWN = -1
"""Stands for a leader epoch that is not known."""

_Span = tuple[int, int, int]

# Limit of the epochs of one partition; the latest ones are kept.
_MOST = 20


class LeaderEpochs:
    """The known leader epochs of one log of each partition.

    Epochs grow with the offsets. So if two records have the same epoch, all records between them
    have it. The reading thread calls ``read``, ``end`` and ``without``; any thread calls the rest.
    """

    def __init__(self) -> None:
        # The epochs of each partition, with the lowest and the highest known offset of each.
        # Replaced, never changed.
        self._spans: dict[Where, tuple[_Span, ...]] = {}
        # The epoch of the record that was read last, and of further ones until read() is called.
        self._reading: dict[Where, int] = {}
        # Re-entrant: a signal handler may interrupt the holder and ask for a position.
        self._lock = RLock()

    def at(self, where: Where, offset: int, end: int) -> int:
        """Return the epoch of a record; ``UNKNOWN`` if it is not known.

        Args:
            where: The partition.
            offset: The record's offset.
            end: The offset after the last record that was read.
        """
        reading = self._reading.get(where)
        for epoch, lowest, highest in self._spans.get(where, ()):
            if lowest <= offset <= (max(highest, end - 1) if epoch == reading else highest):
                return epoch
        return UNKNOWN

    def read(self, where: Where, offset: int, epoch: int) -> None:
        """Note that the next record has another epoch than the record before it.

        Args:
            where: The partition.
            offset: The record's offset.
            epoch: Its epoch.
        """
        before = self._reading.get(where)
        if before is not None:
            self.note(where, offset - 1, before)
        self.note(where, offset, epoch)
        self._reading[where] = epoch

    def note(self, where: Where, offset: int, epoch: int) -> None:
        """Note the epoch of a record."""
        with self._lock:
            spans = {each[0]: each for each in self._spans.get(where, ())}
            _, lowest, highest = spans.get(epoch, (epoch, offset, offset))
            spans[epoch] = epoch, min(lowest, offset), max(highest, offset)
            self._spans[where] = tuple(sorted(spans.values())[-_MOST:])

    def end(self, ends: Mapping[Where, int]) -> None:
        """Note that no more records are read.

        Args:
            ends: For each partition the offset after the last record that was read.
        """
        for where, epoch in self._reading.items():
            self.note(where, ends.get(where, 0) - 1, epoch)
        self._reading = {}

    def without(self, lost: Collection[Where]) -> LeaderEpochs:
        """Return a copy without the partitions that lost records, whose logs are new ones."""
        others = LeaderEpochs()
        with self._lock:
            spans = dict(self._spans)
        others._spans = {each: at for each, at in spans.items() if each not in lost}
        others._reading = {each: at for each, at in self._reading.items() if each not in lost}
        return others
