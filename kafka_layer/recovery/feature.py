"""The recoveries of one server: tracks channels, and replays missed messages to them."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from ..config.realtime import monotonic
from ..config.threads import RLock
from ..delivery.mailbox import Envelope, Mailbox, Read
from ..delivery.tickets import Steps, Ticket, in_thread, wait
from ..exceptions import (
    BrokerUnavailable,
    InvalidPosition,
    LayerClosed,
    RegistryAway,
    TopicError,
    UnreadableRecord,
)
from ..messages import Message, Recovery, ReplayedMessage
from ..server.server import Server
from ..transport import Past, ReadFrom, answer_time
from ..wire.codec import Codec
from ..wire.encryption import ReplayGuard
from ..wire.idempotency import WINDOW, has_key
from ..wire.position_token import LogPosition, TopicPosition
from ..wire.records import Record, unreadable_key
from ..wire.topics import BROADCAST_TOPICS, StreamTopic, Topic, Where, kind_of
from .channel import State, TrackedChannel
from .kept_stream import KeptStream
from .log_replay import LogReplay
from .opening import Opening
from .read_through import ROUNDS, Extents, learn_epochs, parts_to_read
from .recent import Key, Loss, RecentLog
from .replay import (
    EVERYBODY,
    NotRecovered,
    Reason,
    in_order,
    is_command,
    is_excluded,
    missed_keys,
    missed_parts,
)
from .stream_log import Followed
from .stream_replay import StreamReplay
from .tails import TELLING

__all__ = ["MAX_BYTES", "Recoveries"]

MAX_BYTES = 1024 * 1024
"""Limit of the messages that one recovery replays, in bytes."""

# Seconds to which the beginning of learning idempotency keys is rounded down.
_STEP = 60.0


class _Reading(NamedTuple):
    """The reading of one partition's past.

    Attributes:
        first: The offset from which it is read.
        ticket: Resolved with the extents of the log, when the part is in the recent records.
    """

    first: int
    ticket: Ticket[Extents]


class Recoveries:
    """Tracks channels of a server and recovers them; any thread and event loop.

    It begins with the first tracked channel: from then on every record that the server reads is
    added to ``recent`` before it is routed. Older records are read from the log, once for all
    recoveries that need them at the same time, and are kept in ``recent`` as well.

    Args:
        server: The server, which receives.
        codec: Decodes the messages.
        learn_keys: Makes the server learn the idempotency keys that were used in a topic since a
            time of the broker's clock.
        streams: The streams that the server reads.

    Attributes:
        recent: The most recent records.
        prefix: As of ``RecoveryContext``.
        window: As of ``RecoveryContext``.
        patience: As of ``RecoveryContext``.
        pause: As of ``RecoveryContext``.
        open: As of ``RecoveryContext``.
    """

    needs_clock = False

    def __init__(
        self,
        server: Server,
        codec: Codec,
        learn_keys: Callable[[Topic, float], Steps[None]],
        streams: Collection[Followed] = (),
    ) -> None:
        config = server.config
        self.prefix = config.prefix
        self.window = max(config.recovery_window, config.expiry)
        self.patience = self.window - config.expiry
        self.pause = config.timings.read_on
        seconds = config.recovery_window + config.expiry
        self.recent = RecentLog(config.recent_bytes, seconds)
        # All streams together keep as many bytes as the layer's own topics.
        self._streams = tuple(
            KeptStream(
                stream,
                config.recent_bytes // len(streams),
                seconds,
                config.expiry,
                config.timings.read_back,
                partial(self._ask_stream, stream.name),
                self._on_moved,
            )
            for stream in streams
        )
        self.decode = codec.decode
        self.now = server.clock.now
        self.groups = server.registry.groups.names
        self.users = server.registry.users.names
        self.open: Read = Opening(
            server.decode,
            self.patience,
            self.now,
            server.expiry.count_late,
            server.count_unreadable,
        ).open
        self._server = server
        self._learn_keys = learn_keys
        self._stats = server.stats
        # For channels that are behind; each recovery has a guard of its own.
        self._guard = self.new_guard()
        # Re-entrant: a signal handler may interrupt the holder and use the layer.
        self._lock = RLock()
        # For some partitions the first offset to read next.
        self._wanted: dict[Where, int] = {}
        # The partitions that are being read.
        self._reading: dict[Where, _Reading] = {}
        # For some partitions the offsets of records whose leader epochs to ask for next.
        self._wanted_epochs: dict[Where, set[int]] = {}
        # Resolved when the reader has reported its positions; None before the first tracked
        # channel.
        self._begun: Ticket[None] | None = None

    # Tracking

    def track(
        self, mailbox: Mailbox, on_change: Callable[[], object] | None = None
    ) -> TrackedChannel:
        """Keep positions for a channel from now on.

        Args:
            mailbox: The channel's mailbox.
            on_change: Called when a membership of the channel changed; any thread.
        """
        with self._lock:
            if self._begun is None:
                self._begun = Ticket()
                self._server.commands.tracking = self._figures
                self._server.router.recent = self.recent
                self._server.ordering.hold(self._begun)
                self._server.transport.follow(self._on_positions, self.recent.read_epoch)
            tracked = mailbox.tracked
            if not isinstance(tracked, TrackedChannel):
                tracked = TrackedChannel(mailbox, self, on_change)
            if on_change is not None:
                tracked.on_change = on_change
            return tracked

    def position(self, mailbox: Mailbox) -> str:
        """Return the signed position of a tracked channel.

        It blocks for at most ``timings.read_back``, and only just after the first ``track``.
        """
        if self._begun is not None and not self._begun.done:
            # If the reader is busy for longer, the position counts as expired.
            with contextlib.suppress(TimeoutError):
                self._begun.result(self._server.config.timings.read_back)
        return self.track(mailbox).position().sign()

    def streams_for(self, key: Key) -> Sequence[KeptStream]:
        """Return the streams that may have records for an address."""
        return [each for each in self._streams if each.concerns(key)] if self._streams else ()

    def _on_positions(self, positions: Mapping[Where, ReadFrom]) -> None:
        """Take the positions of the reader; called in its thread."""
        lost = self.recent.move(positions)
        begins = self._begun is not None and not self._begun.done
        for tracked in self._channels() if begins or lost else ():
            if begins:
                tracked.begin(self.recent)
            if lost:
                tracked.lose(self.recent, lost)
        if lost:
            self.recent.note_routed()
        self._server.registry.wakeups.flush()
        if begins and self._begun is not None:
            self._begun.resolve(None)

    def _on_moved(self, stream: KeptStream, lost: Mapping[Where, Loss] | None) -> None:
        """Take the positions of a stream; called in its thread. See ``Moved``."""
        for tracked in self._channels():
            if lost is None:
                tracked.begin(stream.log)
            else:
                tracked.lose(stream.log, lost)
        self._server.registry.wakeups.flush()

    def _channels(self) -> list[TrackedChannel]:
        return [
            mailbox.tracked
            for mailbox in self._server.registry.mailboxes()
            if isinstance(mailbox.tracked, TrackedChannel)
        ]

    def _ask_stream(
        self, name: str, question: Callable[[Past], Callable[[], Extents]], deadline: float
    ) -> Ticket[Extents]:
        return self._server.transport.ask_past("recent", question, deadline, name)

    # Recovery

    def recover(
        self, mailbox: Mailbox, text: str, window: float | None, limit: int
    ) -> Steps[Recovery]:
        """Replay the messages that a channel missed since a position.

        Args:
            mailbox: The channel's mailbox.
            text: The position.
            window: Greatest age of the position, in seconds; None: ``recovery_window``.
            limit: Most messages to replay.

        Raises:
            LayerClosed: If the server closes meanwhile.
        """
        tracked = self.track(mailbox)
        deadline = monotonic() + self._server.config.timings.recovery
        away = 0.0
        reason: Reason
        try:
            position = LogPosition.read(text, self.prefix)
            if not position.time:
                raise NotRecovered("expired")
            away = max(0.0, self.now() - position.time)
            if away > (self._server.config.recovery_window if window is None else window):
                raise NotRecovered("expired")
            replay = _Replay(self, tracked, mailbox, position, limit)
            messages = yield from self._replay(replay, deadline)
        except InvalidPosition:
            reason = "invalid"
        except NotRecovered as verdict:
            reason = verdict.reason
        except TimeoutError:
            reason = "timeout"
        except (BrokerUnavailable, RegistryAway, TopicError):
            reason = "unavailable"
        else:
            self._stats.count("recovered")
            self._stats.count("recovered_messages", len(messages))
            return Recovery(True, None, messages, away)
        self._stats.count(f"not_recovered.{reason}")
        return Recovery(False, reason, [], away)

    def _replay(self, replay: _Replay, deadline: float) -> Steps[list[Message]]:
        if self._begun is not None and not self._begun.done:
            yield from wait(self._begun, max(0.0, deadline - monotonic()))
        yield from self._await_streams(replay, deadline)
        replay.begin()
        for stream in replay.streams:
            yield from self._read_stream(stream, deadline)
        yield from self._read_log(replay, deadline)
        replay.compare_epochs()
        for stream in replay.streams:
            stream.compare_epochs()
        records = replay.records()
        for record in _first_keyed(records):
            # The first message with its key may be older than this server. The time is rounded
            # down, so that a replay that begins a little earlier than the last one does not read
            # the log again.
            oldest = record[4] - record[4] % _STEP
            yield from self._learn_keys(record[0], oldest - WINDOW)
        if any(stream.asks_registry for stream in replay.streams):
            # Not in the event loop of the caller.
            decoded = in_thread("kafka-layer-decode", partial(replay.decode, records))
            yield from wait(decoded, max(0.0, deadline - monotonic()))
        else:
            replay.decode(records)
        return replay.finish(records)

    def _read_log(self, replay: _Replay, deadline: float) -> Steps[None]:
        """Read the layer's own topics, as far as a recovery needs them."""
        for _ in range(ROUNDS):
            if not replay.missing() and not replay.unknown_epochs() and not replay.is_ahead:
                return
            try:
                extents = yield from self._read_past(replay, deadline)
            except (BrokerUnavailable, TimeoutError):
                if replay.missing() or replay.is_ahead:
                    raise
                # All records are here; only the check for another log is not possible.
                return
            # Empty if the records have come meanwhile.
            if extents:
                replay.compare(extents)

    def _await_streams(self, replay: _Replay, deadline: float) -> Steps[None]:
        """Wait until the streams of a position are read, within ``timings.history_answer``."""
        until = min(deadline, monotonic() + self._server.config.timings.history_answer)
        for stream in replay.covered_streams():
            try:
                yield from wait(stream.begin(), max(0.0, until - monotonic()))
            except TimeoutError:
                raise NotRecovered("unavailable") from None

    def _read_stream(self, stream: StreamReplay, deadline: float) -> Steps[None]:
        """Read the topics of a stream, as far as a recovery needs them."""
        timings = self._server.config.timings
        for _ in range(ROUNDS):
            missing, unknown = stream.missing(), stream.unknown_epochs()
            if not missing and not unknown and not stream.is_ahead:
                return
            ticket = stream.kept.past.read(missing, unknown, deadline)
            try:
                extents = yield from wait(ticket, answer_time(deadline, timings))
            except (BrokerUnavailable, TimeoutError):
                if missing or stream.is_ahead:
                    raise
                # All records are here; only the check for another log is not possible.
                return
            stream.compare(extents)

    def _read_past(self, replay: _Replay, deadline: float) -> Steps[Extents]:
        """Read the log for a recovery; returns its extents, or nothing if nothing is missing now.

        Each partition is a query of its own, so a recovery waits only for the partitions that it
        needs. Recoveries that need no more of a partition share the query, also while it runs.
        """
        missing, unknown = replay.missing(), replay.unknown_epochs()
        tickets: list[Ticket[Extents]] = []
        questions: list[tuple[Hashable, Callable[[Past], Callable[[], Extents]]]] = []
        with self._lock:
            for where, offset in unknown.items():
                self._wanted_epochs.setdefault(where, set()).add(offset)
            for where, first in missing.items():
                # Include the record whose epoch is needed, which is just before.
                first = min(first, unknown.get(where, first))
                reading = self._reading.get(where)
                if reading is not None and reading.first <= first:
                    tickets.append(reading.ticket)
                else:
                    self._wanted[where] = min(first, self._wanted.get(where, first))
                    questions.append((("recent", where), partial(self._read_wanted, where)))
        # A shared query may be older than the record of a position that is ahead.
        if replay.is_ahead or unknown.keys() - missing.keys():
            questions.append(("recent epochs", self._read_wanted_epochs))
        for key, question in questions:
            tickets.append(self._server.transport.ask_past(key, question, deadline))
        extents: Extents = {}
        for ticket in tickets:
            extents = yield from wait(ticket, answer_time(deadline, self._server.config.timings))
        return extents

    def _read_wanted(self, where: Where, past: Past) -> Callable[[], Extents]:
        """Read the wanted part of a partition; called in the backplane's thread."""
        with self._lock:
            wanted = dict(self._wanted)
            first = self._wanted.pop(where, sys.maxsize)
            reading = self._reading[where] = _Reading(first, Ticket())
        try:
            extents = past.extents(BROADCAST_TOPICS)
            self._read_part(where, wanted, past, extents)
            learn_epochs(self.recent, past, extents, {where: self._end_reading(where)})
        except Exception as error:
            self._end_reading(where)
            reading.ticket.fail(error)
            raise
        reading.ticket.resolve(extents)
        return lambda: extents

    def _end_reading(self, where: Where) -> set[int]:
        """End the sharing of a query; returns the records whose epochs it has to learn."""
        with self._lock:
            self._reading.pop(where, None)
            return self._wanted_epochs.pop(where, set())

    def _read_part(
        self, where: Where, wanted: Mapping[Where, int], past: Past, extents: Extents
    ) -> None:
        for _ in range(ROUNDS):
            parts = parts_to_read(self.recent, wanted, extents)
            if where not in parts:
                return
            first, end = parts[where]
            count, room = sum(end - first for first, end in parts.values()), self.recent.room
            if count > room:
                # Read only the most recent ones, which are enough for most recoveries, and leave
                # room for the other partitions.
                share = max((end - first) * room // count, min(room, TELLING))
                first = max(first, end - share)
            if first >= end:
                return
            start, blocks = past.read_blocks(where, first, end)
            self.recent.prepend(where, start, end, blocks)
            for offset, epoch in chain.from_iterable(block.epochs for block in blocks):
                self.recent.epochs.note(where, offset, epoch)

    def _read_wanted_epochs(self, past: Past) -> Callable[[], Extents]:
        """Learn wanted leader epochs of partitions that are not read; the backplane's thread."""
        extents = past.extents(BROADCAST_TOPICS)
        with self._lock:
            wanted = {
                where: self._wanted_epochs.pop(where)
                for where in list(self._wanted_epochs)
                if where not in self._wanted
            }
        learn_epochs(self.recent, past, extents, wanted)
        return lambda: extents

    def _figures(self) -> dict[str, int]:
        behind = sum(tracked.state is not State.LIVE for tracked in self._channels())
        kept = self.recent.size + sum(each.log.size for each in self._streams)
        return {"behind": behind, "recent_bytes": kept}

    # For the tracked channels

    def is_duplicate(self, record: Record) -> bool:
        """Tell whether another record with the same idempotency key came before."""
        flushed = self._server.expiry.flushed_until
        return has_key(record[3]) and self._server.router.duplicates.is_duplicate(record, flushed)

    def hears_all(self) -> bool:
        """Tell whether messages to everybody reach the channels of this server."""
        return self._server.registry.hears_all()

    def envelopes(self, records: Iterable[Record]) -> list[Envelope]:
        """Return the messages of records that were not flushed and can be decrypted."""
        expiry = self._server.expiry
        latest, now = monotonic() + expiry.seconds, self.now()
        envelopes = []
        for record in records:
            if isinstance(record[0], StreamTopic):
                name = record[0].stream
                kept = next(each for each in self._streams if each.name == name)
                made = kept.envelope(record)
                envelopes += [] if made is None else [made]
                continue
            topic, key, _, headers, written, partition, offset = record
            if written <= expiry.flushed_until:
                self._stats.count("dropped.flushed")
                continue
            if self.is_duplicate(record):
                self._stats.count("dropped.duplicate")
                continue
            try:
                payload, name = self.decrypt(self._guard, record), (key or b"").decode()
            except UnreadableRecord as error:
                self._stats.dropped(error.cause, f"a record of {topic.value}: {error}")
                continue
            deadline = latest - max(0.0, now - written)
            envelope = Envelope(payload, deadline, topic, partition, offset, written, name)
            if headers:
                envelope.trace = headers
            envelopes.append(envelope)
        for kind, number in Counter(map(_kind_of, envelopes)).items():
            self._stats.count(f"delivered.{kind}", number)
        return envelopes

    def decrypt(self, guard: ReplayGuard, record: Record) -> bytes:
        """Return the payload of a record; a record may be read several times.

        Raises:
            UnreadableRecord: If it cannot be decrypted.
        """
        topic, key, value, _, written, partition, offset = record
        try:
            name = (key or b"").decode()
        except UnicodeDecodeError:
            raise unreadable_key(key) from None
        return guard.decrypt(topic, name, value, written, (topic, partition, offset, written))

    def is_flush(self, guard: ReplayGuard, record: Record) -> bool:
        """Tell whether a command is a flush."""
        try:
            return self._server.commands.is_flush(self.decrypt(guard, record))
        except UnreadableRecord:
            return False

    def new_guard(self) -> ReplayGuard:
        """Return a guard against copied tokens for one replay."""
        return ReplayGuard(
            self._server.encryption, self._server.config.expiry, live=self._server.router.guard
        )

    def count_gap(self, mailbox: Mailbox, reason: Reason) -> None:
        """Count a gap."""
        detail = f"channel {mailbox.channel} fell too far behind ({reason}), and was told so"
        self._stats.dropped("gap", detail)

    # The server's feature

    def flush(self, until: float) -> int:
        """Do nothing: a replay reads the flush record, and slow channels check the flush's time."""
        return 0

    def close(self, error: LayerClosed) -> int:
        """Forget the records."""
        self._server.router.recent = None
        self.recent.clear()
        for stream in self._streams:
            stream.ended()
        return 0

    def abandon(self) -> None:
        """Forget everything, in a forked child."""
        self._lock = RLock()
        self.recent = RecentLog(0, 0.0)
        self._streams = ()


class _Replay(LogReplay):
    """One recovery: determines the missed records, and whether all of them are there.

    Args:
        recoveries: The recoveries of the server.
        tracked: The channel.
        mailbox: Its mailbox.
        position: The position from which it is recovered.
        limit: Most messages to replay.

    Attributes:
        streams: The part of the recovery in each stream that the channel follows.
    """

    def __init__(
        self,
        recoveries: Recoveries,
        tracked: TrackedChannel,
        mailbox: Mailbox,
        position: LogPosition,
        limit: int,
    ) -> None:
        super().__init__(recoveries.recent)
        self._recoveries = recoveries
        self._tracked = tracked
        self._mailbox = mailbox
        self._position = position
        self._limit = limit
        self.streams = [
            StreamReplay(stream, position.streams.get(stream.mark)) for stream in tracked.follows
        ]
        # The messages of decoded records of streams, by partition and offset.
        self._of_streams: dict[tuple[Where, int], dict[str, Any]] = {}

    def _missed_keys(self) -> list[Key]:
        recoveries, mailbox = self._recoveries, self._mailbox
        groups, users = recoveries.groups(mailbox), recoveries.users(mailbox)
        return missed_keys(self._position, groups, users, recoveries.hears_all())

    def covered_streams(self) -> list[KeptStream]:
        """Return the streams with records that may be replayed.

        Raises:
            NotRecovered: If the position is of other users.
        """
        keys = self._missed_keys()
        return [each.kept for each in self.streams if each.covers(keys)]

    def begin(self) -> None:
        """Fix the end of the replay: records that are read later come to the mailbox.

        Records are kept before they are routed, and the channel has its memberships already. So
        each record is either kept by now, or comes to the mailbox. Messages that are in the mailbox
        already are replayed as well, so that the browser gets each partition in its order: it
        reports its progress by partition.

        Raises:
            NotRecovered: If the position is of other users, or in another log.
        """
        recoveries, mailbox, position = self._recoveries, self._mailbox, self._position
        groups, users = recoveries.groups(mailbox), recoveries.users(mailbox)
        keys = self._missed_keys()
        ends = self._log.ends
        for stream in self.streams:
            stream.fix()
        self._parts = missed_parts(position, keys, ends)
        joined = [
            *((Topic.SEND_GROUP, group) for group in groups),
            *((Topic.SEND_USER, user) for user in users),
        ]
        new = [key for key in joined if key not in keys]
        present = self._tracked.position() if new or self.streams else position
        self._new_parts = missed_parts(present, new, ends) if new else ()
        for stream in self.streams:
            stream.begin(keys, joined, present.streams[stream.kept.mark])
        self._require_same_topics()

    def _place_in(self, topic: object) -> TopicPosition | None:
        return self._position.topics.get(topic) if isinstance(topic, Topic) else None

    def _epoch(self, where: Where, offset: int) -> int:
        return self._log.epochs.at(where, offset, self._log.ends.get(where, 0))

    def finish(self, records: Iterable[Record]) -> list[Message]:
        """Return the missed messages, and let the channel skip them if they come again.

        Args:
            records: The result of ``records``.

        Raises:
            NotRecovered: If not all of them can be replayed, or there are too many.
        """
        floors: dict[Key, dict[Where, int]] = {}
        before: dict[Key, dict[Where, int]] = {}
        reached: dict[Where, int] = {}
        of_streams = [part for stream in self.streams for part in stream.all_parts]
        for key, where, first, end in (*self.all_parts, *of_streams):
            floors.setdefault(key, {})[where] = max(first, end)
            before.setdefault(key, {})[where] = first
            reached[where] = min(first, reached.get(where, first))
        sign = self._tracked.signer_within(before)
        told, messages = list[Record](), list[Message]()

        def position(number: int) -> str:
            behind: dict[Where, int] = {
                (each[0], each[5]): each[6] + 1 for each in told[: number + 1]
            }
            return sign({**reached, **behind})

        for number, (record, content) in enumerate(self._contents(records)):
            message: ReplayedMessage = ReplayedMessage(content)
            message.record, message.number, message.sign = record[:7], number, position
            told.append(record)
            messages.append(message)
        known = {(key, each.kept.name) for each in self.streams for key in each.known}
        self._tracked.recovered(self._position, floors, known)
        return messages

    def _contents(self, records: Iterable[Record]) -> Iterator[tuple[Record, dict[str, Any]]]:
        """Yield the records of messages, with their messages; raises like ``finish``."""
        guard = self._recoveries.new_guard()
        count = size = 0
        names = {*self._tracked.names, *self._position.names}
        for record in records:
            # Most records have no headers.
            if record[3] and isinstance(record[0], Topic):
                if is_command(record):
                    if self._recoveries.is_flush(guard, record):
                        raise NotRecovered("flushed")
                    continue
                if is_excluded(record, names) or self._recoveries.is_duplicate(record):
                    continue
            content, length = self._content(record, guard)
            if content is None:
                continue
            count, size = count + 1, size + length
            if count > self._limit or size > MAX_BYTES:
                raise NotRecovered("limit")
            yield record, content

    def _content(self, record: Record, guard: ReplayGuard) -> tuple[dict[str, Any] | None, int]:
        """Return the message of a record, None if the channel does not get it, and its size.

        Raises:
            NotRecovered: If it cannot be read.
        """
        if isinstance(record[0], StreamTopic):
            # None if live channels did not get it either.
            found = self._of_streams.get(((record[0], record[5]), record[6]))
            return found, len(record[2] or b"")
        try:
            payload = self._recoveries.decrypt(guard, record)
            return self._recoveries.decode(payload), len(payload)
        except UnreadableRecord as error:
            if error.cause == "replayed":
                # A copy of a token is no message of the application.
                return None, 0
            raise NotRecovered("undecodable") from None

    def records(self) -> list[Record]:
        """Return the missed records, in the order of the log.

        Raises:
            NotRecovered: If not all of them are there.
        """
        found = []
        for key, where, first, end in self.all_parts:
            name = None if key == EVERYBODY else key[1].encode()
            records = self._log.find(where, name, first, end)
            if records is None:
                # The server does not keep so many records.
                raise NotRecovered("limit")
            found.append(records)
        for stream in self.streams:
            found += stream.records()
        return list(in_order(found))

    def decode(self, records: Iterable[Record]) -> None:
        """Decode the records of streams, up to the limit.

        Raises:
            NotRecovered: If one cannot be decoded, and its stream stops at such records.
            RegistryAway: If a schema registry is needed, and does not answer.
        """
        by_name = {each.kept.name: each for each in self.streams}
        for record in records:
            if isinstance(record[0], StreamTopic) and len(self._of_streams) <= self._limit:
                content = by_name[record[0].stream].decoded(record)
                if content is not None:
                    self._of_streams[(record[0], record[5]), record[6]] = content


def _kind_of(envelope: Envelope) -> str:
    return "stream" if envelope.topic is None else kind_of(envelope.topic)


def _first_keyed(records: Iterable[Record]) -> list[Record]:
    """Return the first record of each topic that has an idempotency key."""
    found: dict[Topic, Record] = {}
    for record in records:
        if record[3] and isinstance(record[0], Topic) and has_key(record[3]):
            found.setdefault(record[0], record)
    return list(found.values())
