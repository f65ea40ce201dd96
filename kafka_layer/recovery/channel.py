"""A tracked channel: its position, and its reading from the recent records after a full mailbox."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from ..config.realtime import monotonic
from ..config.threads import RLock
from ..delivery.mailbox import Envelope, Mailbox, Read
from ..delivery.tickets import Ticket
from ..messages import Message
from ..streams.payload import StreamPayload
from ..wire.places import place_text
from ..wire.position_token import LogPosition, short_hash
from ..wire.records import Record
from ..wire.topics import StreamTopic, Topic, Where
from .kept_stream import KeptStream
from .mailbox import SharedMailbox, TrackedMailbox
from .progress import LogPart, Progress, Vector, highest, is_of_log, place_of
from .recent import Key, Loss, RecentLog
from .replay import (
    EVERYBODY,
    Reason,
    counts_of,
    in_order,
    is_command,
    is_excluded,
)

__all__ = [
    "READ_ON",
    "Gap",
    "RecoveryContext",
    "State",
    "TrackedChannel",
    "Vector",
]

# Limit of the former names of a channel that are remembered.
_FORMER_NAMES = 3


_SEND_CONN, _SEND_GROUP, _SEND_USER = Topic.SEND_CONN, Topic.SEND_GROUP, Topic.SEND_USER

_TOPIC_OF = {"group_add": _SEND_GROUP, "user_add": _SEND_USER}
"""By the command that adds a membership: the topic of its address."""

READ_ON = Envelope(b"", float("inf"))
"""No message: wakes the receive of a channel that has to read from the recent records."""


class State(enum.Enum):
    """The states of a tracked channel; ``TrackedChannel`` says what leads from one to another."""

    LIVE = "live"
    BEHIND = "behind"
    LOST = "lost"


# In Python 3.11 each access to a member of an enumeration costs as much as a call.
_LIVE, _BEHIND, _LOST = State.LIVE, State.BEHIND, State.LOST


class RecoveryContext(Protocol):
    """The common objects and functions of the tracked channels of one server.

    Attributes:
        recent: The most recent records.
        prefix: The layer's prefix.
        window: Greatest age of a replayed message, in seconds.
        patience: Seconds that a message of the log may wait in addition to ``expiry``.
        pause: Seconds for which a channel that is behind pauses each time before it reads from the
            recent records, so that other channels and threads run.
        open: Makes a message of an envelope that a channel took; see ``Opening``.
    """

    recent: RecentLog
    prefix: str
    window: float
    patience: float
    pause: float
    open: Read

    def now(self) -> float:
        """Return the broker's time."""

    def groups(self, mailbox: Mailbox) -> Sequence[str]:
        """Return the groups of a channel."""

    def users(self, mailbox: Mailbox) -> Sequence[str]:
        """Return the users of a channel."""

    def hears_all(self) -> bool:
        """Tell whether messages to everybody reach the channels of this server."""

    def envelopes(self, records: Iterable[Record]) -> list[Envelope]:
        """Return the messages of records that were not flushed and can be decrypted."""

    def count_gap(self, mailbox: Mailbox, reason: Reason) -> None:
        """Count a gap."""

    def streams_for(self, key: Key) -> Sequence[KeptStream]:
        """Return the streams that may have records for an address."""


class Gap(Envelope):
    """Stands for messages that a channel cannot get any more.

    Attributes:
        reason: Why.
    """

    __slots__ = ("reason",)

    def __init__(self, reason: Reason) -> None:
        super().__init__(b"", float("inf"))
        self.reason = reason


