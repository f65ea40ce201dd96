"""The bounded queue of messages behind one channel.

Hot path: each message to a group is put into the mailbox of each member.

A thread that puts a message appends it to the mailbox and leaves a note for the receives that wait
(see ``wakeups``). ``receive`` itself takes the message, with no await between taking and
returning, so a receive that is cancelled takes none with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from .wakeups import Envelope, Receives, Wakeups

__all__ = ["LOOP_PATIENCE", "PATIENCE", "STALLED_AFTER", "Envelope", "Mailbox"]

STALLED_AFTER = 0.25
"""Seconds without a take after which a full mailbox counts as stalled, while its loop runs."""

LOOP_PATIENCE = 10.0
"""Seconds after which an event loop that does not run counts as if it did."""

PATIENCE = 1.0
"""Seconds, between two drains, for which a slow mailbox may hold up the ones that keep up."""

_ROUND = STALLED_AFTER / 5
_NOTICEABLE = _ROUND / 2


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
        stalled: Whether nothing waits for it, because it stopped taking; ends when it is drained.
    """

    __slots__ = (
        "_held_up",
        "_room",
        "_taken",
        "_watched",
        "_when_full",
        "capacity",
        "channel",
        "stalled",
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
        self.stalled = False
        self._taken = 0
        # When it became full the last time: how many were taken, and how long its loop was lively.
        self._when_full = 0, 0.0
        self._room = threading.Event()
        self._held_up = 0.0
        # Whether take() has to tell anyone: one test in the hot path instead of three.
        self._watched = False

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, envelope: Envelope) -> bool:
        """Append a message and note that the receives are to be woken; any thread.

        The note takes effect with the next ``Wakeups.flush``.

        Returns:
            False if the mailbox is full; the message is not in it then.
        """
        room = self.capacity - len(self._messages)
        if room <= 0 or self._error is not None:
            return False
        self._messages.append(envelope)
        if room == 1:
            self._when_full = self._taken, self.loop.lively
        # note(), in place.
        for loop, waiters in self._by_loop:
            if waiters:
                loop.due[self] = None
                self._wakeups.noted[loop] = None
        return True

    def take(self) -> Envelope | None:
        """Return the oldest message, or None; any thread, in practice the receiving loop's."""
        # Most receives come before their message, and an exception costs as much as all the rest.
        if not self._messages:
            return None
        try:
            envelope = self._messages.popleft()
        except IndexError:
            return None
        self._taken += 1
        if self._watched:
            self._tell_taken()
        return envelope

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
            if len(self._messages) <= self.capacity // 2:
                return True
            if self._taken != taken:
                taken, since = self._taken, self.loop.lively
            if self.loop.lively - since >= STALLED_AFTER or self._held_up >= PATIENCE:
                self.stalled = True
                break
            waited = self.loop.wait(self._room, _ROUND, LOOP_PATIENCE)
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
        left = len(self._messages)
        if left <= self.capacity // 2:
            self._room.set()
        if not left:
            self.stalled = self._watched = False
            self._held_up = 0.0
