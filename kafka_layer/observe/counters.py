"""The counters of a server, and ``Stats``, through which its parts report what happens."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from django.dispatch import Signal

from ..config.realtime import monotonic, wall_clock
from ..config.threads import RLock
from ..config.timings import Timings
from ..exceptions import Cause
from ..signals import messages_dropped
from .dispatch import SignalDispatch
from .events import Observer
from .log import DropLog

if TYPE_CHECKING:
    from .ages import AgeCounts

__all__ = ["AtomicCounter", "Counters", "Stats"]

# Ages that the percentiles are computed from.
_SAMPLES = 1000

# Counters that are counted by kind, as ``{total}.{kind}``.
_TOTALS = ("delivered", "jobs.done", "jobs.failed")


class AtomicCounter:
    """Counts from any thread, without a lock, which would take most of the time.

    Attributes:
        add: Adds one.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._reads = 0
        # Re-entrant: a signal handler may interrupt value() and call it.
        self._lock = RLock()
        self.add = self._numbers.__next__

    def value(self) -> int:
        """Return how often ``add`` was called."""
        with self._lock:
            # Each reading takes one number of the count as well.
            number = next(self._numbers) - self._reads
            self._reads += 1
            return number


class Counters(Observer):
    """Counts by name; any thread.

    Attributes:
        arrived: Notes the age of a record that arrives, in seconds.
        since: When counting began, in seconds since the epoch.
        ages: Counts the ages of messages that receives take; None before ``measure_ages``.
    """

    def __init__(self) -> None:
        self.since = wall_clock()
        self.ages: AgeCounts | None = None
        self._sent: dict[str, AtomicCounter] = {}
        self._ages: deque[float] = deque(maxlen=_SAMPLES)
        self.arrived = self._ages.append
        # Re-entrant: a signal handler or a finalizer may interrupt a count and call the layer.
        self._lock = RLock()
        self._counts: Counter[str] = Counter()

    def sent(self, kind: str) -> AtomicCounter:
        """Return the counter of the records of a kind that are handed to the producer."""
        return self._sent.setdefault(kind, AtomicCounter())

    def sent_by_kind(self) -> dict[str, int]:
        """Return how many records were handed to the producer, by kind."""
        counts = {kind: counter.value() for kind, counter in self._sent.copy().items()}
        return {kind: number for kind, number in counts.items() if number}

    def measure_ages(self, offset: float) -> AgeCounts:
        """Count the ages of messages that receives take; see ``AgeCounts``."""
        if self.ages is None:
            # Imported by the first server that is measured.
            from .ages import AgeCounts

            self.ages = AgeCounts(offset)
        return self.ages

    def tick(self) -> None:
        """Count the ages that were noted."""
        if self.ages is not None:
            self.ages.count()

    def on_count(self, name: str, number: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name] += number

    def on_dropped(self, cause: Cause, number: int, detail: str) -> None:
        """Add to the counter ``dropped.{cause}``."""
        if number:
            self.on_count(f"dropped.{cause}", number)

    def percentile(self, share: float) -> float | None:
        """Return the age below which ``share`` (0 to 1) of the last arriving records stayed."""
        ages = sorted(self._ages)
        return ages[min(len(ages) - 1, int(len(ages) * share))] if ages else None

    def by_name(self, kind: str) -> dict[str, int]:
        """Return the counters ``{kind}.{name}`` by name."""
        return {
            name.removeprefix(f"{kind}."): number
            for name, number in self._copy().items()
            if name.startswith(f"{kind}.")
        }

    def replaced(self) -> dict[str, int]:
        """Return the counters ``{client}.replaced`` by client."""
        return {
            name.removesuffix(".replaced"): number
            for name, number in self._copy().items()
            if name.endswith(".replaced")
        }

    def snapshot(self) -> dict[str, int]:
        """Return a copy of all counters, in which the kinds of one total are summed."""
        counts = self._copy()
        for total in _TOTALS:
            parts = [name for name in counts if name.startswith(f"{total}.")]
            if parts:
                counts[total] = counts.get(total, 0) + sum(map(counts.pop, parts))
        sent = sum(self.sent_by_kind().values())
        return {**counts, "sent": sent} if sent else counts

    def _copy(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)


