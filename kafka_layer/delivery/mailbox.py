"""The bounded queue of messages behind one channel.

Hot path: each message to a group is put into the mailbox of each member.

A thread that puts a message appends it to the mailbox and leaves a note for the receives that wait
(see ``wakeups``). ``receive`` itself takes the message, with no await between taking and
returning, so a receive that is cancelled takes none with it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from ..config import realtime as time
from ..wire.records import Place
from .wakeups import Loop, Receives, Wakeups

__all__ = ["LOOP_PATIENCE", "PATIENCE", "STALLED_AFTER", "Envelope", "Mailbox"]

STALLED_AFTER = 0.25
"""Seconds without a take after which a full mailbox counts as stalled, while its loop runs."""

LOOP_PATIENCE = 10.0
"""Seconds after which an event loop that does not run counts as if it did."""

PATIENCE = 1.0
"""Seconds, between two drains, for which a slow mailbox may hold up the ones that keep up."""

_ROUND = STALLED_AFTER / 5
_NOTICEABLE = _ROUND / 2


class Envelope:
    """A message on its way to receivers; one object is shared by all mailboxes that hold it.

    Attributes:
        payload: The serialized message; each receiver decodes its own copy.
        deadline: When the message expires, on ``time.monotonic()``.
        place: Where its record stands in the log: topic, partition, offset and the broker's
            timestamp in seconds. None for a message that went from channel to channel within the
            process.
        unreadable: Set once decoding it failed, so that it is reported once.
    """

    __slots__ = ("deadline", "payload", "place", "unreadable")

    def __init__(self, payload: bytes, deadline: float, place: Place | None = None) -> None:
        self.payload = payload
        self.deadline = deadline
        self.place = place
        self.unreadable = False


class Mailbox:
    """The messages that wait for the receivers of one channel.

    Any thread may ``put``, ``take``, ``clear`` and ``close``; ``wait`` runs in the event loop that
    receives. Any number of loops may receive at the same time.

    Args:
        channel: The channel's name.
        capacity: Messages it holds at most.
        wakeups: The event loops of its server.
        on_wait: Called when ``demand`` may have risen: in the loop, when a receive begins to wait.

    Attributes:
        last_seen: When a receive last waited or took, on ``time.monotonic()``.
        stalled: Whether nothing waits for it, because it stopped taking; ends when it is drained.
    """

    __slots__ = (
        "__weakref__",
        "_held_up",
        "_items",
        "_loop",
        "_receives",
        "_room",
        "_taken",
        "_wakeups",
        "_watched",
        "_when_full",
        "capacity",
        "channel",
        "last_seen",
        "stalled",
    )

    def __init__(
        self,
        channel: str,
        capacity: int,
        wakeups: Wakeups,
        on_wait: Callable[[], None] | None = None,
    ) -> None:
        self.channel = channel
        self.capacity = capacity
        self.last_seen = time.monotonic()
        self.stalled = False
        self._items: deque[Envelope] = deque()
        self._receives = Receives(wakeups, self._items, on_wait)
        self._wakeups = wakeups
        # The one that last received, or that opened the channel.
        self._loop: Loop = wakeups.nowhere
        if asyncio._get_running_loop() is not None:
            self._loop = wakeups.running_loop()
        self._taken = 0
        # When it became full the last time: how many were taken, and how long its loop was lively.
        self._when_full = 0, 0.0
        self._room = threading.Event()
        self._held_up = 0.0
        # Whether take() has to tell anyone: one test in the hot path instead of three.
        self._watched = False

    def __len__(self) -> int:
        return len(self._items)

    @property
    def receiving(self) -> bool:
        """Whether a receive waits on the channel at this moment, in a loop that is not closed."""
        return self._receives.waiting

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._receives.error is not None

    @property
    def demand(self) -> int:
        """How many receives wait, in loops that run, for which there is no message yet.

        Too low where nobody has asked for some seconds; ``on_wait`` is called when it rises.
        """
        return self._receives.demand

    def put(self, envelope: Envelope) -> bool:
        """Append a message and note that the receives are to be woken; any thread.

        The note takes effect with the next ``Wakeups.flush``.

        Returns:
            False if the mailbox is full; the message is not in it then.
        """
        room = self.capacity - len(self._items)
        if room <= 0:
            return False
        self._items.append(envelope)
        if room == 1:
            self._when_full = self._taken, self._loop.lively
        if self._receives.by_loop:
            self._receives.note()
        return True

    def take(self) -> Envelope | None:
        """Return the oldest message, or None; any thread, in practice the receiving loop's."""
        # Most receives come before their message, and an exception costs as much as all the rest.
        if not self._items:
            return None
        try:
            envelope = self._items.popleft()
        except IndexError:
            return None
        self._taken += 1
        if self._watched:
            self._tell_taken()
        return envelope

    async def wait(self) -> None:
        """Return when there may be a message to take; another receive may be faster.

        Raises:
            Exception: The error with which the mailbox was closed.
        """
        receives = self._receives
        receives.raise_if_closed()
        waiter = receives.enter()
        self._loop = waiter.loop
        try:
            # A put that saw no receive came before it entered, so its message is seen here; so does
            # a close.
            if not self._items and receives.error is None:
                receives.on_demand()
                await waiter
        finally:
            receives.leave(waiter)
            self.last_seen = time.monotonic()
        receives.raise_if_closed()

    def close(self, error: Exception) -> int:
        """Let every receive, those that wait and those to come, raise a copy of ``error``.

        Any thread. Messages that nobody took are dropped, and later ones are refused.

        Returns:
            How many messages were dropped.
        """
        self.capacity = 0
        dropped = self.clear()
        self._receives.close(error)
        return dropped

    def wait_for_room(self, holds_up_others: Callable[[], bool]) -> bool:
        """Block until at most half of the capacity is in use; the router's thread alone.

        Args:
            holds_up_others: Tells whether channels that keep up wait for this one.

        Returns:
            False if the mailbox is stalled: nothing was taken while its loop was lively for
            ``STALLED_AFTER`` seconds, or it held up others for ``PATIENCE`` seconds. It stays so
            until it was drained.
        """
        # Since it is full, not since somebody waits: many that stand still cost no more than one.
        taken, since = self._when_full
        while not self.stalled:
            self._room.clear()
            self._watched = True
            if len(self._items) <= self.capacity // 2:
                return True
            if self._taken != taken:
                taken, since = self._taken, self._loop.lively
            if self._loop.lively - since >= STALLED_AFTER or self._held_up >= PATIENCE:
                self.stalled = True
                break
            waited = self._loop.wait(self._room, _ROUND, LOOP_PATIENCE)
            if waited >= _NOTICEABLE and holds_up_others():
                self._held_up += waited
        return False

    def clear(self) -> int:
        """Drop every message and return how many there were; any thread."""
        dropped = 0
        while self.take() is not None:
            dropped += 1
        return dropped

    def _tell_taken(self) -> None:
        left = len(self._items)
        if left <= self.capacity // 2:
            self._room.set()
        if not left:
            self.stalled = self._watched = False
            self._held_up = 0.0
