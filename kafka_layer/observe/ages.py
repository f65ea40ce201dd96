"""How old messages are when receives take them, counted by size."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import accumulate

from ..config.threads import RLock
from ..stats import Ages

__all__ = ["BOUNDS", "AgeCounts"]

BOUNDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""The upper bounds of the sizes, in seconds; brokers date records in milliseconds."""

# Ages between two rounds of the upkeep; further ones push out the oldest.
_MOST = 1_000_000


class AgeCounts:
    """Counts ages by size; any thread.

    Args:
        offset: What is added to each noted value, in seconds.

    Attributes:
        note: Notes an age less ``offset``. It appends and does no more, because receives call it;
            ``count`` does the rest.
    """

    def __init__(self, offset: float) -> None:
        self._offset = offset
        self._noted: deque[float] = deque(maxlen=_MOST)
        self.note = self._noted.append
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0
        # Re-entrant: a signal handler may interrupt the holder and use the layer.
        self._lock = RLock()

    def count(self) -> None:
        """Count what was noted since the last call; the upkeep calls it about once a second."""
        noted, counts = self._noted, self._counts
        with self._lock:
            for _ in range(len(noted)):
                try:
                    age = max(0.0, noted.popleft() + self._offset)
                except IndexError:  # pushed out meanwhile
                    break
                counts[bisect_left(BOUNDS, age)] += 1
                self._sum += age

    def ages(self) -> Ages:
        """Return all that was noted."""
        with self._lock:
            self.count()
            return Ages(BOUNDS, tuple(accumulate(self._counts)), self._sum)
