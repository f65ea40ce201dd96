"""The mailboxes of tracked channels.

Hot path: every message of a tracked channel passes ``TrackedMailbox.take``. It reads no object but
the mailbox: with a thousand channels, each further object is a cache miss.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from ..delivery.mailbox import Envelope, Mailbox, Tracked

__all__ = ["SharedMailbox", "TrackedMailbox"]


class TakingChannel(Tracked, Protocol):
    """A tracked channel, as its mailbox sees it.

    Attributes:
        lock: Guards it.
        pause: The seconds for which a receive pauses.
    """

    lock: Any
    pause: float

    def take(self) -> Envelope | None:
        """Return the next message, or None; the receiving loop."""

    def pauses(self) -> bool:
        """Tell whether a receive that found nothing pauses instead of waiting; its loop."""


class TrackedMailbox(Mailbox):
    """The mailbox of a tracked channel: it keeps the message that was taken last."""

    __slots__ = ()

    tracked: TakingChannel

    def take(self) -> Envelope | None:
        """Return the next message, or None; the receiving loop."""
        if self.attentive:
            return self.tracked.take()
        messages = self._messages
        if not messages:
            self._congestion = None
            # hand_over(), in place.
            last = self.in_hand
            if last is not None:
                if last.topic is not None:
                    self.handed_over = last
                self.in_hand = None
            return None
        try:
            first = messages[0]
            if first.topic is None:
                # Unlike others it does not tell what was routed before it.
                self.hand_over()
            # First, because other threads read the waiting messages before the one in hand: it is
            # always in one of the two.
            self.in_hand = first
            envelope = messages.popleft()
        except IndexError:  # a flush or a close was faster
            return None
        if envelope is not first:
            self.in_hand = envelope
        self.taken += 1
        congestion = self._congestion
        if congestion is not None and len(messages) <= congestion.tells_at:
            self._relieve(congestion)
        return envelope

    def wait(self) -> Coroutine[Any, Any, None]:
        """Do what ``Mailbox.wait`` does; or return after a pause, if the channel is behind."""
        if self.attentive and self.tracked.pauses():
            return asyncio.sleep(self.tracked.pause)
        return Mailbox.wait(self)


class SharedMailbox(TrackedMailbox):
    """The mailbox of a tracked channel that follows streams: several threads put messages into it.

    So a lock makes it atomic to read its messages and the positions of these threads.
    """

    __slots__ = ()

    def put(self, envelope: Envelope) -> bool:
        """Append a message, as ``Mailbox.put`` does; any thread."""
        with self.tracked.lock:
            return super().put(envelope)

    def take(self) -> Envelope | None:
        """Return the next message, or None; the receiving loop."""
        return self.tracked.take()
