"""Order within one process: joins and leaves take effect behind the messages that it sent before.

A message goes to the broker and back before it reaches the members of its group; a channel of this
process would join or leave at once. So a join or a leave waits until this server has read back the
messages that this process sent to that group before. It writes a mark behind them, into the same
partition, and waits until the mark is read. If the process sent nothing to the group, it writes
nothing.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..config.realtime import monotonic
from ..config.threads import RLock
from ..config.timings import Timings
from ..delivery.tickets import Steps, Ticket, wait
from ..exceptions import KafkaLayerError
from ..messages import Position
from ..transport_values import QueueFull
from ..wire.partitions import partition_of
from ..wire.records import Record
from ..wire.topics import Topic
from .identity import Identity
from .sending import Sender

if TYPE_CHECKING:
    from ..transport import Backplane, RecordSink

__all__ = ["Ordering"]

_TOPICS = (Topic.SEND_GROUP, Topic.SEND_USER)

# How many keys of one topic are remembered; beyond that every key counts as sent to.
_MOST_KEYS = 100_000

_MARK = "\0"
"""The first character of the keys of marks; no group and no user has such a name."""


class Ordering:
    """Reads this process's own messages back before a membership changes; the sink of data.

    The data reader's thread calls ``deliver``; any thread may call the rest.

    Args:
        identity: Which server this is.
        sender: Writes the marks, and notes the keys of messages.
        transport: Knows how many partitions a topic has.
        router: Gets all records.
        timings: The layer's times.
    """

    def __init__(
        self,
        identity: Identity,
        sender: Sender,
        transport: Backplane,
        router: RecordSink,
        timings: Timings,
    ) -> None:
        self._identity = identity
        self._sender = sender
        self._transport = transport
        self._deliver = router.deliver
        self._timings = timings
        self._keys = {topic: _Keys() for topic in _TOPICS}
        self._numbers = itertools.count(1)
        self._mark = b""
        # By the value of a mark: its ticket, resolved when the mark is read.
        self._marks: dict[bytes, Ticket[None]] = {}
        self._marks_of: dict[tuple[Topic, str], Ticket[None]] = {}
        # Of two joins at the same time one writes the mark.
        self._lock = RLock()
        self._held: Ticket[None] | None = None
        self._next_rotation = float("inf")
        self._suspended_until = float("-inf")

    def begin(self) -> None:
        """Note the keys of messages from now on; before the server reads its first record."""
        queued = self._transport.health().queued > 0
        for topic, keys in self._keys.items():
            if queued:
                # The keys of messages that are queued already were not noted.
                keys.count_all()
            self._sender.note_keys(topic, keys.note)
        self._next_rotation = monotonic() + self._timings.read_back_window

    def deliver(self, records: Sequence[Record]) -> None:
        """Pass records to the router; then resolve the tickets of marks among them."""
        self._deliver(records)
        if self._marks:
            for _, key, value, _, _, _, _ in records:
                if key == self._mark and value is not None:
                    ticket = self._marks.pop(value, None)
                    if ticket is not None:
                        ticket.resolve(None)

    def hold(self, until: Ticket[None]) -> None:
        """Have joins and leaves wait for a ticket, too, for at most ``Timings.read_back``."""
        self._held = until

    def is_settled(self, topic: Topic, key: str) -> bool:
        """Tell whether ``settle`` would have nothing to wait for."""
        # Without the lock: settle() notes the mark of a key before it forgets the key.
        if self._held is not None or self._keys[topic].holds(key):
            return False
        return not self._marks_of or (topic, key) not in self._marks_of

    def settle(self, topic: Topic, key: str) -> Steps[None]:
        """Wait until this server has read back the messages that this process sent to a key.

        Gives up, without an error, after ``Timings.read_back`` or if the mark cannot be written: a
        join must not depend on a broker that does not answer.

        Args:
            topic: ``SEND_GROUP`` or ``SEND_USER``.
            key: The group, or the user.
        """
        value = b""
        if self._held is not None:
            with contextlib.suppress(TimeoutError):
                yield from wait(self._held, self._timings.read_back)
            self._held = None
        with self._lock:
            ticket = self._marks_of.get((topic, key))
            keys = self._keys[topic]
            if keys.holds(key):
                if self._may_write():
                    value, ticket = self._new_mark(topic, key)
                keys.forget(key)
        if value and ticket is not None:
            self._write_mark(topic, key, value, ticket)
        if ticket is None:
            return
        try:
            yield from wait(ticket, self._timings.read_back)
        except TimeoutError:
            self._suspended_until = monotonic() + self._timings.read_back_window
            # Drop the mark, which may never be read.
            ticket.resolve(None)

    def close(self) -> None:
        """Resolve the tickets of all marks: no record is read any more."""
        for ticket in list(self._marks.values()):
            ticket.resolve(None)

    def tick(self) -> None:
        """Forget keys whose messages were read back long ago; about once a second."""
        for keys in self._keys.values():
            keys.limit()
        if monotonic() < self._next_rotation:
            return
        self._next_rotation = monotonic() + self._timings.read_back_window
        health = self._transport.health()
        if health.connected and not health.queued and not health.lag:
            for topic, keys in self._keys.items():
                keys.rotate()
                self._sender.note_keys(topic, keys.note)

    def _may_write(self) -> bool:
        return monotonic() >= self._suspended_until and self._transport.health().connected

    def _new_mark(self, topic: Topic, key: str) -> tuple[bytes, Ticket[None]]:
        value = str(next(self._numbers)).encode()
        ticket: Ticket[None] = Ticket()
        where = topic, key

        def forget(_: object) -> None:
            self._marks.pop(value, None)
            if self._marks_of.get(where) is ticket:
                self._marks_of.pop(where, None)

        self._marks[value] = self._marks_of[where] = ticket
        ticket.on_done(forget)
        return value, ticket

    def _write_mark(self, topic: Topic, key: str, value: bytes, ticket: Ticket[None]) -> None:
        name = _MARK + str(self._identity.require())
        self._mark = name.encode()
        partition = partition_of(key, self._transport.partitions(topic))

        def give_up_if_failed(produced: Ticket[Position]) -> None:
            if produced.error is not None:
                ticket.resolve(None)

        # With a ticket the producer sends the mark, and all records before it, at once.
        produced: Ticket[Position] = Ticket()
        produced.on_done(give_up_if_failed)
        try:
            self._sender.publish((topic, name, value, partition, ()), produced)
        except (QueueFull, KafkaLayerError):
            ticket.resolve(None)


class _Keys:
    """The keys of one topic to which this process sent lately.

    In two generations: a key is dropped at the second rotation after its message.

    Attributes:
        note: The sender adds the key of each message to it; each rotation replaces it.
    """

    def __init__(self) -> None:
        self.note: dict[str, None] = {}
        self._older: dict[str, None] = {}
        # For how many more rotations every key counts as sent to, because keys were not noted.
        self._any_key_for = 0

    def holds(self, key: str) -> bool:
        """Tell whether something was sent to a key."""
        return key in self.note or key in self._older or self._any_key_for > 0

    def forget(self, key: str) -> None:
        """Forget that something was sent to a key."""
        self.note.pop(key, None)
        self._older.pop(key, None)

    def count_all(self) -> None:
        """Let every key count as sent to, until the second rotation from now."""
        self._any_key_for = 2

    def limit(self) -> None:
        """Bound the memory."""
        if len(self.note) + len(self._older) > _MOST_KEYS:
            self.count_all()
            self.note.clear()
            self._older.clear()

    def rotate(self) -> None:
        """Drop the older generation, whose messages were all read back."""
        self._any_key_for = max(0, self._any_key_for - 1)
        self._older, self.note = self.note, {}