class TrackedChannel:
    """Keeps the position of one channel.

    The channel's loop calls ``take``, ``pauses``, ``elsewhere``, ``message`` and ``gap``. The
    reading threads call ``begin``, ``pass_by`` and ``lose``. Any thread calls the rest.

    The position is a vector of offsets: all messages to the channel below it were handed over. A
    mailbox has the messages of one log (the layer's own, or a stream's) in the order in which they
    were routed. So the position in a log is the place before the first of its messages that is in
    hand or waits (``Envelope.before``). If there is none, it is the end of the routed records.
    Messages to a group from before the channel joined it do not count: for each address there is a
    position from which it reaches the channel. ``Progress`` has these for each log. The channel
    follows a stream when it gets the first address that the stream may reach.

    ====== ============================================== ========================================
    state  means                                          ends
    ====== ============================================== ========================================
    LIVE   the readers put its messages into the mailbox  BEHIND: the mailbox is full, a message is
                                                          too old to wait in it, or a log lost
                                                          messages
    BEHIND the readers pass it by; when the mailbox is    LIVE: it has all records that were read.
           empty, take fills it from the recent records,  LOST: records that it needs are gone
           after a pause
    LOST   ``kafka.gap`` is in hand                       LIVE: the next take, at the end
    ====== ============================================== ========================================

    There is one receive at a time. A message is handed over when the next receive waits or takes.
    So the message that was taken last is in hand unless a receive waits.

    Args:
        mailbox: The channel's mailbox.
        context: The common objects of the server's tracked channels.
        on_change: Called when a membership of the channel changed; any thread.

    Attributes:
        state: As above.
        names: The hashes of its name and of former ones, the latest first.
        on_change: As given.
        pause: As of ``RecoveryContext``.
        lock: Guards this object. Re-entrant: a signal handler may interrupt the holder and use the
            layer.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        context: RecoveryContext,
        on_change: Callable[[], object] | None = None,
    ) -> None:
        self.state = _LIVE
        self.names: tuple[bytes, ...] = (short_hash(mailbox.channel),)
        self.on_change = on_change
        self.pause = context.pause
        self.lock = RLock()
        self._mailbox = mailbox
        self._context = context
        self._own = Progress(context.recent)
        self._streams: dict[str, Progress] = {}
        # The progress in the layer's own log and in all streams.
        self._logs: tuple[Progress, ...] = (self._own,)
        # Whether the last message was a gap.
        self._in_gap = False
        # While it is not LIVE: the real capacity of its mailbox, which is set to 0 meanwhile; since
        # when, on monotonic(); and whether it has paused since it filled the mailbox last.
        self._capacity = mailbox.capacity
        self._behind_since = 0.0
        self._paused = False
        mailbox.tracked, mailbox.open_tracked = self, context.open
        mailbox.__class__ = TrackedMailbox
        self.begin(context.recent)

    # The position

    def begin(self, log: object) -> None:
        """Begin the position in a log here; again when its reader has reported its positions."""
        with self.lock:
            for progress in self._logs:
                if progress.log is log:
                    self._begin(progress)

    def _begin(self, progress: Progress) -> None:
        mailbox = self._mailbox
        if progress.stream is not None:
            # Messages from before the stream was kept are in hand, or wait, without a place.
            for envelope in [mailbox.in_hand, *mailbox.waiting()]:
                _place(envelope, progress.stream)
        taken = [] if mailbox.in_hand is None else [mailbox.in_hand]
        found = [*taken, *mailbox.waiting()]
        progress.begin(each for each in found if self._progress_of(each) is progress)
        if progress.stream is not None:
            # Until now the stream's thread passed by no message, even if the channel is behind.
            progress.read = highest(progress.read, progress.log.routed)
        elif self.state is _LIVE:
            # Messages from before the reader reported its positions know no earlier position.
            progress.begun = progress.live_from = progress.start

    def position(self) -> LogPosition:
        """Return the position after the messages that were handed over."""
        with self.lock:
            parts = [
                LogPart(each, self._reached(each)(), each.since, each.identity)
                for each in self._logs
            ]
        return self._position(parts, self._context.now())

    def sign_behind(
        self,
        envelope: Envelope,
        time: float,
        elsewhere: Mapping[Progress, Callable[[], Vector]] | None = None,
    ) -> str:
        """Return the position right after a message, signed.

        Args:
            envelope: The message.
            time: When it was written, in seconds of the broker's clock.
            elsewhere: By log: returns the position in it, for logs that the message is not of.
                None, or no entry: the present position.
        """
        parts = []
        for progress in self._logs:
            # Only a message of this log has a place in it.
            if self._progress_of(envelope) is progress:
                where, offset = place_of(envelope)
                # A message that was taken before the channel became LIVE again is before live_from.
                is_live = offset >= progress.live_from.get(where, 0)
                live_from = progress.live_from if is_live else {}
                begun = progress.begun if offset >= progress.begun.get(where, 0) else {}
                before = progress.before(envelope)
                vector: Vector = highest(before, begun, live_from, {where: offset + 1})
                if envelope.before is None and elsewhere is not None:
                    # It came before the stream was kept, as those before it did.
                    vector = highest(vector, elsewhere[progress]())
            else:
                in_log = None if elsewhere is None else elsewhere.get(progress)
                vector = (in_log or self._reached(progress))()
            parts.append(LogPart(progress, vector, progress.since, progress.identity))
        return self._position(parts, time).sign()

    def elsewhere(self) -> Mapping[Progress, Callable[[], Vector]]:
        """Return the channel's progress in each log, for a message of no log that is in hand."""
        return {each: self._reached(each) for each in self._logs}

    def signer_within(self, since: Mapping[Key, Vector]) -> Callable[[Vector], str]:
        """Return a function that signs positions within a replay, for the replayed addresses.

        Args:
            since: The position from which each of these addresses reached the channel.
        """
        keys, now = list(since), self._context.now()
        identities = [(each, each.identity) for each in self._logs]

        def sign(vector: Vector) -> str:
            parts = [LogPart(each, vector, since, identity) for each, identity in identities]
            return self._position(parts, now, keys).sign()

        return sign

    def _reached(self, progress: Progress) -> Callable[[], Vector]:
        """Return the place in a log before the first message that is not handed over now.

        Returns:
            A function that computes the place, because most places are not asked for.
        """
        # In this order. What was routed while the channel was LIVE was put into the mailbox; and a
        # message that was put and does not wait was taken.
        mailbox, routed = self._mailbox, progress.log.routed
        put = routed if self.state is _LIVE else progress.read
        waiting = mailbox.waiting() if mailbox else ()
        taken = mailbox.in_hand, mailbox.handed_over
        # None of these changes later: the first two are replaced, the last is a copy.
        start, live_from = progress.start, progress.live_from
        handed_over = progress.handed_over.copy()

        def reached() -> Vector:
            for each in (taken[0], *waiting):
                if each is not None and self._progress_of(each) is progress:
                    if each.before is None:
                        return highest(start, live_from, handed_over)
                    return highest(each.before, live_from)
            # The channel may have got the first messages of the batch that is being routed.
            got = [self._reached_with(progress, each) for each in taken]
            return highest(put, live_from, handed_over, *got)

        return reached

    def _reached_with(self, progress: Progress, put: Envelope | None) -> Vector:
        """Return the place in a log up to which all was put before a message, and with it."""
        of = None if put is None else self._progress_of(put)
        # A message to this channel alone knows what was routed before it in the layer's own log.
        if put is None or (of or self._own) is not progress:
            return {}
        before = put.before or {}
        if of is None:
            return before
        where, offset = place_of(put)
        return {**before, where: offset + 1}

    def _position(
        self, parts: Sequence[LogPart], time: float, keys: Sequence[Key] | None = None
    ) -> LogPosition:
        context, own = self._context, parts[0]
        if not own.identity.topic_ids:
            # The reader has not reported its positions, so the channel's beginning is not known.
            time = 0.0
        keys = self._keys() if keys is None else keys
        starts = {
            (where[0], short_hash(name), where[1]): at
            for (_, name), later in own.starts(keys).items()
            for where, at in later.items()
        }
        return LogPosition(
            context.prefix,
            time,
            own.topics(counts_of(own.progress.log.ends)),
            frozenset(short_hash(name) for topic, name in keys if topic is _SEND_GROUP),
            frozenset(short_hash(name) for topic, name in keys if topic is _SEND_USER),
            self.names,
            starts,  # type: ignore[arg-type]
            {
                each.progress.stream.mark: each.of_stream(keys)
                for each in parts
                if each.progress.stream is not None
            },
        )

    def _keys(self) -> list[Key]:
        """Return the addresses that reach the channel."""
        context, mailbox = self._context, self._mailbox
        groups = [(_SEND_GROUP, group) for group in context.groups(mailbox)]
        users = [(_SEND_USER, user) for user in context.users(mailbox)]
        return [*groups, *users, *([EVERYBODY] if context.hears_all() else [])]

    def _progress_of(self, envelope: Envelope) -> Progress | None:
        """Return the progress in the log of a message; None if the message is not of a log."""
        topic = envelope.topic
        if topic is None or topic is _SEND_CONN:
            return None
        return self._streams.get(topic.stream) if type(topic) is StreamTopic else self._own

    # Memberships

    def prepare(self, command: str, name: str) -> list[Ticket[None]]:
        """Do what ``Tracked.prepare`` says."""
        streams = self._context.streams_for((_TOPIC_OF[command], name))
        begun = [each.before_join() for each in streams]
        return [each for each in begun if each is not None]

    def join(self, command: str, name: str) -> None:
        """Do what ``Tracked.join`` says."""
        key = _TOPIC_OF[command], name
        with self.lock:
            if key in self._keys():
                return
            self._own.join(key)
            for stream in self._context.streams_for(key):
                stream.begin()
                progress = self._streams.get(stream.name) or self._follow(stream)
                progress.join(key)

    def _follow(self, stream: KeptStream) -> Progress:
        self._mailbox.__class__ = SharedMailbox
        progress = self._streams[stream.name] = Progress(stream.log, stream)
        self._logs = (*self._logs, progress)
        self._begin(progress)
        return progress

    def changed(self) -> None:
        """Do what ``Tracked.changed`` says."""
        if self.on_change is not None:
            self.on_change()

    @property
    def follows(self) -> list[KeptStream]:
        """The streams that the channel follows."""
        return [each.stream for each in self._logs if each.stream is not None]

    def recovered(
        self,
        former: LogPosition,
        floors: Mapping[Key, Vector],
        of_streams: Collection[tuple[Key, str]] = (),
    ) -> None:
        """Note that messages were replayed: they are handed over.

        Args:
            former: The position from which they were replayed.
            floors: For each replayed address the position from which it reaches the channel now.
            of_streams: The addresses that the former position covered, each with the name of the
                stream.
        """
        with self.lock:
            for progress in self._logs:
                mine = {
                    key: {where: at[where] for where in at if progress.owns(where)}
                    for key, at in floors.items()
                }
                mine = {key: at for key, at in mine.items() if at}
                progress.since.update(mine)
                progress.replayed.update(mine)
                progress.overlap = highest(progress.overlap, *mine.values())
                if progress.stream is not None:
                    name = progress.stream.name
                    progress.recovered = frozenset(key for key, of in of_streams if of == name)
            self._mailbox.attentive = True
            self.names = tuple(dict.fromkeys((*self.names, *former.names)))[: 1 + _FORMER_NAMES]

    # The readers

    def pass_by(self, envelope: Envelope | None) -> bool:
        """Do what ``Tracked.pass_by`` says."""
        with self.lock:
            mailbox = self._mailbox
            of_log = envelope is None or is_of_log(envelope)
            if self.state is _LIVE:
                if envelope is not None and mailbox.put(envelope):
                    return True
                if of_log and not mailbox.closed:
                    self._fall_behind(wake=envelope is None)
                return False
            if envelope is None or of_log or len(mailbox) >= self._capacity:
                if not mailbox:
                    # A flush has emptied the mailbox, and a receive may wait.
                    self._wake()
                return False
            # Between messages that are read later than they were routed it marks no place.
            envelope.before = None
            mailbox.refill([envelope])
            mailbox.note()
            return True

    def lose(self, log: object, lost: Mapping[Where, Loss]) -> None:
        """Note that a log lost records; called by its reading thread, between two batches.

        Args:
            log: The log, whose ``routed`` is still before the loss.
            lost: The partitions, and how they lost records.
        """
        with self.lock:
            progress = next((each for each in self._logs if each.log is log), None)
            if progress is None:
                return
            ends = progress.log.ends
            reaching = {where for key in self._keys() for where in progress.partitions(key, ends)}
            # After "epoch" the log is another one, and no position is valid in it, whatever the
            # addresses of the channel are.
            found = [loss for where, loss in lost.items() if loss == "epoch" or where in reaching]
            if not found:
                progress.identity = progress.identity._replace(epochs=progress.log.epochs)
                return
            progress.lost = found[0]
            progress.forget({where for where, loss in lost.items() if loss == "epoch"})
            if self.state is _LIVE:
                self._fall_behind(wake=True)

    def _fall_behind(self, *, wake: bool) -> None:
        mailbox = self._mailbox
        for progress in self._logs:
            # In this order, as in _reached(). All these messages were put into the mailbox.
            put_until = progress.log.routed
            put = [*mailbox.waiting(), mailbox.in_hand, mailbox.handed_over]
            got = [self._reached_with(progress, each) for each in put]
            progress.read = highest(put_until, progress.live_from, progress.handed_over, *got)
        self._behind_since = monotonic()
        self._capacity, mailbox.capacity = mailbox.capacity, 0
        self.state, mailbox.attentive = _BEHIND, True
        if wake:
            self._wake()

    def _wake(self) -> None:
        if not self._mailbox.closed:
            self._mailbox.refill([READ_ON])
            self._mailbox.note()

    # The receive

    def take(self) -> Envelope | None:
        """Do what ``TrackedMailbox.take`` does, outside its fast path."""
        with self.lock:
            mailbox = self._mailbox
            if self._streams:
                self._note_handed_over()
            if self.state is _LOST:
                self._go_live([progress.log.ends for progress in self._logs])
            while True:
                # First, because a message that is routed and does not wait was taken.
                routed = [progress.log.routed for progress in self._logs]
                if not mailbox and self.state is _BEHIND:
                    if not self._paused:
                        mailbox.hand_over()
                        return None
                    gap = self._read_on_after_pause()
                    if gap is not None:
                        return gap
                    continue
                if not mailbox:
                    self._reach(routed)
                overlaps = any(progress.overlap for progress in self._logs)
                mailbox.attentive = self.state is _BEHIND or self._in_gap or overlaps
                envelope = mailbox.first()
                if envelope is not None and not self._is_skipped(envelope):
                    return self._take_into_hand(envelope)
                if Mailbox.take(mailbox) is None:
                    mailbox.hand_over()
                    return None

    def _read_on_after_pause(self) -> Gap | None:
        self._paused = False
        reason = self._read_on()
        if reason is None:
            return None
        self.state, self._mailbox.in_hand = _LOST, None
        return Gap(reason)

    def _reach(self, routed: Sequence[Vector]) -> None:
        """Note that the channel has all messages that were routed up to here."""
        for progress, reached in zip(self._logs, routed, strict=True):
            progress.reach(reached)

    def pauses(self) -> bool:
        """Tell whether a receive that found nothing pauses instead of waiting; called in its loop.

        Without pauses a channel with a long backlog would block its event loop, and use up the
        interpreter, until it has read all of it.
        """
        if self.state is not _BEHIND or self._paused:
            return False
        self._paused = True
        return True

    def _take_into_hand(self, envelope: Envelope) -> Envelope | None:
        if envelope.topic is None:
            # As in TrackedMailbox.take.
            self._mailbox.hand_over()
        # First, because other threads read the waiting messages before the one in hand.
        self._mailbox.in_hand = envelope
        if self._in_gap and not self.is_late(envelope):
            self._in_gap = False
        return Mailbox.take(self._mailbox)

    def _note_handed_over(self) -> None:
        """Note the message in hand in its log, because the next message may be of another log."""
        taken = self._mailbox.in_hand, self._mailbox.handed_over
        last = taken[1] if taken[0] is None else taken[0]
        if last is None:
            return
        own, progress = self._own, self._progress_of(last)
        if own.last is None and progress in (None, own):
            # Those before it were not noted while the messages of one log filled the mailbox.
            got = [self._reached_with(own, each) for each in taken]
            own.handed_over = highest(own.handed_over, *got)
        if progress is not None:
            where, offset = place_of(last)
            progress.handed_over[where] = max(offset + 1, progress.handed_over.get(where, 0))
            progress.last = last

    def is_late(self, envelope: Envelope) -> bool:
        """Tell whether a message of the log waited for too long."""
        return envelope.deadline + self._context.patience < monotonic()

    def _is_skipped(self, envelope: Envelope) -> bool:
        """Tell whether to skip an envelope: it was handed over before, or is no message."""
        progress = self._progress_of(envelope)
        if progress is None:
            return envelope is READ_ON or self._is_known_answer(envelope)
        if not progress.overlap:
            return False
        where, offset = place_of(envelope)
        if offset < progress.live_from.get(where, 0):
            return True
        if progress.stream is None:
            key: Any = where[0], envelope.key
            return offset < progress.replayed.get(key, {}).get(where, 0)
        # It may have several addresses of the channel, and is new if it is new for one of them.
        ours = set(self._keys()).intersection(envelope.key)
        replayed, since = progress.replayed, progress.since
        return any(offset < replayed.get(each, {}).get(where, 0) for each in ours) and all(
            offset < since.get(each, {}).get(where, 0) for each in ours
        )

    def _is_known_answer(self, envelope: Envelope) -> bool:
        """Tell whether the channel has a last record, which a join brought, already."""
        payload = envelope.payload
        if not isinstance(payload, StreamPayload) or not envelope.key:
            return False
        topic, _, _, _, _, partition, offset = payload.record
        progress = self._streams.get(topic.stream)
        known = () if progress is None else progress.recovered.intersection(envelope.key)
        return any(
            progress is not None and offset < progress.replayed[key].get((topic, partition), 0)
            for key in known
        )

    def _read_on(self) -> Reason | None:
        """Fill half of the mailbox from the recent records; become LIVE if there are no more.

        Returns:
            Why that is not possible; None if it was.
        """
        context = self._context
        ends = [progress.log.ends for progress in self._logs]
        if self._mailbox.closed:
            # The receive then waits, which raises an error.
            self._go_live(ends)
            return None
        lost = next((each.lost for each in self._logs if each.lost is not None), None)
        if lost is not None:
            return lost
        most = max(1, self._capacity // 2)
        next_ones = self._find_all(ends, most)
        if next_ones is None:
            long = monotonic() - self._behind_since > context.window
            return "expired" if long else "limit"
        ordered, read = next_ones
        records, left = ordered[:most], ordered[most:]
        if not records:
            self._go_live(ends)
            return None
        # Not for streams, whose timestamps are set by producers.
        oldest = next((each[4] for each in records if not isinstance(each[0], StreamTopic)), None)
        if oldest is not None and oldest < context.now() - context.window:
            return "expired"
        for record in reversed(left):
            where = record[0], record[5]
            for until in read:
                if where in until:
                    until[where] = record[6]
        self._refill(records)
        for progress, until in zip(self._logs, read, strict=True):
            progress.read = until
        return None

    def _refill(self, records: Iterable[Record]) -> None:
        """Put recent records into the mailbox."""
        envelopes = self._context.envelopes(
            record
            for record in records
            if not is_command(record) and not is_excluded(record, self.names)
        )
        for envelope in envelopes:
            of = self._progress_of(envelope)
            if of is not None:
                envelope.before = of.read
                of.read = of.behind(envelope)
        self._mailbox.refill(envelopes)

    def _find_all(
        self, ends: Sequence[Vector], most: int
    ) -> tuple[list[Record], list[dict[Where, int]]] | None:
        """Return the next records of all logs, and the end of these records in each log.

        Returns:
            At least ``most`` records, if there are as many; None if some are not kept any more.
        """
        keys = self._keys()
        found: list[list[Record]] = []
        read: list[dict[Where, int]] = []
        for progress, end in zip(self._logs, ends, strict=True):
            records_of, until = progress.find_next(keys, end, most)
            if until is None:
                return None
            found += records_of.values()
            read.append(until)
        return list(in_order(found)), read

    def _go_live(self, ends: Sequence[Vector]) -> None:
        mailbox = self._mailbox
        for progress, end in zip(self._logs, ends, strict=True):
            progress.go_live(end)
        mailbox.in_hand = mailbox.handed_over = None
        mailbox.capacity = self._capacity
        if mailbox.closed:
            mailbox.capacity = 0
        self.state = _LIVE

    def gap(self, envelope: Envelope) -> Message | None:
        """Return the message about a gap; None if the last message was one.

        Args:
            envelope: A ``Gap``, or the first message that waited for too long.
        """
        with self.lock:
            if self._in_gap:
                return None
            self._in_gap = self._mailbox.attentive = True
            reason: Reason = envelope.reason if isinstance(envelope, Gap) else "expired"
            parts = []
            for progress in self._logs:
                of_log = self._progress_of(envelope) is progress
                if of_log:
                    vector: Vector = highest(progress.before(envelope), progress.live_from)
                else:
                    vector = self._reached(progress)()
                parts.append(LogPart(progress, vector, progress.since, progress.identity))
        self._context.count_gap(self._mailbox, reason)
        now = self._context.now()
        return Message(
            {"type": "kafka.gap", "reason": reason},
            lambda: self._position(parts, now).sign(),
            now,
            False,
        )

    def message(self, envelope: Envelope, content: dict[str, Any]) -> Message:
        """Return the message of an envelope of a log, if several logs fill the mailbox."""
        now, place = self._context.now(), envelope.place
        elsewhere = {each: each.behind_last() for each in self._logs}

        def sign() -> str:
            return self.sign_behind(envelope, now, elsewhere)

        return Message(content, sign, place[3] if place else now, False, place_text(place))


def _place(envelope: Envelope | None, stream: KeptStream) -> None:
    """Set the place of a stream's message, if it has none and was not put there by a join."""
    if envelope is None or envelope.topic is not None or envelope.key:
        return
    payload = envelope.payload
    if isinstance(payload, StreamPayload):
        topic, _, _, _, written, partition, offset = record = payload.record
        if topic.stream == stream.name:
            envelope.key = tuple(stream.stream.addresses(record))
            envelope.place = topic, partition, offset, written
