"""Checks whether all records that a channel missed are in one log."""

from __future__ import annotations

from collections.abc import Sequence

from ..wire.position_token import TopicPosition
from ..wire.topics import Where, topic_ids_differ
from .epochs import UNKNOWN
from .read_through import Extents, KeptLog
from .replay import NotRecovered, Part

__all__ = ["LogReplay"]


class LogReplay:
    """The part of a recovery in one log; a subclass finds the parts and the records.

    Args:
        log: The kept records of the log.
    """

    def __init__(self, log: KeptLog) -> None:
        self._log = log
        # The parts of the log with missed records.
        self._parts: Sequence[Part] = ()
        # For addresses that are new to the channel: the parts with the messages in the mailbox.
        self._new_parts: Sequence[Part] = ()
        self._compared = False

    @property
    def all_parts(self) -> list[Part]:
        """The parts of the log with the records that are replayed."""
        return [*self._parts, *self._new_parts]

    @property
    def is_ahead(self) -> bool:
        """Whether the position is after the end of what this server has read."""
        return not self._compared and any(part.first > part.end for part in self._parts)

    def missing(self) -> dict[Where, int]:
        """Return the first offsets to read, in partitions whose recent records begin too late."""
        missing: dict[Where, int] = {}
        for _, where, first, end in self._parts:
            if first < end and first < self._log.begin(where):
                missing[where] = min(first, missing.get(where, first))
        return missing

    def unknown_epochs(self) -> dict[Where, int]:
        """Return the records whose leader epoch is to be asked for; empty after ``compare``."""
        if self._compared:
            return {}
        return {
            where: offset
            for where, (offset, _) in self._last_told().items()
            if self._epoch(where, offset) == UNKNOWN
        }

    def compare(self, extents: Extents) -> None:
        """Compare the position with the extents of the log.

        Raises:
            NotRecovered: If the log does not hold all missed records, or the topic is another one.
        """
        self._compared = True
        for _, where, first, end in self._parts:
            extent, place = extents.get(where), self._place_in(where[0])
            if extent is None:
                raise NotRecovered("epoch")
            if place is not None and topic_ids_differ(place.topic_id, extent.topic_id):
                raise NotRecovered("epoch")
            # The extents may be shared, and older than what this server has read since.
            if first > max(extent.end, end):
                raise NotRecovered("future")
            if first < end and first < extent.start:
                raise NotRecovered("truncated")

    def compare_epochs(self) -> None:
        """Compare the epochs of the last records before the position with those of the log.

        If the log does not hold a record any more, its epoch stays unknown and is not compared.

        Raises:
            NotRecovered: If the log has lost its end, and has other records there.
        """
        for where, (offset, epoch) in self._last_told().items():
            if self._epoch(where, offset) not in (UNKNOWN, epoch):
                raise NotRecovered("epoch")

    def _require_same_topics(self) -> None:
        """Require that the server reads the same topics as the position.

        Raises:
            NotRecovered: If a topic was created again since.
        """
        ids = self._log.topic_ids
        for topic in {part.where[0] for part in self._parts}:
            place = self._place_in(topic)
            if place is not None and topic_ids_differ(place.topic_id, ids.get(topic)):
                raise NotRecovered("epoch")

    def _last_told(self) -> dict[Where, tuple[int, int]]:
        found = {}
        for where in {part.where for part in self._parts}:
            place = self._place_in(where[0])
            told = None if place is None else place.last_told(where[1])
            if told is not None:
                found[where] = told
        return found

    def _place_in(self, topic: object) -> TopicPosition | None:
        """Return the position in a topic; None if the topic is newer than the position."""
        raise NotImplementedError

    def _epoch(self, where: Where, offset: int) -> int:
        """Return the leader epoch of a record."""
        raise NotImplementedError
