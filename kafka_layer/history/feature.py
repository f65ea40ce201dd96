"""Answers history queries of one server: reads the log, and makes messages of its records."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeVar

from ..delivery.tickets import Steps, wait
from ..exceptions import (
    BrokerUnavailable,
    HistoryUnavailable,
    RegistryAway,
    TopicError,
    UnreadableRecord,
)
from ..messages import History, Message
from ..server.server import Server
from ..transport import Extent, Past, answer_time
from ..wire.codec import Codec
from ..wire.encryption import ReplayGuard
from ..wire.headers import has_command
from ..wire.idempotency import WINDOW, Duplicates, has_key
from ..wire.places import mark_of, place_text
from ..wire.position_token import LogPosition, StreamPosition
from ..wire.records import Record, unreadable_key
from ..wire.topics import Topic, Where, topic_ids_differ
from .flushes import Flushes
from .look_back import LookBack
from .of_streams import ReadStream, StreamQuestion, ends_of_stream
from .question import Question, partitions_to_read
from .scan import Budget, Cursor, in_order, read_back, read_on, told_until

__all__ = ["Histories"]

T = TypeVar("T")

Extents = Mapping[Where, Extent]

# Seconds by which the time in a position may differ from the broker's.
_CLOCK_ERROR = 60.0


class _Found(NamedTuple):
    """The result of a scan.

    Attributes:
        records: The records, in the order of the log.
        position: The position after them.
        complete: Whether no record is missing.
    """

    records: Sequence[Record]
    position: LogPosition
    complete: bool


class Histories:
    """Answers queries for messages of the log; any thread and event loop.

    Args:
        server: The server, whose backplane reads the log.
        codec: Decodes the messages.

    Attributes:
        look_back: Learns the idempotency keys that were used before the server's start.
    """

    def __init__(self, server: Server, codec: Codec) -> None:
        self._server = server
        self._decode = codec.decode
        # For the backplane's thread, which runs one query at a time.
        self._flush_guard = ReplayGuard(server.encryption, server.config.expiry)
        self._flushes = Flushes(self._is_flush)
        self.look_back = LookBack(server, self._flushes, lambda: self._flushed_until)

    def ask(self, question: Question, deadline: float) -> Steps[History]:
        """Answer a query.

        Args:
            question: The query.
            deadline: When to give up, on ``monotonic()``.

        Raises:
            HistoryUnavailable: If Kafka cannot be asked in time, or refuses.
            LayerClosed: If the server closes meanwhile.
        """
        now = self._server.clock.now()
        if isinstance(question.since, datetime.timedelta):
            question = replace(question, since=now - question.since.total_seconds())
        streams = yield from self._in_streams(question, deadline)
        question = replace(question, streams=streams)
        if not question.limit:
            # One query for the positions of all groups.
            topics = question.topics
            extents = yield from self._asked(topics, partial(_extents, topics), deadline)
            return History([], question.position(now, extents).sign(), complete=True)
        return (yield from self._asked(question, partial(self._carry_out, question), deadline))

    def ask_stream(
        self,
        stream: ReadStream,
        address: tuple[Topic, str] | None,
        question: Question,
        deadline: float,
    ) -> Steps[History]:
        """Answer a query for the messages of a stream.

        Args:
            stream: The stream.
            address: The group or user of the messages; None: all messages.
            question: The query, for the address or for everybody.
            deadline: When to give up, on ``monotonic()``.

        Raises:
            ValueError: If ``since`` is a position that does not cover the stream.
            HistoryUnavailable, LayerClosed: As ``ask``.
        """
        now, since = self._server.clock.now(), question.since
        if isinstance(since, datetime.timedelta):
            since = now - since.total_seconds()
        if isinstance(since, LogPosition) and mark_of(stream.name) not in since.streams:
            raise ValueError(
                f"since is no position in the stream {stream.name!r}; give one of stream_history, "
                "or of a group or a user that the stream may reach."
            )
        topics = question.topics
        extents = yield from self._asked(topics, partial(_extents, topics), deadline)
        streams = yield from self._in_streams(replace(question, since=None), deadline)
        position = replace(question, since=None, streams=streams).position(now, extents)
        asked = StreamQuestion(
            stream, address, question.limit, since, question.newest_first, position
        )
        return (yield from self._asked(asked, asked.carry_out, deadline, stream.name))

    def _in_streams(self, question: Question, deadline: float) -> Steps[dict[str, StreamPosition]]:
        """Find the position in each stream that may reach the address."""
        if isinstance(question.since, LogPosition):
            # The query does not read streams, so their positions stay.
            return dict(question.since.streams)
        streams = [
            each
            for each in self._server.config.streams.values()
            if each.is_read and each.may_reach(question.topic, question.key)
        ]
        ask, timings = self._server.transport.ask_past, self._server.config.timings
        tickets = [ask("ends", ends_of_stream, deadline, each.name) for each in streams]
        found = {}
        for stream, ticket in zip(streams, tickets, strict=True):
            try:
                position = yield from wait(ticket, answer_time(deadline, timings))
            except (BrokerUnavailable, TopicError, TimeoutError):
                # Another cluster may be away. A recovery from this position then fails, with the
                # reason "unavailable".
                position = StreamPosition(None)
            found[mark_of(stream.name)] = position
        return found

    def _asked(
        self,
        key: Hashable,
        ask: Callable[[Past], Callable[[], T]],
        deadline: float,
        stream: str | None = None,
    ) -> Steps[T]:
        ticket = self._server.transport.ask_past(key, ask, deadline, stream)
        try:
            return (yield from wait(ticket, answer_time(deadline, self._server.config.timings)))
        except (BrokerUnavailable, RegistryAway, TopicError) as error:
            raise HistoryUnavailable(f"The history cannot be read. {error}") from error
        except TimeoutError:
            raise HistoryUnavailable(
                "The history cannot be read: no broker gave a record in time. Ask again."
            ) from None

    # In the backplane's thread

    def _carry_out(self, question: Question, past: Past) -> Callable[[], History]:
        extents = past.extents(question.topics)
        position = question.position(self._server.clock.now(), extents)
        read = self._read_on if question.reads_on else self._read_back
        return self._answers(question, read(question, past, extents, position))

    def _read_on(
        self, question: Question, past: Past, extents: Extents, position: LogPosition
    ) -> _Found:
        since = question.since
        start = since.time - _CLOCK_ERROR if isinstance(since, LogPosition) else _time(question)
        sure = self._flushes.learn(Budget(past, answered=True), extents, start)
        cursors = _cursors(question, past, extents)
        is_wanted = _wanted(question, self._flushed_until)
        before = [Cursor(each.where, extents[each.where].start, each.first) for each in cursors]
        budget = Budget(past)
        whole, records = self._scan(
            question,
            past,
            extents,
            cursors,
            lambda limit: read_on(budget, cursors, is_wanted, limit),
            lambda: before,
        )
        untold = records[question.limit :]
        return _Found(
            records[: question.limit],
            _with_offsets(position, question.topic, told_until(cursors, untold)),
            sure and whole and not any(cursor.cut for cursor in cursors),
        )

    def _read_back(
        self, question: Question, past: Past, extents: Extents, position: LogPosition
    ) -> _Found:
        cursors = _cursors(question, past, extents)
        budget = Budget(past)
        _, records = self._scan(
            question,
            past,
            extents,
            cursors,
            lambda limit: read_back(budget, cursors, _wanted(question), limit, _time(question)),
            lambda: [Cursor(each.where, extents[each.where].start, each.end) for each in cursors],
        )
        records = records[-question.limit :]
        sure = not records or self._flushes.learn(
            Budget(past, answered=True), extents, records[0][4]
        )
        flushed = self._flushed_until
        # Flushed messages are not missing, nor are messages before the first one of a full answer.
        asked = records[0][4] if len(records) == question.limit else float("-inf")
        missing = (
            cursor.reached is None or cursor.reached > max(flushed, asked)
            for cursor in cursors
            if cursor.cut or not cursor.done
        )
        return _Found(
            [record for record in records if record[4] > flushed],
            position,
            sure and not any(missing),
        )

    def _scan(
        self,
        question: Question,
        past: Past,
        extents: Extents,
        cursors: Sequence[Cursor],
        read: Callable[[int], bool],
        before: Callable[[], Sequence[Cursor]],
    ) -> tuple[bool, list[Record]]:
        """Read until enough records are found, not counting duplicates.

        Args:
            question: The query.
            past: Reads the log.
            extents: The extents of the log.
            cursors: The scans.
            read: Continues the scans until a number of records is found; returns whether they are.
            before: Returns scans of the parts before those that were read.

        Returns:
            The last result of ``read``, and the records, in the order of the log.
        """
        limit = question.limit
        while True:
            whole = read(limit)
            records = self._originals(question, past, extents, list(in_order(cursors)), before)
            missing = question.limit - len(records)
            if missing <= 0 or not whole or all(cursor.done for cursor in cursors):
                return whole, records
            limit += missing

    def _originals(
        self,
        question: Question,
        past: Past,
        extents: Extents,
        found: list[Record],
        before: Callable[[], Sequence[Cursor]],
    ) -> list[Record]:
        """Return the found records without duplicates, whose originals may be before them."""
        keyed = next((record for record in found if has_key(record[3])), None)
        if keyed is None:
            return found
        since = keyed[4] - WINDOW
        self._flushes.learn(Budget(past, answered=True), extents, since)
        older, is_of_address = before(), _wanted(replace(question, since=None))
        read_back(
            Budget(past, answered=True),
            older,
            lambda record: has_key(record[3]) and is_of_address(record),
            since=since,
        )
        flushed, duplicates = self._flushed_until, Duplicates(self._server.encryption.active)
        for record in in_order(older):
            duplicates.is_duplicate(record, flushed)
        return [record for record in found if not duplicates.is_duplicate(record, flushed)]

    @property
    def _flushed_until(self) -> float:
        # A timestamp set by a sender may be far ahead, and would hide all messages.
        latest = min(self._flushes.latest, self._server.clock.now() + _CLOCK_ERROR)
        return max(latest, self._server.expiry.flushed_until)

    def _is_flush(self, record: Record) -> bool:
        topic, _, value, headers, written, partition, offset = record
        if not has_command(headers):
            return False
        try:
            payload = self._flush_guard.decrypt(topic, "", value, written, (partition, offset))
            return self._server.commands.is_flush(payload)
        except UnreadableRecord:
            return False

    def _answers(self, question: Question, found: _Found) -> Callable[[], History]:
        """Decrypt the found records; return a function that decodes them for each caller."""
        # In the order of the log: of two records with the same token the second is the copy.
        decrypt = ReplayGuard(self._server.encryption, self._server.config.expiry).decrypt
        payloads: list[tuple[bytes, float, Callable[[], str], str]] = []
        unreadable: list[UnreadableRecord] = []
        for record, position in zip(found.records, _positions(question, found), strict=True):
            topic, key, value, _, written, partition, offset = record
            try:
                payload = decrypt(topic, (key or b"").decode(), value, written)
            except UnreadableRecord as error:
                unreadable.append(error)
            except UnicodeDecodeError:
                unreadable.append(unreadable_key(key))
            else:
                place = place_text((topic, partition, offset, written))
                payloads.append((payload, written, position.sign, place))
        # A copy of a token is no message of the application, so none is missing.
        complete = found.complete and all(each.cause == "replayed" for each in unreadable)
        self._count(question, unreadable)

        def make() -> History:
            messages, undecodable = [], []
            for payload, written, position, place in payloads:
                try:
                    content = self._decode(payload)
                    messages.append(Message(content, position, written, True, place))
                except UnreadableRecord as error:
                    undecodable.append(error)
            self._count(question, undecodable)
            if question.newest_first:
                messages.reverse()
            return History(messages, found.position.sign(), complete and not undecodable)

        return make

    def _count(self, question: Question, errors: Collection[UnreadableRecord]) -> None:
        for error in errors:
            self._server.stats.count("errors.history")
            detail = f"a record of {question.topic.value}, in a history: {error}"
            # Not counted as a drop: the server that received it has counted it.
            self._server.stats.dropped(error.cause, detail, 0)


def _extents(topics: Sequence[Topic], past: Past) -> Callable[[], Extents]:
    extents = past.extents(topics)
    return lambda: extents


def _time(question: Question) -> float:
    """Return the time of ``since``; minus infinity if ``since`` is no time."""
    return question.since if isinstance(question.since, float) else float("-inf")


def _wanted(question: Question, flushed: float = float("-inf")) -> Callable[[Record], bool]:
    """Return a function that selects the records that the query asks for."""
    since, wanted_key = _time(question), question.key.encode()

    def is_wanted(record: Record) -> bool:
        topic, key, _, headers, written, _, _ = record
        if written < since or written <= flushed:
            return False
        if topic is Topic.SEND_ALL:
            return not has_command(headers)
        return key == wanted_key

    return is_wanted


def _cursors(question: Question, past: Past, extents: Extents) -> list[Cursor]:
    """Return the scans of the partitions that may have the messages."""
    topic, since = question.topic, question.since
    logs = {where[1]: extent for where, extent in extents.items() if where[0] is topic}
    place = since.topics.get(topic) if isinstance(since, LogPosition) else None
    made_anew = place is not None and topic_ids_differ(place.topic_id, logs[0].topic_id)
    if made_anew:
        place = None
    cursors = []
    for number in partitions_to_read(question, logs, place):
        extent = logs[number]
        cursor = Cursor((topic, number), extent.start, extent.end, cut=extent.start > 0)
        if made_anew:
            # The records of the old topic are gone.
            cursor.cut = True
        elif place is not None:
            offset = place.offsets[number] if number < len(place.offsets) else 0
            cursor.cut = not extent.start <= offset <= extent.end
            cursor.first = min(max(offset, extent.start), extent.end)
        elif question.reads_on:
            cursor.first = past.first_since(cursor.where, extent, _time(question))
            cursor.cut = 0 < cursor.first == extent.start
        cursors.append(cursor)
    return cursors


def _positions(question: Question, found: _Found) -> list[LogPosition]:
    """Return the position right after each record."""
    offsets: dict[int, int] = {}
    for _, _, _, _, _, partition, offset in found.records:
        offsets.setdefault(partition, offset)
    positions = []
    for _, _, _, _, _, partition, offset in found.records:
        offsets[partition] = offset + 1
        positions.append(_with_offsets(found.position, question.topic, offsets))
    return positions


def _with_offsets(position: LogPosition, topic: Topic, offsets: Mapping[int, int]) -> LogPosition:
    place = position.topics[topic]
    moved = tuple(offsets.get(number, end) for number, end in enumerate(place.offsets))
    return replace(position, topics={**position.topics, topic: replace(place, offsets=moved)})