class Stats:
    """Passes what happens in one server to the observers.

    Every method may be called from any thread and from an event loop. None but ``close`` blocks,
    and none runs code of the application in the calling thread.

    Args:
        prefix: The layer's prefix, for signals and log lines.
        timings: The layer's times.
        observers: Further observers, beside the counters, the log and the signals.
        logged_as: What log lines begin with; None: the prefix.

    Attributes:
        prefix: The layer's prefix.
        sent: Returns the counter of the records of a kind (``kind_of``) that are handed to the
            producer; together they are ``sent`` of the snapshot.
        arrived: Notes the age of a record that arrives, in seconds.
        count: Adds to a counter: its name, and by how much (1 if left out).
    """

    def __init__(
        self,
        prefix: str = "",
        timings: Timings | None = None,
        observers: Sequence[Observer] = (),
        logged_as: str | None = None,
    ) -> None:
        timings = timings or Timings()
        self.prefix = prefix
        self._counters = Counters()
        self._observers: tuple[Observer, ...] = (
            self._counters,
            DropLog(
                prefix if logged_as is None else logged_as, timings.drop_summary, self._announce
            ),
            SignalDispatch(self._note_overflow, timings.signals_linger),
            *observers,
        )
        self.sent = self._counters.sent
        self.arrived = self._counters.arrived
        # Of the three above only the counters have on_count(): call it directly if there are no
        # further observers.
        self.count: Callable[..., None] = self._tell_all if observers else self._counters.on_count
        self.percentile = self._counters.percentile
        self.by_name = self._counters.by_name
        self.replaced = self._counters.replaced
        self.snapshot = self._counters.snapshot
        self.sent_by_kind = self._counters.sent_by_kind
        self.measure_ages = self._counters.measure_ages

    @property
    def ages(self) -> AgeCounts | None:
        """Counts the ages of messages that receives take; None before ``measure_ages``."""
        return self._counters.ages

    @property
    def since(self) -> float:
        """When counting began, in seconds since the epoch."""
        return self._counters.since

    def dropped(self, cause: Cause, detail: str, number: int = 1) -> None:
        """Count, log and signal messages that reach no receiver.

        Log and signal have the first of a cause at once, further ones in summaries.

        Args:
            cause: Why; it becomes the counter ``dropped.{cause}``.
            detail: What happened to this one, for the log.
            number: How many messages; 0 if none is known to be missing.
        """
        for observer in self._observers:
            observer.on_dropped(cause, number, detail)

    def signal(self, signal: Signal, sender: object, **arguments: Any) -> None:
        """Send a Django signal, in a thread of its own, in the order of the calls.

        100,000 signals may wait; further ones are counted (``errors.signals``) and not sent.

        Args:
            signal: One of ``kafka_layer.signals``.
            sender: Its sender.
            arguments: Arguments of its receivers, beside ``prefix``.
        """
        named = {"prefix": self.prefix, **arguments}
        for observer in self._observers:
            observer.on_signal(signal, sender, named)

    def tick(self) -> None:
        """Let the observers do what is due by now; the server calls this about once a second."""
        for observer in self._observers:
            observer.tick()

    def close(self, timeout: float) -> None:
        """Log all drops that are not logged yet, and send the signals that wait.

        Args:
            timeout: Seconds that receivers of signals get.
        """
        deadline = monotonic() + timeout
        for observer in self._observers:
            observer.close(max(0.0, deadline - monotonic()))

    def _tell_all(self, name: str, number: int = 1) -> None:
        for observer in self._observers:
            observer.on_count(name, number)

    def _announce(self, cause: Cause, number: int, detail: str) -> None:
        self.signal(messages_dropped, Stats, cause=cause, number=number, detail=detail)

    def _note_overflow(self) -> None:
        self.count("errors.signals")
