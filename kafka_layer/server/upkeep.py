"""The thread that runs a server's upkeep, each second."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ..config.threads import Thread, died, new_event, new_thread
from ..observe.counters import Stats

__all__ = ["Upkeep"]

logger = logging.getLogger("kafka_layer")


class Upkeep:
    """Runs tasks in rounds until it is stopped.

    Args:
        interval: Seconds between two rounds.
        tasks: The functions of each round, in order. A failure is counted and logged; the other
            tasks run all the same.
        stats: Counts the failures.
    """

    def __init__(
        self, interval: float, tasks: Sequence[Callable[[], object]], stats: Stats
    ) -> None:
        self._interval = interval
        self._tasks = tasks
        self._stats = stats
        self._stopped = new_event()
        self._thread: Thread | None = None

    @property
    def died(self) -> bool:
        """Whether the thread has ended although nobody stopped it."""
        return died(self._thread) and not self._stopped.is_set()

    def start(self) -> None:
        """Start the thread."""
        self._thread = new_thread(self._run, "kafka-layer-upkeep")
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end after the present task, without waiting for it."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            for task in self._tasks:
                try:
                    task()
                except Exception:
                    if self._stopped.is_set():
                        return
                    self._stats.count("errors.upkeep")
                    logger.exception("The upkeep of the channel layer failed; it goes on")
