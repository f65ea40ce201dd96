"""A histogram of the ages of messages when receives take them."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

from ..config.threads import RLock
from ..stats import Ages

__all__ = ["BOUNDS", "AgeCounts"]

BOUNDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets, in seconds. Timestamps of brokers are in milliseconds."""

# Ages that may wait for count(); more of them replace the oldest.
_MOST = 1_000_000


class AgeCounts:
    """Counts ages in buckets; any thread.

    Args:
        offset: Seconds that are added to each noted value to get the age.

    Attributes:
        note: Notes an age minus ``offset``. It only appends, because receives call it; ``count``
            does the rest.
    """

    def __init__(self, offset: float) -> None:
        self._offset = offset
        self._noted: deque[float] = deque(maxlen=_MOST)
        self.note = self._noted.append
        # For each bound the number of ages up to it, and at the end the number of all.
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0
        # Re-entrant: a signal handler may interrupt the holder and use the layer.
        self._lock = RLock()

    def count(self) -> None:
        """Count what was noted since the last call; the upkeep calls it about once a second."""
        with self._lock:
            # Sorted, so that nearly all of the counting is done in C.
            noted = sorted(self._noted.popleft() for _ in range(len(self._noted)))
            for number, bound in enumerate(BOUNDS):
                self._counts[number] += bisect_right(noted, bound - self._offset)
            self._counts[-1] += len(noted)
            # The clocks differ a little, so that an age may be negative.
            self._sum += max(0.0, sum(noted) + self._offset * len(noted))

    def ages(self) -> Ages:
        """Return the histogram of all noted ages."""
        with self._lock:
            self.count()
            return Ages(BOUNDS, tuple(self._counts), self._sum)
