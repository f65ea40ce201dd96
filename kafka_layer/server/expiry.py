"""Until when a message is of use, and the time of a flush.

A message expires ``expiry`` seconds after the broker appended its record. ``Expiry`` judges its age
by the broker's time when the record is read, and gives it a deadline on this machine's monotonic
clock. Whatever holds the message later compares that deadline: ``make_room`` in a full mailbox,
``Server.decode_for_receive`` when a receive takes it, and ``recovery/opening.py`` when a receive
of a tracked channel does.

Hot path: ``Expiry.deadline`` is called for each record that is read for a channel of this process.
"""

from __future__ import annotations

from collections.abc import Callable, Sized

from ..config import realtime as time
from ..delivery.mailbox import Mailbox
from ..observe.counters import Stats
from ..wire.topics import Topic, WorkTopic
from .clock import BrokerClock

__all__ = ["Expiry"]

_CLOCK_ERROR = 1.0


class Expiry:
    """Judges the age of messages to channels, or to one worker channel.

    The reading thread calls ``read_clocks`` and ``deadline``; any thread may call the rest.

    Args:
        seconds: The age from which a message counts as expired.
        stats: Counts drops.
        clock: The broker's time.
        note_age: Gets the age, in seconds, of each message that no flush dropped.

    Attributes:
        seconds: As given. A message that is sent within the process expires so long after that.
        flushed_until: Records written up to this time (the broker's, in seconds) are dropped.
    """

    def __init__(
        self,
        seconds: float,
        stats: Stats,
        clock: BrokerClock,
        note_age: Callable[[float], object] = lambda _: None,
    ) -> None:
        self.flushed_until = float("-inf")
        self.seconds = seconds
        self._stats = stats
        self._clock = clock
        self._note_age = note_age
        self._now = self._monotonic = 0.0

    def read_clocks(self) -> None:
        """Read the time by which ``deadline`` judges.

        Once for each slice of a batch: reading it for each record took a tenth of the time.
        """
        self._now, self._monotonic = self._clock.now(), time.monotonic()

    def deadline(
        self, timestamp: float, topic: Topic | WorkTopic, key: str, receivers: Sized = (None,)
    ) -> float | None:
        """Judge a record that was read.

        Args:
            timestamp: When the broker appended it, in seconds.
            topic: Its topic.
            key: Its key, for the log.
            receivers: Its receivers; a drop counts once for each.

        Returns:
            When its message expires, on ``time.monotonic()``; None if it has expired, or was
            written before a flush.
        """
        if timestamp <= self.flushed_until:
            self._stats.count("dropped.flushed", len(receivers))
            return None
        age = self._now - timestamp
        if age < 0.0:
            age = 0.0
        self._note_age(age)
        if age > self.seconds:
            detail = f"{topic.value} {key!r} was {age:.1f} s old"
            self._stats.dropped("expired", detail, len(receivers))
            return None
        return self._monotonic + self.seconds - age

    def make_room(self, mailbox: Mailbox) -> bool:
        """Drop and count the expired messages of a full mailbox.

        Returns:
            Whether there were any.
        """
        expired = mailbox.drop_expired()
        if expired:
            self.count_late(mailbox, expired)
        return expired > 0

    def count_late(self, mailbox: Mailbox, number: int = 1) -> None:
        """Count messages that expired in a mailbox."""
        detail = f"it waited too long in channel {mailbox.channel}"
        self._stats.dropped("expired", detail, number)

    def forget_until(self, timestamp: float) -> float:
        """Drop the records that were written up to ``timestamp`` (the broker's, in seconds).

        Returns:
            The time up to which records are dropped from now on.
        """
        # A timestamp that a sender gave may lie far ahead, and would silence the server.
        latest = self._clock.now() + _CLOCK_ERROR
        self.flushed_until = max(self.flushed_until, min(timestamp, latest))
        return self.flushed_until
