"""Full mailboxes: the thread that reads waits for room, or drops the message.

The log is the buffer: the thread waits until a full mailbox has room, and the records behind wait
in the broker. It does not wait for a stalled mailbox, which alone loses messages, and counts them.
"""

from __future__ import annotations

from collections.abc import Callable

from ..config.timings import Timings
from ..delivery.backpressure import BackPressure
from ..delivery.mailbox import Mailbox, Tracked
from ..delivery.registry import Registry
from ..delivery.wakeups import Envelope
from ..observe.counters import Stats
from ..wire.topics import Topic
from .expiry import Expiry

__all__ = ["FullMailboxes"]


class FullMailboxes:
    """The full mailboxes of a server, for one thread that reads.

    Args:
        timings: The times of back-pressure.
        registry: The server's channels.
        expiry: Judges the age of the messages that fill a mailbox.
        stats: Counts drops.
        before_wait: Called before a wait: it wakes the receives of what was put so far.
        after_wait: Called after a wait, which may have taken long.
    """

    def __init__(
        self,
        timings: Timings,
        registry: Registry,
        expiry: Expiry,
        stats: Stats,
        before_wait: Callable[[], object],
        after_wait: Callable[[], object],
    ) -> None:
        self._registry = registry
        self._expiry = expiry
        self._stats = stats
        self._before_wait = before_wait
        self._after_wait = after_wait
        self._back_pressure = BackPressure(timings, registry.open_channels)

    def put(self, mailbox: Mailbox, envelope: Envelope) -> bool:
        """Put a message into a mailbox that had no room for it; blocks.

        Returns:
            Whether the mailbox has it now; otherwise it is counted as dropped, unless a tracked
            channel reads it from the log.
        """
        if not self._registry.is_open(mailbox):
            self._stats.count("dropped.closed")
            return False
        tracked = mailbox.tracked
        if tracked is not None:
            if tracked.pass_by(envelope):
                return True
            if envelope.topic is not None:
                # The channel cannot read this message from the log later.
                if envelope.topic is Topic.SEND_CONN:
                    self._count_full(mailbox)
                return False
        return self._put_later(mailbox, tracked, envelope)

    def _put_later(self, mailbox: Mailbox, tracked: Tracked | None, envelope: Envelope) -> bool:
        self._before_wait()
        there_is_room = self._back_pressure.wait_for_room(mailbox)
        self._after_wait()
        if tracked is not None:
            if tracked.pass_by(envelope):
                return True
        elif (there_is_room or self._expiry.make_room(mailbox)) and mailbox.put(envelope):
            return True
        if mailbox.closed:
            self._stats.count("dropped.closed")
        else:
            self._count_full(mailbox)
        return False

    def _count_full(self, mailbox: Mailbox) -> None:
        self._stats.dropped("full", f"channel {mailbox.channel} does not take its messages")
