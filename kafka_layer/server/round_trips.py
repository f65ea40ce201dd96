"""Round trips of a server: records that it wrote to its own inbox and read again."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..config.realtime import monotonic
from ..config.threads import RLock
from ..config.timings import Timings
from ..delivery.tickets import Steps, Ticket, in_thread, run_blocking

__all__ = ["RoundTrip", "RoundTrips"]


class RoundTrip(NamedTuple):
    """One round trip.

    Attributes:
        seconds: How long it took.
        at: When the record was read, on ``monotonic()``.
    """

    seconds: float
    at: float

    @property
    def age(self) -> float:
        """Seconds since the record was read."""
        return monotonic() - self.at


class RoundTrips:
    """The last round trip of one server, and the one under way; any thread.

    Args:
        self_test: Makes a round trip; its argument is the time-out in seconds.
        timings: The layer's times.

    Attributes:
        last: The last one that succeeded; None before the first.
    """

    def __init__(self, self_test: Callable[[float], Steps[float]], timings: Timings) -> None:
        self.last: RoundTrip | None = None
        self._self_test = self_test
        self._timings = timings
        # Re-entrant: a signal handler may interrupt the holder and ask, too.
        self._lock = RLock()
        self._under_way: Ticket[RoundTrip] | None = None

    @property
    def fresh(self) -> RoundTrip | None:
        """The last one, if it is recent enough to prove that the server reads and writes."""
        last = self.last
        return last if last is not None and last.age <= self._timings.ready else None

    def make(self, timeout: float) -> RoundTrip:
        """Make one in the calling thread, which it blocks.

        Args:
            timeout: Seconds that it may take.

        Errors as for ``Commands.self_test``.
        """
        seconds = run_blocking(self._self_test(timeout))
        self.last = RoundTrip(seconds, monotonic())
        return self.last

    def begin(self) -> Ticket[RoundTrip]:
        """Begin one in a thread, unless one is under way; never blocks.

        Returns:
            Its ticket, which many callers may share; errors as for ``Commands.self_test``.
        """
        with self._lock:
            under_way = self._under_way
            if under_way is None or under_way.done:
                under_way = self._under_way = in_thread(
                    "kafka-layer-round-trip", lambda: self.make(self._timings.round_trip)
                )
            return under_way
