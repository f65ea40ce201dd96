"""The bounded queue of messages behind one channel.

Hot path: each message to a group is put into the mailbox of each member.

A thread that puts a message appends it to the mailbox and leaves a note for the receives that wait
(see ``wakeups``). ``receive`` itself takes the message, with no await between taking and returning,
so a cancelled receive loses none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ..config import realtime as time
from .backpressure import Congestion
from .tickets import Ticket
from .wakeups import Envelope, Loop, Receives, Wakeups

__all__ = ["Envelope", "Mailbox", "Read", "Tracked"]


_NEVER: tuple[int, Mapping[Loop, float]] = 0, {}


class Tracked(Protocol):
    """The owner of a tracked channel's position.

    Attributes:
        on_change: Called when a membership of the channel changed; None if nobody asks.
    """

    on_change: Callable[[], object] | None

    def prepare(self, command: str, name: str) -> Sequence[Ticket[None]]:
        """Return what an addition to a group or a user has to wait for, before ``join``."""

    def join(self, command: str, name: str) -> None:
        """Note from where a group or a user reaches the channel, just before it is added."""

    def changed(self) -> None:
        """Take note that a membership has changed."""

    def pass_by(self, envelope: Envelope | None) -> bool:
        """Take a message for which the mailbox has no room; never blocks.

        Args:
            envelope: The message; None for one that the channel has to read from the log, because
                it is too old to wait in a mailbox.

        Returns:
            Whether it was put into the mailbox. If not, a message of the log waits there.
        """


class Mailbox(Receives):
    """The messages that wait for the receivers of one channel.

    Any thread may ``put``, ``take``, ``clear`` and ``close``; ``wait`` runs in the event loop that
    receives. Any number of loops may receive at the same time.

    Args:
        channel: The channel's name.
        capacity: Messages it holds at most.
        wakeups: The event loops of its server.
        on_wait: As for ``Receives``.

    Attributes:
        taken: How many messages were taken from it.
        received_by: The type of name that receives used, set by ``receive``: ``ChannelName`` while
            all used the object that ``new_channel()`` returned, ``str`` once one used a copy, None
            before the first.
        tracked: The owner of its position; None for a channel that is not tracked.
        open_tracked: Of a tracked channel: makes a message of what was taken, or None, counted, if
            it is none. All of them share it, so a receive need not touch ``tracked``.
        in_hand: Of a tracked channel: the message that was taken last; None once a receive came
            after it and found no other.
        handed_over: Of a tracked channel: the last message with a place that was in hand before.
        attentive: Of a tracked channel: whether ``take`` has more to do than to take the next
            message.
    """

    __slots__ = (
        "_congestion",
        "_filled",
        "attentive",
        "capacity",
        "channel",
        "handed_over",
        "in_hand",
        "open_tracked",
        "received_by",
        "taken",
        "tracked",
    )

    def __init__(
        self,
        channel: str,
        capacity: int,
        wakeups: Wakeups,
        on_wait: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(wakeups, on_wait)
        self.channel = channel
        self.capacity = capacity
        self.received_by: type[str] | None = None
        self.taken = 0
        self.tracked: Tracked | None = None
        self.open_tracked: Callable[[Mailbox, Envelope], dict[str, Any] | None] | None = None
        self.in_hand: Envelope | None = None
        self.handed_over: Envelope | None = None
        self.attentive = False
        # While the reading thread is concerned with it: until the take that drains it.
        self._congestion: Congestion | None = None
        # When a message filled it last: ``taken``, and for each loop the seconds for which it ran.
        self._filled = _NEVER

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, envelope: Envelope) -> bool:
        """Append a message and leave notes to wake the receives; any thread.

        The note takes effect with the next ``Wakeups.flush``.

        Returns:
            False if the mailbox is full or closed; it did not take the message then.
        """
        messages = self._messages
        if len(messages) >= self.capacity:
            return False
        messages.append(envelope)
        # Another thread may have put a message, or closed the mailbox, since the line above.
        if len(messages) >= self.capacity and not self._fill(envelope):
            return False
        # note(), in place.
        for here in self._by_loop:
            if not here.noted and here.waiters:
                here.noted = True
                here.loop.due[self] = None
                self._wakeups.noted[here.loop] = None
        return True

    def take(self) -> Envelope | None:
        """Return the oldest message, or None; any thread, in practice the receiving loop's."""
        # Most receives come before their message, and an IndexError costs as much as the rest.
        messages = self._messages
        if not messages:
            # A receive that finds the mailbox empty keeps up.
            self._congestion = None
            return None
        try:
            envelope = messages.popleft()
        except IndexError:
            return None
        self.taken += 1
        congestion = self._congestion
        if congestion is not None and len(messages) <= congestion.tells_at:
            self._relieve(congestion)
        return envelope

    def drop_expired(self) -> int:
        """Drop the expired messages of a full mailbox; any thread.

        Room that comes from this is no sign of a receiver, so it does not end a stall.

        Returns:
            How many messages were dropped.
        """
        congestion, now = self.congestion(), time.monotonic()
        if now < congestion.none_expires_before:
            return 0
        dropped, earliest = 0, math.inf
        for envelope in self._messages.copy():
            if envelope.deadline >= now:
                earliest = min(earliest, envelope.deadline)
                continue
            try:
                self._messages.remove(envelope)
            except ValueError:  # a receive was faster
                continue
            dropped += 1
        congestion.none_expires_before = earliest
        return dropped

    def close(self, error: Exception) -> int:
        """Do what ``Receives.close`` does, and refuse later messages."""
        self.capacity = 0
        dropped = super().close(error)
        # Again: a tracked channel may just have opened it.
        self.capacity = 0
        return dropped

    def first(self) -> Envelope | None:
        """Return the oldest message without taking it, or None; the receiving loop."""
        return self._messages[0] if self._messages else None

    def hand_over(self) -> None:
        """Note that a receive of a tracked channel found nothing but what is in hand; its loop."""
        if self.in_hand is not None:
            # In this order: who looks at the channel looks at what is in hand first.
            if self.in_hand.topic is not None:
                self.handed_over = self.in_hand
            self.in_hand = None

    def refill(self, envelopes: Sequence[Envelope]) -> None:
        """Append messages whatever the capacity; the receive of a tracked channel."""
        self._messages.extend(envelopes)

    def waiting(self) -> Sequence[Envelope]:
        """Return the messages that wait; any thread."""
        return self._messages.copy()

    def clear(self) -> int:
        """Drop every message and return how many there were; any thread."""
        dropped = 0
        # Not the take of a tracked channel, for which a message that was taken is in hand.
        while Mailbox.take(self) is not None:
            dropped += 1
        return dropped

    @property
    def stalled(self) -> bool:
        """Whether it stalled and was not drained since: the reading thread does not wait for it."""
        congestion = self._congestion
        if congestion is None or not self._messages:
            return False
        # The thread never waits for a tracked channel.
        return congestion.stalled or self.tracked is not None

    def congestion(self) -> Congestion:
        """Return its congestion; begin one if it has none."""
        congestion = self._congestion
        if congestion is None:
            # Where receives took messages since then, it counts from now on.
            congestion = self._congestion = Congestion(*self._filled)
        return congestion

    def _fill(self, envelope: Envelope) -> bool:
        """Note that a message filled the mailbox; return False if it is to be refused after all."""
        # Of several threads that put a message into the last place, all but one take theirs back.
        with self._wakeups.lock:
            if self.closed or len(self._messages) > self.capacity:
                try:
                    self._messages.remove(envelope)
                except ValueError:
                    # A receive took it, or close() dropped and counted it.
                    return True
                return False
        self._filled = self.taken, {loop: loop.ran for loop in self.loops}
        if self._congestion is not None:
            self._congestion.restart(*self._filled)
        return True

    def _relieve(self, congestion: Congestion) -> None:
        """Note that the mailbox is drained, or that a thread which waits for room has it."""
        if not self._messages:
            self._congestion = None
        congestion.relieve()


Read = Callable[[Mailbox, Envelope], "dict[str, Any] | None"]
"""Makes a message of what was taken from a mailbox; None, counted, if it is none."""
