"""The history of a stream: the records of its topics, as messages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..exceptions import UnreadableRecord
from ..messages import History, Message
from ..transport import Extent, Past
from ..wire.places import lane_of, mark_of, place_text
from ..wire.position_token import LogPosition, StreamPosition, TopicPosition
from ..wire.records import Record
from ..wire.topics import StreamTopic, Topic, Where, topic_ids_differ
from .scan import Budget, Cursor, in_order, read_back, read_on

__all__ = ["ReadStream", "StreamQuestion", "ends_of_stream"]


class ReadStream(Protocol):
    """A stream whose records are messages; see ``Followed``."""

    name: str

    def addresses(self, record: Record) -> Sequence[tuple[Topic, str]]:
        """Return the groups and users that a record is for."""

    def payload(self, record: Record) -> Any:
        """Return the payload of a record's message."""


@dataclass(frozen=True, eq=False)
class StreamQuestion:
    """A query for messages of a stream.

    Attributes:
        stream: The stream.
        address: The group or user of the messages; None: all messages.
        limit: Most messages to return.
        since: Where they begin: a position, or a time in seconds since the epoch, compared with the
            records' timestamps. None: the last messages.
        newest_first: Whether to return the newest message first, and the last ``limit`` messages.
        position: The present position of the address in the other logs.
    """

    stream: ReadStream
    address: tuple[Topic, str] | None
    limit: int
    since: LogPosition | float | None
    newest_first: bool
    position: LogPosition

    def carry_out(self, past: Past) -> Callable[[], History]:
        """Read the topics, in the backplane's thread; return a function that makes the history."""
        extents = past.extents(past.topics())
        if not self.limit:
            ends = {where: extent.end for where, extent in extents.items()}
            text = self._moved(extents, ends).sign()
            return lambda: History([], text, complete=True)
        cursors, is_whole = self._cursors(past, extents)
        since = self.since if isinstance(self.since, float) else float("-inf")
        if self.since is not None and not self.newest_first:
            whole = read_on(Budget(past), cursors, self._is_wanted, self.limit)
            found = list(in_order(cursors))
            records, untold = found[: self.limit], found[self.limit :]
            reached = {cursor.where: cursor.first for cursor in cursors}
            for record in untold:
                where = record[0], record[5]
                reached[where] = min(reached[where], record[6])
            complete = whole and is_whole and not any(cursor.cut for cursor in cursors)
        else:
            read_back(Budget(past), cursors, self._is_wanted, self.limit, since)
            records = list(in_order(cursors))[-self.limit :]
            reached = {where: extent.end for where, extent in extents.items()}
            complete = is_whole and (
                len(records) == self.limit
                or not any(cursor.cut or not cursor.done for cursor in cursors)
            )
        position = self._moved(extents, reached)
        return lambda: self._history(records, extents, position, complete)

    def _is_wanted(self, record: Record) -> bool:
        if isinstance(self.since, float) and record[4] < self.since:
            return False
        try:
            addresses = self.stream.addresses(record)
        except UnreadableRecord:
            return False
        return bool(addresses) if self.address is None else self.address in addresses

    def _cursors(self, past: Past, extents: Mapping[Where, Extent]) -> tuple[list[Cursor], bool]:
        """Return the scans of the partitions, and whether all topics of the position are there."""
        told = None
        if isinstance(self.since, LogPosition):
            told = self.since.streams.get(mark_of(self.stream.name))
        lanes = {lane_of(topic) for topic, _ in extents if isinstance(topic, StreamTopic)}
        is_whole = told is None or (told.topics is not None and told.topics.keys() <= lanes)
        cursors = []
        for where, extent in extents.items():
            cursor = Cursor(where, extent.start, extent.end, cut=extent.start > 0)
            if told is not None and told.topics is not None and isinstance(where[0], StreamTopic):
                lane = lane_of(where[0])
                place, offset = told.topics.get(lane), told.offset(lane, where[1])
                if place is not None and topic_ids_differ(place.topic_id, extent.topic_id):
                    # The records of the old topic are gone.
                    cursor.cut = True
                else:
                    cursor.cut = not extent.start <= offset <= extent.end
                    cursor.first = min(max(offset, extent.start), extent.end)
            elif isinstance(self.since, float) and not self.newest_first:
                cursor.first = past.first_since(where, extent, self.since)
                cursor.cut = 0 < cursor.first == extent.start
            cursors.append(cursor)
        return cursors, is_whole

    def _moved(self, extents: Mapping[Where, Extent], reached: Mapping[Where, int]) -> LogPosition:
        streams = {
            **self.position.streams,
            mark_of(self.stream.name): _position_at(extents, reached),
        }
        return replace(self.position, streams=streams)

    def _history(
        self,
        records: Collection[Record],
        extents: Mapping[Where, Extent],
        position: LogPosition,
        complete: bool,
    ) -> History:
        reached = {where: extent.end for where, extent in extents.items()}
        for record in reversed(list(records)):
            reached[record[0], record[5]] = record[6]
        messages = []
        for record in records:
            topic, _, _, _, written, partition, offset = record
            reached = {**reached, (topic, partition): offset + 1}
            try:
                payload = self.stream.payload(record)
                payload.decode()
            except UnreadableRecord:
                # Live channels did not get it either.
                continue
            sign = self._signer(extents, reached)
            place = place_text((topic, partition, offset, written))
            messages.append(Message(payload.open(), sign, written, True, place))
        if self.newest_first:
            messages.reverse()
        return History(messages, position.sign(), complete)

    def _signer(
        self, extents: Mapping[Where, Extent], reached: Mapping[Where, int]
    ) -> Callable[[], str]:
        return lambda: self._moved(extents, reached).sign()


def ends_of_stream(past: Past) -> Callable[[], StreamPosition]:
    """Find the present position in a stream; called in the backplane's thread."""
    extents = past.extents(past.topics())
    position = _position_at(extents, {where: extent.end for where, extent in extents.items()})
    return lambda: position


def _position_at(extents: Mapping[Where, Extent], reached: Mapping[Where, int]) -> StreamPosition:
    offsets: dict[str, list[int]] = {}
    ids: dict[str, str | None] = {}
    for where in sorted(extents, key=lambda each: each[1]):
        topic = where[0]
        if isinstance(topic, StreamTopic):
            lane = lane_of(topic)
            offsets.setdefault(lane, []).append(reached[where])
            ids[lane] = extents[where].topic_id
    return StreamPosition(
        {lane: TopicPosition(ids[lane], tuple(offsets[lane])) for lane in offsets}
    )
