"""Logs drops without flooding the log: the first of a cause at once, others in summaries."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from ..config.realtime import monotonic
from ..config.threads import RLock
from ..exceptions import Cause
from .events import Observer

__all__ = ["DropLog"]

logger = logging.getLogger("kafka_layer")


class DropLog(Observer):
    """Logs drops, and announces the same numbers; any thread.

    Args:
        prefix: The layer's prefix; each line begins with it.
        interval: The least number of seconds between two lines about one cause.
        announce: Called with cause, number and detail of each line; must not block.
    """

    def __init__(
        self, prefix: str, interval: float, announce: Callable[[Cause, int, str], None]
    ) -> None:
        self._prefix = prefix
        self._interval = interval
        self._announce = announce
        # Re-entrant: a signal handler or a finalizer may interrupt a call and drop a message, too.
        self._lock = RLock()
        # By cause: how many drops no line has reported yet.
        self._unlogged: Counter[Cause] = Counter()
        # By cause: when it may have its next line, on monotonic().
        self._next_line: dict[Cause, float] = {}

    def on_dropped(self, cause: Cause, number: int, detail: str) -> None:
        """Log the drop if the next line of its cause is due; otherwise count it for that line."""
        if not number:
            logger.info("%s: nothing is known to be missing (%s): %s", self._prefix, cause, detail)
            return
        with self._lock:
            self._unlogged[cause] += number
            due = self._take(cause, monotonic())
        if due:
            self._write(cause, due, detail)

    def tick(self) -> None:
        """Log the drops since the last line of each cause whose next line is due."""
        self._summarize(monotonic())

    def close(self, timeout: float) -> None:
        """Log the drops since the last line of each cause, due or not."""
        self._summarize(float("inf"))

    def _summarize(self, now: float) -> None:
        with self._lock:
            due = {cause: self._take(cause, now) for cause in list(self._unlogged)}
        for cause, number in due.items():
            if number:
                self._write(cause, number, "")

    def _take(self, cause: Cause, now: float) -> int:
        """Take the number for a line; 0 if the next line of the cause is not due."""
        if now < self._next_line.get(cause, 0.0):
            return 0
        self._next_line[cause] = monotonic() + self._interval
        return self._unlogged.pop(cause, 0)

    def _write(self, cause: Cause, number: int, detail: str) -> None:
        logger.warning(
            "%s: %d message(s) dropped (%s)%s",
            self._prefix,
            number,
            cause,
            f", the last: {detail}" if detail else "",
        )
        self._announce(cause, number, detail)
