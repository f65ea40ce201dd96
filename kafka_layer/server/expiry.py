"""When a message is too old: the one place that judges its age, and the time of a flush.

A message expires ``expiry`` seconds after the broker appended its record. It is judged when the
record is read, by the broker's time; it has a deadline on this machine's monotonic clock from then
on, by which it is judged where its mailbox is full (``make_room``) and by the receive that takes it
(``Server.decode_for_receive``, in place: every receive passes there).

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
    """Judges the age of messages to channels, or of those to one worker channel.

    ``read_clocks`` and ``deadline`` belong to the thread that reads the records; the rest may be
    called from any thread.

    Args:
        seconds: The age from which a message counts as expired.
        stats: Counts what is dropped.
        clock: The broker's time.
        note_age: Gets the age, in seconds, of each message that no flush dropped.

    Attributes:
        flushed_until: What was written up to this time is dropped: the broker's, in seconds.
    """

    def __init__(
        self,
        seconds: float,
        stats: Stats,
        clock: BrokerClock,
        note_age: Callable[[float], object] = lambda _: None,
    ) -> None:
        self.flushed_until = float("-inf")
        self._seconds = seconds
        self._stats = stats
        self._clock = clock
        self._note_age = note_age
        self._now = self._monotonic = 0.0

    def read_clocks(self) -> None:
        """Read the time by which ``deadline`` judges.

        Once for each slice of a batch: to read it for each record took a tenth of its time.
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
            receivers: Whom it is for; each one counts where it is dropped.

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
        if age > self._seconds:
            detail = f"{topic.value} {key!r} was {age:.1f} s old"
            self._stats.dropped("expired", detail, len(receivers))
            return None
        return self._monotonic + self._seconds - age

    def deadline_of_new(self) -> float:
        """Return when a message expires that is sent at this moment."""
        return time.monotonic() + self._seconds

    def make_room(self, mailbox: Mailbox) -> bool:
        """Drop the messages of a full mailbox that are too old to be received, and count them.

        Returns:
            Whether there were any.
        """
        expired = mailbox.drop_expired()
        if expired:
            self.count_late(mailbox, expired)
        return expired > 0

    def count_late(self, mailbox: Mailbox, number: int = 1) -> None:
        """Count messages whose deadline passed while they waited in a mailbox."""
        detail = f"it waited too long in channel {mailbox.channel}"
        self._stats.dropped("expired", detail, number)

    def forget_until(self, timestamp: float) -> float:
        """Drop the records that were written up to ``timestamp`` (the broker's, in seconds).

        Returns:
            The time up to which they are dropped.
        """
        # On a topic with its writers' timestamps one may lie ahead, and would mute the server.
        latest = self._clock.now() + _CLOCK_ERROR
        self.flushed_until = max(self.flushed_until, min(timestamp, latest))
        return self.flushed_until
