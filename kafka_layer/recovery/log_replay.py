"""Whether all that a channel missed of one log is there."""

from __future__ import annotations

from collections.abc import Sequence

from ..wire.position_token import TopicPosition
from ..wire.topics import Where, topic_ids_differ
from .epochs import UNKNOWN
from .read_through import Extents, KeptLog
from .replay import NotRecovered, Part

__all__ = ["LogReplay"]


class LogReplay:
    """The part of a recovery that is of one log; a subclass finds its parts and its records.

    Args:
        log: What is kept of the log.
    """

    def __init__(self, log: KeptLog) -> None:
        self._log = log
        # Where records lie that were missed.
        self._parts: Sequence[Part] = ()
        # Of the addresses that are new to the channel: what waits in the mailbox.
        self._new_parts: Sequence[Part] = ()
        self._compared = False

    @property
    def all_parts(self) -> list[Part]:
        """Where all records lie that are replayed."""
        return [*self._parts, *self._new_parts]

    @property
    def is_ahead(self) -> bool:
        """Whether the position lies beyond what this server has read."""
        return not self._compared and any(part.first > part.end for part in self._parts)

    def missing(self) -> dict[Where, int]:
        """Return from where partitions have to be read, whose recent records begin later."""
        missing: dict[Where, int] = {}
        for _, where, first, end in self._parts:
            if first < end and first < self._log.begin(where):
                missing[where] = min(first, missing.get(where, first))
        return missing

    def unknown_epochs(self) -> dict[Where, int]:
        """Return the records whose leader epoch has to be asked for, once."""
        if self._compared:
            return {}
        return {
            where: offset
            for where, (offset, _) in self._last_told().items()
            if self._epoch(where, offset) == UNKNOWN
        }

    def compare(self, extents: Extents) -> None:
        """Compare the position with what the log holds.

        Raises:
            NotRecovered: If the log does not hold what was missed, or another topic is there.
        """
        self._compared = True
        for _, where, first, end in self._parts:
            extent, place = extents.get(where), self._place_in(where[0])
            if extent is None:
                raise NotRecovered("epoch")
            if place is not None and topic_ids_differ(place.topic_id, extent.topic_id):
                raise NotRecovered("epoch")
            # What is shared may have been asked for before this server read on.
            if first > max(extent.end, end):
                raise NotRecovered("future")
            if first < end and first < extent.start:
                raise NotRecovered("truncated")

    def compare_epochs(self) -> None:
        """Compare the last records that the position knows with those that are there.

        Where the log holds none of them any more, the epoch stays unknown and says nothing.

        Raises:
            NotRecovered: If the log lost its end since, and other records took its place.
        """
        for where, (offset, epoch) in self._last_told().items():
            if self._epoch(where, offset) not in (UNKNOWN, epoch):
                raise NotRecovered("epoch")

    def _require_same_topics(self) -> None:
        """Require that the server reads the topics of the position, and not others in their place.

        Raises:
            NotRecovered: If it reads another one.
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
        """Return the position in a topic; None if it has none, because the topic is newer."""
        raise NotImplementedError

    def _epoch(self, where: Where, offset: int) -> int:
        """Return the leader epoch of a record."""
        raise NotImplementedError
