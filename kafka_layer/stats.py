"""One place that counts what the layer did and dropped, and logs drops without flooding."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

__all__ = ["LOG_INTERVAL", "Stats"]

logger = logging.getLogger("kafka_layer")

LOG_INTERVAL = 10.0
"""Seconds between two log lines about drops of one cause."""


class Stats:
    """Counters of one server; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._unlogged: Counter[str] = Counter()
        self._next_log: dict[str, float] = {}

    def count(self, name: str, number: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name] += number

    def dropped(self, cause: str, detail: str, number: int = 1) -> None:
        """Count messages that reach nobody, and log them: the first at once, then a summary.

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
        logger.warning("%d message(s) dropped (%s), the last: %s", unlogged, cause, detail)

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
            logger.warning("%d more message(s) dropped (%s)", number, cause)

    def snapshot(self) -> dict[str, int]:
        """Return a copy of all counters."""
        with self._lock:
            return dict(self._counts)
