"""The broker's clock, as this server sees it: one clock decides on the age of all messages."""

from __future__ import annotations

import logging
import time

__all__ = ["BrokerClock"]

logger = logging.getLogger("kafka_layer")

_WORTH_A_WARNING = 5.0
_QUICK = 0.05


class BrokerClock:
    """Tells the age of records although the clocks of servers differ; any thread.

    Corrected from records that this server wrote itself and whose round trip it knows.
    """

    def __init__(self) -> None:
        self._offset = 0.0
        self._round_trip: float | None = None
        self._warned = False

    def observe(self, timestamp: float, sent: float, received: float) -> None:
        """Correct the clock by a record of this server's own.

        Args:
            timestamp: The broker's, in seconds since the epoch.
            sent: When the record was produced, on this machine's ``time.time()``.
            received: When its report or the record itself came back, on the same clock.
        """
        round_trip = received - sent
        # Half the round trip is the error: a slow one, as at a cold start, tells less than none.
        if self._round_trip is not None and round_trip > max(self._round_trip, _QUICK):
            return
        self._round_trip = round_trip
        self._offset = timestamp - (sent + received) / 2
        if abs(self._offset) > _WORTH_A_WARNING and not self._warned:
            self._warned = True
            logger.warning(
                "This machine's clock is %.1f s %s the Kafka broker's. The layer corrects for it; "
                "synchronize the clocks (NTP).",
                abs(self._offset),
                "behind" if self._offset > 0 else "ahead of",
            )

    def now(self) -> float:
        """Return the broker's time, in seconds since the epoch."""
        return time.time() + self._offset
