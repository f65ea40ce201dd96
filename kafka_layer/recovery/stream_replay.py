"""The records of one stream that a channel missed, and whether all of them are there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from ..exceptions import UnreadableRecord
from ..wire.places import lane_of
from ..wire.position_token import StreamPosition, TopicPosition
from ..wire.records import Record
from ..wire.topics import StreamTopic, Where
from .kept_stream import KeptStream
from .log_replay import LogReplay
from .recent import Key
from .replay import NotRecovered, missed_stream_parts
from .stream_log import UNREADABLE

__all__ = ["StreamReplay"]


class StreamReplay(LogReplay):
    """The part of a recovery in one stream.

    Args:
        kept: The stream.
        covered: The part of the position for the stream; None if it has none, because the stream
            reached none of its groups and users.

    Attributes:
        kept: As given.
        known: The addresses that the position covers.
        asks_registry: Whether ``decoded`` may wait for a schema registry.
    """

    def __init__(self, kept: KeptStream, covered: StreamPosition | None) -> None:
        super().__init__(kept.log)
        self.kept = kept
        self.known: Sequence[Key] = ()
        self.asks_registry = kept.stream.asks_registry
        self._covered = covered
        self._ends = kept.log.ends

    def covers(self, keys: Iterable[Key]) -> bool:
        """Tell whether records for these addresses may be replayed."""
        return self._covered is not None and any(map(self.kept.concerns, keys))

    def fix(self) -> None:
        """Fix the end of the replay; call it before reading the channel's present position."""
        self._ends = self.kept.log.ends

    def begin(self, keys: Collection[Key], joined: Iterable[Key], present: StreamPosition) -> None:
        """Determine the parts of the log with missed records.

        Args:
            keys: The addresses of the position that reach the channel.
            joined: All addresses that reach it.
            present: The channel's present position in the stream.

        Raises:
            NotRecovered: If the position is in other topics, or has no offsets for the stream.
        """
        covered = self._covered
        if covered is not None:
            self.known = [key for key in keys if self.kept.concerns(key)]
        if covered is not None and self.known:
            self._parts = missed_stream_parts(covered, self.known, self._ends)
        if present.topics is not None:
            new = [key for key in joined if self.kept.concerns(key) and key not in self.known]
            self._new_parts = missed_stream_parts(present, new, self._ends)
        self._require_same_topics()

    def records(self) -> list[list[Record]]:
        """Return the missed records of each partition, in order.

        Raises:
            NotRecovered: If records are missing, or the receivers of a record are not known.
        """
        found: dict[Where, dict[int, Record]] = {}
        for key, where, first, end in self.all_parts:
            records = self.kept.log.find(where, key, first, end)
            if records is None:
                # The server does not keep so many records.
                raise NotRecovered("limit")
            if self.kept.log.find(where, UNREADABLE, first, end):
                raise NotRecovered("undecodable")
            # A record may have several of the addresses.
            found.setdefault(where, {}).update((record[6], record) for record in records)
        return [[of_one[offset] for offset in sorted(of_one)] for of_one in found.values()]

    def decoded(self, record: Record) -> dict[str, Any] | None:
        """Return the message of a record; None if live readers did not get it either.

        Raises:
            NotRecovered: If it cannot be decoded, and the stream stops there.
            RegistryAway: If a schema registry is needed, and does not answer.
        """
        payload = self.kept.stream.payload(record[:7])
        try:
            payload.decode()
        except UnreadableRecord:
            if self.kept.stream.stops_at_errors:
                raise NotRecovered("undecodable") from None
            return None
        return payload.open()

    def _epoch(self, where: Where, offset: int) -> int:
        return self.kept.log.epochs.at(where, offset, self._ends.get(where, 0))

    def _place_in(self, topic: object) -> TopicPosition | None:
        topics = None if self._covered is None else self._covered.topics
        if topics is None or not isinstance(topic, StreamTopic):
            return None
        return topics.get(lane_of(topic))
