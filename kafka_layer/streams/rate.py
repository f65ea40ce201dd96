"""The number of records a second. Pure."""

from __future__ import annotations

from collections import deque

__all__ = ["Rate"]

_SECONDS = 10.0


class Rate:
    """The average rate of the last ten seconds, from a count that only grows; one thread.

    Args:
        now: Seconds, on the clock of all calls.
    """

    def __init__(self, now: float) -> None:
        self._samples = deque([(now, 0)])

    def note(self, now: float, count: int) -> float:
        """Note a count; return the rate per second. To be called several times a second."""
        samples = self._samples
        samples.append((now, count))
        while len(samples) > 2 and now - samples[0][0] > _SECONDS:
            samples.popleft()
        began, before = samples[0]
        return (count - before) / (now - began) if now > began else 0.0
