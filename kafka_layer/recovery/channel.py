"""A tracked channel: its position, and how it reads on where its mailbox was full.

Hot path: every message of a tracked channel passes ``TrackedMailbox.take``. It touches nothing but
the mailbox: with a thousand channels, each further object is a cache miss.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ..config.realtime import monotonic
from ..config.threads import RLock
from ..delivery.mailbox import Envelope, Mailbox
from ..messages import Message
from ..wire.position_token import LogPosition, TopicPosition, short_hash
from ..wire.records import Record
from ..wire.topics import Topic
from .epochs import UNKNOWN, LeaderEpochs
from .recent import Loss, RecentLog, Where
from .replay import (
    EVERYBODY,
    Key,
    Reason,
    counts_of,
    in_order,
    is_command,
    is_excluded,
    partitions_of,
)

__all__ = ["READ_ON", "Gap", "State", "Surroundings", "TrackedChannel", "TrackedMailbox", "Vector"]

Vector = Mapping[Where, int]
"""An offset for each partition; replaced, never changed."""

# How many names a channel had before are remembered.
_FORMER_NAMES = 3


_SEND_CONN, _SEND_GROUP, _SEND_USER = Topic.SEND_CONN, Topic.SEND_GROUP, Topic.SEND_USER

READ_ON = Envelope(b"", float("inf"))
"""Wakes the receive of a channel that has to read on, and is no message."""


class State(enum.Enum):
    """The states of a tracked channel; ``TrackedChannel`` says what leads from one to another."""

    LIVE = "live"
    BEHIND = "behind"
    LOST = "lost"


# In Python 3.11 each access to a member of an enumeration costs as much as a call.
_LIVE, _BEHIND, _LOST = State.LIVE, State.BEHIND, State.LOST


class _Log(NamedTuple):
    """The log in which a position lies; where it lost its end, another one follows.

    Attributes:
        topic_ids: The ids of its topics; empty before the reader told its positions.
        epochs: The leader epochs of its records.
    """

    topic_ids: Mapping[Topic, str | None]
    epochs: LeaderEpochs


class Surroundings(Protocol):
    """What the tracked channels of one server share.

    Attributes:
        recent: The youngest records.
        prefix: The layer's prefix.
        window: How old a message that is replayed may be, in seconds.
        patience: How much longer than ``expiry`` a message of the log may wait, in seconds.
        pause: Seconds for which a channel that is behind leaves its event loop and the interpreter
            to others each time before it reads on.
        open: Makes a message of what a channel took; see ``Opening``.
    """

    recent: RecentLog
    prefix: str
    window: float
    patience: float
    pause: float
    open: Callable[[Mailbox, Envelope], Message | None]

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


class Gap(Envelope):
    """Stands for messages that a channel cannot get any more.

    Attributes:
        reason: Why.
    """

    __slots__ = ("reason",)

    def __init__(self, reason: Reason) -> None:
        super().__init__(b"", float("inf"))
        self.reason = reason


class TrackedMailbox(Mailbox):
    """The mailbox of a tracked channel: it keeps the message that was taken last."""

    __slots__ = ()

    tracked: TrackedChannel

    def take(self) -> Envelope | None:
        """Return the next message, or None; the receiving loop."""
        if self.attentive:
            return self.tracked.take()
        messages = self._messages
        if not messages:
            self._congestion = None
            # hand_over(), in place.
            if self.in_hand is not None:
                self.handed_over = self.in_hand
                self.in_hand = None
            return None
        try:
            # First: who looks at the channel looks at what waits, and then at what is in hand.
            self.in_hand = first = messages[0]
            envelope = messages.popleft()
        except IndexError:  # a flush or a close was faster
            return None
        if envelope is not first:
            self.in_hand = envelope
        self.taken += 1
        if self._congestion is not None:
            self._relieve(self._congestion)
        return envelope

    def wait(self) -> Coroutine[Any, Any, None]:
        """Do what ``Mailbox.wait`` does; or return after a pause, before the channel reads on."""
        if self.attentive and self.tracked.pauses():
            return asyncio.sleep(self.tracked.pause)
        return Mailbox.wait(self)


class TrackedChannel:
    """Keeps the position of one channel.

    The channel's loop calls ``take`` and ``open``, the thread that reads calls ``begin``,
    ``pass_by`` and ``lose``; any thread calls the rest.

    The position is a vector: everything that was addressed to the channel below it was handed over.
    A mailbox has its messages in the order in which they were routed. So the position is the place
    in that order before the first message that is in hand or waits (``Envelope.before``), and the
    end of what is routed where there is none. What was sent to a group before the channel joined it
    is none of its business: for each address there is the place from which it reaches the channel.

    ====== ============================================== ========================================
    state  means                                          ends
    ====== ============================================== ========================================
    LIVE   the router puts its messages into the mailbox  BEHIND: the mailbox is full, a message is
                                                          too old to wait in it, or the log lost
                                                          messages
    BEHIND the router passes it by; each time that the    LIVE: it has read all that was read.
           mailbox is empty, take reads on from the       LOST: what it needs is gone
           recent records, after a pause
    LOST   ``kafka.gap`` is in hand                       LIVE: the next take, at the end
    ====== ============================================== ========================================

    One receive at a time: a message counts as handed over when the next receive waits or takes. So
    what was taken last is in hand unless a receive waits.

    Args:
        mailbox: The channel's mailbox.
        surroundings: What the channels of the server share.
        on_change: Called when a membership of the channel changed; any thread.

    Attributes:
        state: As above.
        names: The hashes of its name and of former ones, the latest first.
        on_change: As given.
        pause: As of the surroundings.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        surroundings: Surroundings,
        on_change: Callable[[], object] | None = None,
    ) -> None:
        self.state = _LIVE
        self.names: tuple[bytes, ...] = (short_hash(mailbox.channel),)
        self.on_change = on_change
        self.pause = surroundings.pause
        self._mailbox = mailbox
        self._around = surroundings
        self._recent = surroundings.recent
        # Re-entrant: a signal handler may interrupt the holder and use the layer.
        self._lock = RLock()
        # From where each address reaches the channel; from its beginning where it is missing.
        self._since: dict[Key, Vector] = {}
        # Where the channel became LIVE again, and for each replayed address the end of what was
        # replayed; and up to where the router may bring messages a second time, empty if it does
        # not.
        self._live_from: Vector = {}
        self._replayed: dict[Key, Vector] = {}
        self._overlap: Vector = {}
        # Whether the last message was a gap.
        self._in_gap = False
        # While it is not LIVE: the capacity of its mailbox, which is 0 meanwhile, up to where it
        # has read, since when, on monotonic(), whether it has paused since it read on last, and why
        # it cannot go on, if that is known.
        self._capacity = mailbox.capacity
        self._read: Vector = {}
        self._behind_since = 0.0
        self._paused = False
        self._lost: Reason | None = None
        self._log = _Log({}, self._recent.epochs)
        # The position before messages that were routed before anything was tracked.
        self._start: Vector = {}
        mailbox.tracked, mailbox.open_tracked = self, surroundings.open
        mailbox.__class__ = TrackedMailbox
        self.begin()

    # The position

    def begin(self) -> None:
        """Let the position begin here; again when the reader has told its own."""
        with self._lock:
            # First: what is routed later does not wait yet.
            start = dict(self._recent.routed)
            for envelope in self._waiting():
                where, offset = _place_of(envelope)
                start[where] = min(start.get(where, offset), offset)
            self._start, self._log = start, self._present_log()

    def position(self) -> LogPosition:
        """Return the position of what was handed over."""
        with self._lock:
            vector = self._reached()
            log = self._log
        return self._position(vector, self._since, log, self._around.now())

    def sign_behind(self, envelope: Envelope, time: float) -> str:
        """Return the position right behind a message, signed.

        Args:
            envelope: The message.
            time: When it was written, in seconds of the broker's clock.
        """
        # One that is not of the log has no place in it.
        vector: Vector = self._reached()
        if _is_of_log(envelope):
            where, offset = _place_of(envelope)
            # What was taken before the channel became LIVE again lies before that.
            live_from = self._live_from if offset >= self._live_from.get(where, 0) else {}
            vector = _highest(self._before(envelope), live_from, {where: offset + 1})
        return self._position(vector, self._since, self._log, time).sign()

    def signer_within(self, since: Mapping[Key, Vector]) -> Callable[[Vector], str]:
        """Return the function that signs positions within a replay, of the replayed addresses.

        Args:
            since: From where these addresses reached the channel; of others it says nothing.
        """
        keys, now, log = list(since), self._around.now(), self._log
        return lambda vector: self._position(vector, since, log, now, keys).sign()

    def _reached(self) -> Vector:
        """Return the place before the first message that was not handed over."""
        # In this order: what is routed and does not wait was taken.
        mailbox = self._mailbox
        put = self._recent.routed if self.state is _LIVE else self._read
        waiting, last = self._waiting(), mailbox.in_hand
        if last is not None and _is_of_log(last):
            return _highest(self._before(last), self._live_from)
        if waiting:
            return _highest(self._before(waiting[0]), self._live_from)
        # Of the batch that is being routed, the channel may have got the first ones.
        handed = mailbox.handed_over
        got = {} if handed is None or not _is_of_log(handed) else self._behind(handed)
        return _highest(put, self._live_from, got)

    def _before(self, envelope: Envelope) -> Vector:
        return self._start if envelope.before is None else envelope.before

    def _behind(self, envelope: Envelope) -> dict[Where, int]:
        where, offset = _place_of(envelope)
        return _highest(self._before(envelope), self._live_from, {where: offset + 1})

    def _position(
        self,
        vector: Vector,
        since: Mapping[Key, Vector],
        log: _Log,
        time: float,
        keys: Sequence[Key] | None = None,
    ) -> LogPosition:
        around = self._around
        if not log.topic_ids:
            # The reader has not told its positions: where the channel begins is not known.
            time = 0.0
        ends = self._recent.ends
        counts = counts_of(ends)
        topics = {}
        for topic, count in counts.items():
            wheres = [(topic, number) for number in range(count)]
            offsets = tuple(vector.get(where, 0) for where in wheres)
            epochs = tuple(
                log.epochs.at(where, offset - 1, ends.get(where, 0))
                for where, offset in zip(wheres, offsets, strict=True)
            )
            if max(epochs, default=UNKNOWN) == UNKNOWN:
                epochs = ()
            topics[topic] = TopicPosition(log.topic_ids.get(topic), offsets, epochs)
        keys = self._keys() if keys is None else keys
        starts = {}
        for key in keys:
            for where in _partitions(key, counts) if key in since else ():
                at = since[key].get(where, 0)
                if at > vector.get(where, 0):
                    starts[where[0], short_hash(key[1]), where[1]] = at
        groups = frozenset(short_hash(name) for topic, name in keys if topic is _SEND_GROUP)
        users = frozenset(short_hash(name) for topic, name in keys if topic is _SEND_USER)
        return LogPosition(
            around.prefix,
            time,
            topics,
            groups,
            users,
            self.names,
            starts,
        )

    def _keys(self) -> list[Key]:
        """Return the addresses that reach the channel."""
        around, mailbox = self._around, self._mailbox
        groups = [(_SEND_GROUP, group) for group in around.groups(mailbox)]
        users = [(_SEND_USER, user) for user in around.users(mailbox)]
        return [*groups, *users, *([EVERYBODY] if around.hears_all() else [])]

    def _present_log(self) -> _Log:
        return _Log(self._recent.topic_ids, self._recent.epochs)

    def _waiting(self) -> list[Envelope]:
        """Return the messages of the log that wait in the mailbox."""
        return list(filter(_is_of_log, self._mailbox.waiting()))

    # Memberships

    def join(self, command: str, name: str) -> None:
        """Do what ``Tracked.join`` says."""
        topic = _SEND_GROUP if command == "group_add" else _SEND_USER
        key = topic, name
        if key not in self._keys():
            self._since[key] = _highest(self._recent.routed, self._replayed.get(key, {}))

    def changed(self) -> None:
        """Do what ``Tracked.changed`` says."""
        if self.on_change is not None:
            self.on_change()

    def since(self, key: Key) -> Vector:
        """Return from where an address reaches the channel."""
        return self._since.get(key, {})

    def recovered(self, former: LogPosition, floors: Mapping[Key, Vector]) -> None:
        """Count replayed messages as handed over.

        Args:
            former: The position from which they were replayed.
            floors: For each replayed address from where it reaches the channel now.
        """
        with self._lock:
            self._since.update(floors)
            self._replayed.update(floors)
            self._overlap = _highest(self._overlap, *floors.values())
            self._mailbox.attentive = True
            self.names = tuple(dict.fromkeys((*self.names, *former.names)))[: 1 + _FORMER_NAMES]

    # The router

    def pass_by(self, envelope: Envelope | None) -> bool:
        """Do what ``Tracked.pass_by`` says."""
        with self._lock:
            mailbox = self._mailbox
            of_log = envelope is None or _is_of_log(envelope)
            if self.state is _LIVE:
                if envelope is not None and mailbox.put(envelope):
                    return True
                if of_log and not mailbox.closed:
                    self._fall_behind(self._recent.routed, wake=envelope is None)
                return False
            if envelope is None or of_log or len(mailbox) >= self._capacity:
                if not mailbox:
                    # A flush emptied it, and a receive may wait.
                    self._wake()
                return False
            mailbox.refill([envelope])
            mailbox.note()
            return True

    def lose(self, lost: Mapping[Where, Loss], routed: Vector) -> None:
        """Take note that the log lost records; the reading thread, between two batches.

        Args:
            lost: The partitions, and how.
            routed: Up to where this server had routed before.
        """
        with self._lock:
            counts = counts_of(self._recent.ends)
            reaching = {where for key in self._keys() for where in _partitions(key, counts)}
            # In another log no position means anything, whatever is addressed to the channel.
            found = [loss for where, loss in lost.items() if loss == "epoch" or where in reaching]
            if not found:
                self._log = self._log._replace(epochs=self._recent.epochs)
                return
            self._lost = found[0]
            if self.state is _LIVE:
                self._fall_behind(routed, wake=True)

    def _fall_behind(self, routed: Vector, wake: bool) -> None:
        mailbox = self._mailbox
        # In this order, as in _reached(). All of these were put into the mailbox.
        waiting, taken = self._waiting(), (mailbox.in_hand, mailbox.handed_over)
        put = [each for each in (*waiting, *taken) if each is not None and _is_of_log(each)]
        self._read = _highest(routed, self._live_from, *map(self._behind, put))
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
        """Do what ``TrackedMailbox.take`` does, where there is more to do."""
        with self._lock:
            mailbox = self._mailbox
            if self.state is _LOST:
                self._go_live(self._recent.ends)
            while True:
                routed = self._recent.routed
                if not mailbox and self.state is _BEHIND:
                    if not self._paused:
                        mailbox.hand_over()
                        return None
                    self._paused = False
                    reason = self._read_on()
                    if reason is not None:
                        self.state, mailbox.in_hand = _LOST, None
                        return Gap(reason)
                    continue
                if not mailbox and self._overlap and _covers(routed, self._overlap):
                    self._overlap, self._live_from, self._replayed = {}, {}, {}
                mailbox.attentive = self.state is _BEHIND or bool(self._overlap) or self._in_gap
                # First: who looks at the channel looks at what waits, and then at what is in hand.
                envelope = mailbox.first()
                if envelope is not None and not self._is_skipped(envelope):
                    mailbox.in_hand = envelope
                    if self._in_gap and not self.is_late(envelope):
                        self._in_gap = False
                    return Mailbox.take(mailbox)
                if Mailbox.take(mailbox) is None:
                    mailbox.hand_over()
                    return None

    def pauses(self) -> bool:
        """Tell whether a receive that found nothing is to pause, instead of waiting; its loop.

        One with a long backlog would else keep its loop, and the interpreter, from others until it
        has read all of it.
        """
        if self.state is not _BEHIND or self._paused:
            return False
        self._paused = True
        return True

    def is_late(self, envelope: Envelope) -> bool:
        """Tell whether a message of the log waited for too long."""
        return envelope.deadline + self._around.patience < monotonic()

    def _is_skipped(self, envelope: Envelope) -> bool:
        """Tell whether a message was handed over before, or is none."""
        place = envelope.place
        if place is None or place[0] is _SEND_CONN:
            return envelope is READ_ON
        if not self._overlap:
            return False
        where: Any = place[:2]
        replayed = self._replayed.get((where[0], envelope.key), {})
        return place[2] < max(self._live_from.get(where, 0), replayed.get(where, 0))

    def _read_on(self) -> Reason | None:
        """Fill half of the mailbox from the recent records; become LIVE where there are none.

        Returns:
            Why it cannot go on; None if it can.
        """
        if self._mailbox.closed:
            # The receive then waits, which raises.
            self._go_live(self._recent.ends)
            return None
        if self._lost is not None:
            return self._lost
        most = max(1, self._capacity // 2)
        ends = self._recent.ends
        found, until = self._find(ends, most)
        if until is None:
            long = monotonic() - self._behind_since > self._around.window
            return "expired" if long else "limit"
        ordered = list(in_order(found.values()))
        records, left = ordered[:most], ordered[most:]
        if not records:
            self._go_live(ends)
            return None
        if records[0][4] < self._around.now() - self._around.window:
            return "expired"
        read = until
        for record in reversed(left):
            read[record[0], record[5]] = record[6]
        envelopes = self._around.envelopes(
            record
            for record in records
            if not is_command(record) and not is_excluded(record, self.names)
        )
        before = self._read
        for envelope in envelopes:
            envelope.before = before
            before = self._behind(envelope)
        self._mailbox.refill(envelopes)
        self._read = read
        return None

    def _find(
        self, ends: Vector, most: int
    ) -> tuple[dict[Where, list[Record]], dict[Where, int] | None]:
        """Return the next records of each partition, ``most`` at least where there are so many.

        Returns:
            The records; and up to where these are all, None if some are not kept any more.
        """
        counts = counts_of(ends)
        found: dict[Where, list[Record]] = {}
        until = dict(ends)
        for key in self._keys():
            since = self._since.get(key, {})
            for where in _partitions(key, counts):
                first = max(self._read.get(where, 0), since.get(where, 0))
                end = ends.get(where, 0)
                name = None if key is EVERYBODY else key[1].encode()
                records = self._recent.find(where, name, first, end, most)
                if records is None:
                    return {}, None
                if len(records) == most:
                    # The key may have more, and other keys' records lie behind those.
                    until[where] = min(until[where], records[-1][6] + 1)
                if records:
                    found.setdefault(where, []).extend(records)
        return {
            where: [record for record in records if record[6] < until[where]]
            for where, records in found.items()
        }, until

    def _go_live(self, ends: Vector) -> None:
        mailbox = self._mailbox
        # All else lies before the end, or in another log.
        self._live_from, self._log = ends, self._present_log()
        self._since = {key: at for key, at in self._since.items() if not _covers(ends, at)}
        self._overlap = _highest(self._overlap, ends)
        self._lost = mailbox.in_hand = mailbox.handed_over = None
        mailbox.capacity = self._capacity
        if mailbox.closed:
            mailbox.capacity = 0
        self.state = _LIVE

    def gap(self, envelope: Envelope) -> Message | None:
        """Return the message that tells of a gap; None if the one before told it.

        Args:
            envelope: ``Gap``, or the first of the messages that waited for too long.
        """
        with self._lock:
            if self._in_gap:
                return None
            self._in_gap = self._mailbox.attentive = True
            reason: Reason = envelope.reason if isinstance(envelope, Gap) else "expired"
            of_log = _is_of_log(envelope)
            vector = self._before(envelope) if of_log else self._read
            vector, log = _highest(vector, self._live_from), self._log
        self._around.count_gap(self._mailbox, reason)
        now = self._around.now()

        def sign() -> str:
            return self._position(vector, self._since, log, now).sign()

        return Message({"type": "kafka.gap", "reason": reason}, sign, now, False)


def _place_of(envelope: Envelope) -> tuple[Where, int]:
    """Return the partition and the offset of a message of the log."""
    place: Any = envelope.place
    return place[:2], place[2]


def _is_of_log(envelope: Envelope) -> bool:
    """Tell whether a message can be read from the log again."""
    return envelope.place is not None and envelope.place[0] is not _SEND_CONN


def _partitions(key: Key, counts: Mapping[Topic, int]) -> list[Where]:
    topic = key[0]
    return [(topic, number) for number in partitions_of(key, 1, counts[topic])]


def _highest(*vectors: Vector) -> dict[Where, int]:
    """Return the highest offset of each partition."""
    highest = dict(vectors[0])
    for vector in vectors[1:]:
        for where, offset in vector.items():
            if offset > highest.get(where, 0):
                highest[where] = offset
    return highest


def _covers(vector: Vector, other: Vector) -> bool:
    return all(vector.get(where, 0) >= offset for where, offset in other.items())
