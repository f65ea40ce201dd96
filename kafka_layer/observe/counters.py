"""One place that counts what the layer did and dropped, and logs drops without flooding."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter, deque

from ..signals import messages_dropped

__all__ = ["LOG_INTERVAL", "Stats"]

logger = logging.getLogger("kafka_layer")

LOG_INTERVAL = 10.0
"""Seconds between two log lines about drops of one cause."""


_SAMPLES = 1000


class Tally:
    """Counts one by one, from any thread, without a lock: that takes most of the time of a count.

    Attributes:
        add: Adds one.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._looks = 0
        self._lock = threading.Lock()
        self.add = self._numbers.__next__

    def value(self) -> int:
        """Return how often ``add`` was called."""
        with self._lock:
            # To look is to take a number, too.
            number = next(self._numbers) - self._looks
            self._looks += 1
            return number


class Stats:
    """Counters of one server; every method may be called from any thread.

    Args:
        prefix: The layer's prefix, for signals and log lines.

    Attributes:
        sent: Counts the records handed to the producer, as ``sent`` of the snapshot.
        arrived: Notes the age of a record that arrives, in seconds.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.sent = Tally()
        self._ages: deque[float] = deque(maxlen=_SAMPLES)
        self.arrived = self._ages.append
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._unlogged: Counter[str] = Counter()
        self._next_log: dict[str, float] = {}

    def count(self, name: str, number: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name] += number

    def percentile(self, share: float) -> float | None:
        """Return the age that ``share`` (0 to 1) of the last arriving records stayed below."""
        ages = sorted(self._ages)
        return ages[min(len(ages) - 1, int(len(ages) * share))] if ages else None

    def by_name(self, kind: str) -> dict[str, int]:
        """Return the counters ``{kind}.{name}`` by name."""
        with self._lock:
            return {
                name.partition(".")[2]: number
                for name, number in self._counts.items()
                if name.startswith(f"{kind}.")
            }

    def dropped(self, cause: str, detail: str, number: int = 1) -> None:
        """Count messages that reach nobody, log and signal them: one at once, then summaries.

        Args:
            cause: Short name of the cause; it becomes the counter ``dropped.{cause}``.
            detail: What happened to this one, for the log.
            number: How many messages.
        """
        now = time.monotonic()
        with self._lock:
            self._counts[f"dropped.{cause}"] += number
            self._unlogged[cause] += number
            if now < self._next_log.get(cause, 0.0):
                return
            self._next_log[cause] = now + LOG_INTERVAL
            unlogged = self._unlogged.pop(cause)
        self._tell(cause, unlogged, detail)

    def flush_log(self) -> None:
        """Log what was dropped since the last line of its cause, where that is due."""
        now = time.monotonic()
        with self._lock:
            due = {
                cause: self._unlogged.pop(cause)
                for cause in list(self._unlogged)
                if now >= self._next_log.get(cause, 0.0)
            }
            for cause in due:
                self._next_log[cause] = now + LOG_INTERVAL
        for cause, number in due.items():
            self._tell(cause, number, "")

    def snapshot(self) -> dict[str, int]:
        """Return a copy of all counters."""
        with self._lock:
            counts = dict(self._counts)
        sent = self.sent.value()
        return {**counts, "sent": sent} if sent else counts

    def _tell(self, cause: str, number: int, detail: str) -> None:
        logger.warning(
            "%s: %d message(s) dropped (%s)%s",
            self.prefix,
            number,
            cause,
            f", the last: {detail}" if detail else "",
        )
        messages_dropped.send_robust(
            sender=Stats, prefix=self.prefix, cause=cause, number=number, detail=detail
        )
