"""A tracked channel: its position, and how it reads on where its mailbox was full.

Hot path: every message of a tracked channel passes ``TrackedChannel.receive``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from ..config.realtime import monotonic
from ..config.threads import RLock
from ..delivery.mailbox import Envelope, Mailbox
from ..exceptions import UnreadableRecord
from ..messages import Message
from ..wire.position_token import LogPosition, TopicPosition, place_text, short_hash
from ..wire.records import Record
from ..wire.topics import BROADCAST_TOPICS, Topic
from .recent import Loss, RecentLog, Where
from .replay import (
    EVERYBODY,
    Key,
    Reason,
    in_order,
    is_command,
    is_excluded,
    partitions_of,
)

__all__ = ["State", "Surroundings", "TrackedChannel", "Vector"]

Vector = Mapping[Where, int]
"""An offset for each partition; replaced, never changed."""

TopicIds = Mapping[Topic, str | None]

# How many names a channel had before are remembered.
_FORMER_NAMES = 3

_SEND_CONN, _SEND_GROUP, _SEND_USER = Topic.SEND_CONN, Topic.SEND_GROUP, Topic.SEND_USER

# Wakes the receive of a channel that has to read on, and is no message.
_READ_ON = Envelope(b"", float("inf"))


class State(enum.Enum):
    """The states of a tracked channel; ``TrackedChannel`` says what leads from one to another."""

    LIVE = "live"
    BEHIND = "behind"
    LOST = "lost"


# In Python 3.11 each access to a member of an enumeration costs as much as a call.
_LIVE, _BEHIND, _LOST = State.LIVE, State.BEHIND, State.LOST


class Surroundings(Protocol):
    """What the tracked channels of one server share.

    Attributes:
        recent: The youngest records.
        prefix: The layer's prefix.
        window: How old a message that is replayed may be, in seconds.
        patience: How much longer than ``expiry`` a message of the log may wait, in seconds.
    """

    recent: RecentLog
    prefix: str
    window: float
    patience: float

    def now(self) -> float:
        """Return the broker's time."""

    def groups(self, mailbox: Mailbox) -> Sequence[str]:
        """Return the groups of a channel."""

    def users(self, mailbox: Mailbox) -> Sequence[str]:
        """Return the users of a channel."""

    def hears_all(self) -> bool:
        """Tell whether messages to everybody reach the channels of this server."""

    def decode(self, payload: bytes) -> dict[str, Any]:
        """Decode a message; raises UnreadableRecord."""

    def envelopes(self, records: Iterable[Record]) -> list[Envelope]:
        """Return the messages of records that were not flushed and can be decrypted."""

    def count_late(self, mailbox: Mailbox) -> None:
        """Count a message that expired in a mailbox."""

    def count_unreadable(self, envelope: Envelope, error: UnreadableRecord) -> None:
        """Count a message that cannot be decoded, once."""

    def count_gap(self, mailbox: Mailbox, reason: Reason) -> None:
        """Count a gap."""


