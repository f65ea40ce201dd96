"""The leader epochs of records, by which a log that lost its end is told from the one before. Pure.

A record of one offset and one leader epoch is the same record in every log, and so is all before
it: Kafka counts the epoch of a partition up with each leader. Where a log lost its end and went on,
other records stand at these offsets, of a later epoch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..config.threads import RLock
from ..wire.topics import Where

__all__ = ["UNKNOWN", "LeaderEpochs"]

UNKNOWN = -1
"""The leader epoch of a record of which none is known."""

_Span = tuple[int, int, int]

# So many epochs of one partition are kept, the last ones.
_MOST = 20


class LeaderEpochs:
    """What is known of the leader epochs in one log of each partition.

    Epochs grow with the offsets. So where two records have one epoch, all between them have it. The
    thread that reads calls ``read``, ``end`` and ``without``; any thread calls the rest.
    """

    def __init__(self) -> None:
        # For each partition its epochs, with the lowest and the highest known offset; replaced,
        # never changed.
        self._spans: dict[Where, tuple[_Span, ...]] = {}
        # The epoch of the record that was read last, which is also that of the next ones until
        # ``read`` says otherwise.
        self._reading: dict[Where, int] = {}
        # Re-entrant: a signal handler may interrupt the holder and ask for a position.
        self._lock = RLock()

    def at(self, where: Where, offset: int, end: int) -> int:
        """Return the epoch of a record; ``UNKNOWN`` if it is not known.

        Args:
            where: The partition.
            offset: The record's offset.
            end: The offset behind the last record that was read.
        """
        reading = self._reading.get(where)
        for epoch, lowest, highest in self._spans.get(where, ()):
            if lowest <= offset <= (max(highest, end - 1) if epoch == reading else highest):
                return epoch
        return UNKNOWN

    def read(self, where: Where, offset: int, epoch: int) -> None:
        """Note that a record that is read next has another epoch than the one before it.

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
        """Note that no record is read any more.

        Args:
            ends: For each partition the offset behind the last record that was read.
        """
        for where, epoch in self._reading.items():
            self.note(where, ends.get(where, 0) - 1, epoch)
        self._reading = {}

    def without(self, lost: Collection[Where]) -> LeaderEpochs:
        """Return what is known of the other partitions; of these, another log is read."""
        others = LeaderEpochs()
        with self._lock:
            spans = dict(self._spans)
        others._spans = {each: at for each, at in spans.items() if each not in lost}
        others._reading = {each: at for each, at in self._reading.items() if each not in lost}
        return others
