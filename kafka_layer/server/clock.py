"""The broker's clock, as this server sees it: one clock decides on the age of all messages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from ..config.realtime import monotonic, wall_clock
from ..messages import Position, SelfTimedPosition

__all__ = ["BrokerClock", "TimedRecord"]

logger = logging.getLogger("kafka_layer")

_KEPT_FOR = 600.0
"""Seconds until a measurement is dropped, because the clocks may have drifted apart since."""

_TOLERANCE = 0.05
"""Seconds by which two measurements may differ beside their errors: brokers count milliseconds, and
two clocks drift apart by some hundredths of a second in ``_KEPT_FOR``."""

_WORTH_A_WARNING = 5.0


class _Measurement(NamedTuple):
    """One measurement, by one record.

    Attributes:
        offset: The broker's time less ``monotonic()``, in seconds.
        error: By how much ``offset`` may be wrong: half the round trip.
        at: When the record came back, on ``monotonic()``.
    """

    offset: float
    error: float
    at: float


class BrokerClock:
    """Tells the age of records although the clocks of servers differ; any thread.

    It runs on ``time.monotonic()``, so a step of this machine's clock changes nothing. This
    server's own records, whose round trips it knows, set it: the quickest of the last ten minutes,
    and any that contradicts that one. Until the first record it follows this machine's clock.

    Args:
        now: Seconds that only grow; for tests.
        wall: This machine's clock, in seconds since the epoch; for tests.

    Attributes:
        append_times_reported: Whether delivery reports carry the broker's append time; True until
            one did not. Without it the server has to read a record back to set the clock.
    """

    def __init__(
        self, now: Callable[[], float] = monotonic, wall: Callable[[], float] = wall_clock
    ) -> None:
        self._monotonic = now
        self._wall = wall
        self._offset = wall() - now()
        # The quickest first, each later and less quick than the one before. Never changed in place.
        self._measurements: list[_Measurement] = []
        self._warned = False
        self.append_times_reported = True
        self._sender_dated_warned = False

    def observe(self, timestamp: float, sent: float, received: float) -> None:
        """Correct the clock by a record of this server's own.

        Args:
            timestamp: When the broker appended the record, in seconds since the epoch.
            sent: When this server produced it, on ``monotonic()``.
            received: When its report or the record itself came back, on ``monotonic()``.
        """
        error = (received - sent) / 2
        new = _Measurement(timestamp - (sent + received) / 2, error, received)
        kept = [each for each in self._measurements if received - each.at <= _KEPT_FOR]
        if kept and abs(new.offset - kept[0].offset) > new.error + kept[0].error + _TOLERANCE:
            # The broker's clock was set, or this machine slept: earlier measurements are wrong.
            kept = []
        # An earlier one that is no quicker will never count again. So a few are left of thousands.
        kept = [each for each in kept if each.error < new.error]
        kept.append(new)
        self._measurements = kept
        self._offset = kept[0].offset
        self._warn_once()

    def now(self) -> float:
        """Return the broker's time, in seconds since the epoch."""
        return self._monotonic() + self._offset

    def time(self, topic: str) -> TimedRecord:
        """Start a measurement by a record that is about to be produced.

        Args:
            topic: Kafka's name of its topic, for the log.
        """
        return TimedRecord(self, topic, self._monotonic)

    def warn_of_sender_dated(self, topic: str) -> None:
        """Log, once, that a topic keeps the times of its senders."""
        if not self._sender_dated_warned:
            self._sender_dated_warned = True
            logger.warning(
                "Topic %s keeps the times that senders give (message.timestamp.type=CreateTime), "
                "so messages of a machine whose clock is wrong expire too early or too late. Set "
                "message.timestamp.type=LogAppendTime on the topics of this layer; 'manage.py "
                "kafka_setup_topics' does it.",
                topic,
            )

    def _warn_once(self) -> None:
        behind = self.now() - self._wall()
        if abs(behind) > _WORTH_A_WARNING and not self._warned:
            self._warned = True
            logger.warning(
                "This machine's clock is %.1f s %s the Kafka broker's. The layer corrects for it; "
                "synchronize the clocks (NTP).",
                abs(behind),
                "behind" if behind > 0 else "ahead of",
            )


class TimedRecord:
    """One record of this server's own that sets the clock; its two methods come in any order.

    Only the broker's append time counts. If the delivery report carries none, the timestamp with
    which the record is read back does. If that equals the time that the sender gave, the topic
    keeps its senders' times, and the clock has to believe them.

    Args:
        clock: The clock to set.
        topic: Kafka's name of its topic, for the log.
        now: Seconds that only grow.
    """

    def __init__(self, clock: BrokerClock, topic: str, now: Callable[[], float]) -> None:
        self._clock = clock
        self._topic = topic
        self._now = now
        self._sent = now()
        self._given: float | None = None
        self._read: tuple[float, float] | None = None

    def reported(self, position: Position) -> None:
        """Note the record's position; the thread of the delivery report."""
        if not isinstance(position, SelfTimedPosition):
            self._clock.observe(position.timestamp, self._sent, self._now())
            return
        self._clock.append_times_reported = False
        self._given = position.timestamp
        self._compare()

    def read(self, timestamp: float) -> None:
        """Note the timestamp, in seconds, of the record as read back; the reading thread."""
        self._read = timestamp, self._now()
        self._compare()

    def _compare(self) -> None:
        if self._given is None or self._read is None:
            return
        timestamp, received = self._read
        if timestamp == self._given:
            self._clock.warn_of_sender_dated(self._topic)
        self._clock.observe(timestamp, self._sent, received)