class TrackedChannel:
    """Keeps the position of one channel; ``receive`` runs in its loop, any thread calls the rest.

    The position is a vector: everything that was addressed to the channel below it was handed over.
    Three facts make it up. What this server had routed when the channel had nothing waiting and
    nothing in hand (``_base``). The messages that were handed over since. And for each address from
    where it reaches the channel (``_since``): a group's past, before the channel joined it, is none
    of its business.

    ====== ============================================== ========================================
    state  means                                          ends
    ====== ============================================== ========================================
    LIVE   the router puts its messages into the mailbox  BEHIND: the mailbox is full, or a
                                                          message is too old to wait in it
    BEHIND the router passes it by; each time that the    LIVE: it has read all that was read.
           mailbox is empty, receive reads on from the    LOST: what it needs is gone
           recent records
    LOST   ``kafka.gap`` is in hand                       LIVE: the next receive begins, at the end
    ====== ============================================== ========================================

    The reading thread alone begins BEHIND, and a receive ends it. One receive at a time: a message
    counts as handed over when the next receive begins.

    Args:
        mailbox: The channel's mailbox.
        surroundings: What the channels of the server share.
        on_change: Called when a membership of the channel changed; any thread.

    Attributes:
        state: As above.
        names: The hashes of its name and of former ones, the latest first.
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
        self._mailbox = mailbox
        self._around = surroundings
        self._recent = surroundings.recent
        # Re-entrant: a signal handler may interrupt the holder and use the layer.
        self._lock = RLock()
        self._base: Vector = {}
        # Behind the messages that were taken; and behind those that were handed over.
        self._taken: Vector = {}
        self._returned: Vector = {}
        # How many messages of the mailbox were handed over.
        self._returned_count = mailbox.taken
        # What will be the base when so many messages of the mailbox were handed over.
        self._pending: tuple[Vector, int] | None = None
        # From where each address reaches the channel; from its beginning where it is missing.
        self._since: dict[Key, Vector] = {}
        # Where the channel became LIVE again: all before that was handed over.
        self._live_from: Vector = {}
        # Up to where the router may bring messages a second time; empty if it does not.
        self._overlap: Vector = {}
        # Whether the last message was a gap.
        self._in_gap = False
        # While it is not LIVE: the capacity of its mailbox, which is 0 meanwhile, up to where it
        # has read, and since when, on monotonic().
        self._capacity = mailbox.capacity
        self._read: Vector = {}
        self._behind_since = 0.0
        # Why it cannot go on; None if it can, as far as is known.
        self._lost: Reason | None = None
        # The ids of the topics that its position is in.
        self._ids = self._recent.topic_ids
        self.begin()

    # The position

    def begin(self) -> None:
        """Let the position begin here; again when the reader has told its own."""
        with self._lock:
            # First: what is routed later does not wait yet.
            base = dict(self._recent.routed)
            in_hand = {w: at - 1 for w, at in self._taken.items() if self._returned.get(w) != at}
            waiting = dict(reversed(self._waiting()))
            for where, offset in (*in_hand.items(), *waiting.items()):
                base[where] = min(base.get(where, offset), offset)
            self._base, self._ids = base, self._recent.topic_ids

    def position(self) -> LogPosition:
        """Return the position of what was handed over."""
        with self._lock:
            # First: what is routed later does not wait yet.
            routed = self._recent.routed
            mailbox = self._mailbox
            if self.state is _LIVE and not mailbox and mailbox.taken == self._returned_count:
                self._base = routed
            vector = _highest(self._base, self._returned, self._live_from)
            ids, since = self._ids, self._since
        return self._position(vector, since, ids, self._around.now())

    def position_within(self, vector: Vector, since: Mapping[Key, Vector]) -> Callable[[], str]:
        """Return the function that signs a position within a replay.

        Args:
            vector: The position of the replayed addresses.
            since: From where these addresses reached the channel; of others it says nothing.
        """
        now, ids = self._around.now(), self._ids
        return lambda: self._position(vector, since, ids, now, list(since)).sign()

    def _sign(
        self, base: Vector, taken: Vector, live_from: Vector, ids: TopicIds, at: float
    ) -> str:
        """Sign the position of a moment, on ``monotonic()``."""
        time = self._around.now() - (monotonic() - at)
        return self._position(_highest(base, taken, live_from), self._since, ids, time).sign()

    def _position(
        self,
        vector: Vector,
        since: Mapping[Key, Vector],
        ids: TopicIds,
        time: float,
        keys: Sequence[Key] | None = None,
    ) -> LogPosition:
        around = self._around
        if not ids:
            # The reader has not told its positions: where the channel begins is not known.
            time = 0.0
        counts = self._counts(self._recent.ends)
        topics = {
            topic: TopicPosition(
                ids.get(topic),
                tuple(vector.get((topic, number), 0) for number in range(count)),
            )
            for topic, count in counts.items()
        }
        keys = self._keys() if keys is None else keys
        starts = {}
        for key in keys:
            for where in _partitions(key, counts) if key in since else ():
                at = since[key].get(where, 0)
                if at > vector.get(where, 0):
                    starts[where[0], short_hash(key[1]), where[1]] = at
        groups = frozenset(short_hash(name) for topic, name in keys if topic is _SEND_GROUP)
        users = [name for topic, name in keys if topic is _SEND_USER]
        return LogPosition(
            around.prefix,
            time,
            topics,
            groups,
            short_hash(users[0]) if users else None,
            self.names,
            starts,
        )

    @staticmethod
    def _counts(ends: Vector) -> dict[Topic, int]:
        """Return how many partitions each topic has."""
        counts = dict.fromkeys(BROADCAST_TOPICS, 0)
        for topic, number in ends:
            counts[topic] = max(counts[topic], number + 1)
        return counts

    def _keys(self) -> list[Key]:
        """Return the addresses that reach the channel."""
        around, mailbox = self._around, self._mailbox
        groups = [(_SEND_GROUP, group) for group in around.groups(mailbox)]
        users = [(_SEND_USER, user) for user in around.users(mailbox)]
        return [*groups, *users, *([EVERYBODY] if around.hears_all() else [])]

    def _waiting(self) -> list[tuple[Where, int]]:
        """Return the places of the messages that wait in the mailbox."""
        places = [envelope.place for envelope in self._mailbox.waiting()]
        return [
            ((place[0], place[1]), place[2])
            for place in places
            if place is not None and isinstance(place[0], Topic) and place[0] is not _SEND_CONN
        ]

    # Memberships

    def join(self, command: str, name: str) -> None:
        """Do what ``Tracked.join`` says."""
        topic = _SEND_GROUP if command == "group_add" else _SEND_USER
        key = topic, name
        if key not in self._keys():
            self._since[key] = self._recent.routed

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
            self._overlap = _highest(self._overlap, *floors.values())
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
                    self._fall_behind(wake=envelope is None)
                return False
            if envelope is None or of_log or len(mailbox) >= self._capacity:
                if not mailbox:
                    # A flush emptied it, and a receive may wait.
                    self._wake()
                return False
            mailbox.refill([envelope])
            mailbox.note()
            return True

    def lose(self, lost: Mapping[Where, Loss]) -> None:
        """Take note that the log lost records; the reading thread, between two batches."""
        with self._lock:
            counts = self._counts(self._recent.ends)
            reaching = {where for key in self._keys() for where in _partitions(key, counts)}
            found = [loss for where, loss in lost.items() if where in reaching]
            if found:
                self._lost = found[0]
                if self.state is _LIVE:
                    self._fall_behind(wake=True)
                return
            # No message was lost. What is known of these partitions is about another log.
            self._base, self._taken, self._returned, self._live_from, self._read = (
                {where: offset for where, offset in vector.items() if where not in lost}
                for vector in (
                    self._base,
                    self._taken,
                    self._returned,
                    self._live_from,
                    self._read,
                )
            )
            self._base = {**self._base, **{where: self._recent.ends[where] for where in lost}}
            self._pending = None
            self._ids = self._recent.topic_ids

    def _fall_behind(self, wake: bool) -> None:
        mailbox = self._mailbox
        put = {where: offset + 1 for where, offset in self._waiting()}
        self._read = _highest(self._recent.routed, self._taken, self._live_from, put)
        self._behind_since = monotonic()
        self.state = _BEHIND
        self._capacity, mailbox.capacity = mailbox.capacity, 0
        self._pending = None
        if wake:
            self._wake()

    def _wake(self) -> None:
        if not self._mailbox.closed:
            self._mailbox.refill([_READ_ON])
            self._mailbox.note()

    # The receive

    async def receive(self) -> dict[str, Any]:
        """Do what ``Tracked.receive`` says."""
        self._give_back()
        mailbox, around = self._mailbox, self._around
        while True:
            envelope = self._take()
            if envelope is None:
                await mailbox.wait()
                continue
            now = mailbox.last_seen = monotonic()
            if isinstance(envelope, str):
                return self._gap(envelope, now)
            place = envelope.place
            if place is None or place[0] is _SEND_CONN:
                # Nobody recovers it, so it expires as messages of other channels do.
                if envelope.deadline < now:
                    around.count_late(mailbox)
                    continue
                written = around.now() if place is None else place[3]
            else:
                written = place[3]
                if envelope.deadline + around.patience < now:
                    if self._in_gap:
                        continue
                    return self._gap("expired", now)
            self._in_gap = False
            try:
                content = around.decode(envelope.payload)
            except UnreadableRecord as error:
                around.count_unreadable(envelope, error)
                continue
            sign = partial(self._sign, self._base, self._taken, self._live_from, self._ids, now)
            return Message(content, sign, written, False, place_text(place))

    def _give_back(self) -> None:
        with self._lock:
            mailbox = self._mailbox
            self._returned = self._taken
            self._returned_count = count = mailbox.taken
            if self.state is _LOST:
                self._go_live(self._recent.ends)
            pending = self._pending
            if pending is not None:
                if count >= pending[1]:
                    self._base, self._pending = pending[0], None
            elif self.state is _LIVE and mailbox:
                # In this order: what is routed later is not counted yet.
                routed = self._recent.routed
                self._pending = routed, count + len(mailbox)

    def _take(self) -> Envelope | Reason | None:
        """Take the next message; or why there is a gap; or None, and a note will come."""
        with self._lock:
            mailbox = self._mailbox
            while True:
                # First: what is routed later does not wait yet.
                routed = self._recent.routed
                envelope = mailbox.take()
                if envelope is None:
                    # Those that were skipped are handed over, too.
                    self._returned, self._returned_count = self._taken, mailbox.taken
                    if self.state is not _LIVE:
                        reason = self._read_on()
                        if reason is not None:
                            return reason
                        continue
                    self._base, self._pending = routed, None
                    if self._overlap and _covers(routed, self._overlap):
                        self._overlap = self._live_from = {}
                    return None
                place = envelope.place
                if place is None or place[0] is _SEND_CONN:
                    if envelope is _READ_ON:
                        continue
                    return envelope
                where: Any = place[:2]
                if self._overlap and self._is_skipped(envelope, where, place[2]):
                    continue
                self._taken = {**self._taken, where: place[2] + 1}
                return envelope

    def _is_skipped(self, envelope: Envelope, where: Where, offset: int) -> bool:
        """Tell whether a message was handed over before."""
        since = self._since.get((where[0], envelope.key))
        return offset < self._live_from.get(where, 0) or (
            since is not None and offset < since.get(where, 0)
        )

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
        mailbox = self._mailbox
        mailbox.refill(
            self._around.envelopes(
                record
                for record in records
                if not is_command(record) and not is_excluded(record, self.names)
            )
        )
        self._read = read
        self._pending = read, mailbox.taken + len(mailbox)
        return None

    def _find(
        self, ends: Vector, most: int
    ) -> tuple[dict[Where, list[Record]], dict[Where, int] | None]:
        """Return the next records of each partition, ``most`` at least where there are so many.

        Returns:
            The records; and up to where these are all, None if some are not kept any more.
        """
        counts = self._counts(ends)
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
        self.state, self._lost = _LIVE, None
        # All else lies before the end, or in another log.
        self._base = self._live_from = ends
        self._taken = self._returned = {}
        self._since = {key: at for key, at in self._since.items() if not _covers(ends, at)}
        self._ids = self._recent.topic_ids
        self._overlap = _highest(self._overlap, ends)
        self._pending = None
        mailbox.capacity = self._capacity
        if mailbox.closed:
            mailbox.capacity = 0

    def _gap(self, reason: Reason, now: float) -> Message:
        with self._lock:
            if self.state is _BEHIND:
                self.state = _LOST
            self._in_gap = True
        self._around.count_gap(self._mailbox, reason)
        sign = partial(self._sign, self._base, self._returned, self._live_from, self._ids, now)
        content = {"type": "kafka.gap", "reason": reason}
        return Message(content, sign, self._around.now(), False)


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
