"""The end of a server: the thread that closes it, and the order in which its parts end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, TypeVar

from ..config.realtime import monotonic
from ..config.timings import Timings
from ..delivery.registry import Registry
from ..exceptions import LayerClosed
from ..observe.counters import Stats
from ..observe.dispatch import in_receiver
from .commands import Commands
from .lifecycle import Lifecycle, State, closed_meanwhile
from .ordering import Ordering
from .upkeep import Upkeep

if TYPE_CHECKING:
    from ..transport import Backplane
    from .feature import Feature

__all__ = ["Closing"]

T = TypeVar("T")

# Seconds to close clients that a start opened while close() ran.
_UNDO_TIMEOUT = 1.0


class Closing:
    """Closes one server, once; any thread.

    Args:
        lifecycle: The server's state.
        timings: The layer's times.
        upkeep, commands, ordering, registry, transport, features, stats: Its parts, in the order
            in which they end.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        timings: Timings,
        upkeep: Upkeep,
        commands: Commands,
        ordering: Ordering,
        registry: Registry,
        transport: Backplane,
        features: Collection[Feature],
        stats: Stats,
    ) -> None:
        self._lifecycle = lifecycle
        self._timings = timings
        self._upkeep = upkeep
        self._commands = commands
        self._ordering = ordering
        self._registry = registry
        self._transport = transport
        self._features = features
        self._stats = stats
        # The id of the thread that closes the server; None before that.
        self._closer: int | None = None

    def close(self, timeout: float) -> None:
        """Write queued records and stop; blocks for at most ``timeout`` seconds. Idempotent.

        A second caller waits until the first is done, unless the first waits for it: a signal
        handler that interrupts the first, or a receiver of a Django signal. A server that never
        started is left as it is.
        """
        with self._lifecycle.lock:
            closes = self._lifecycle.started and not self._lifecycle.ended
            if closes:
                # Before the state changes: a signal handler may interrupt at any point.
                self._closer = threading.get_ident()
                closes = self._lifecycle.advance(State.CLOSING)
        if closes:
            self._end(timeout)
        elif self._lifecycle.state is State.CLOSING and not self.waits_for_caller:
            self.wait(timeout)

    @property
    def waits_for_caller(self) -> bool:
        """Whether the close, while it runs, cannot end before its caller returns.

        So it is for a signal handler that interrupts it, and for a receiver of a Django signal.
        """
        return self._closer == threading.get_ident() or in_receiver()

    def wait(self, timeout: float) -> bool:
        """Wait until the server is closed; return whether it is."""
        try:
            self._lifecycle.closed.result(timeout)
        except TimeoutError:
            return False
        return True

    def guard(self, start: Callable[[], T]) -> Callable[[], T]:
        """Return a start that undoes its work if ``close`` overtakes it.

        Args:
            start: Opens something; blocks.
        """

        def open_or_undo() -> T:
            try:
                opened = start()
            except BaseException:
                if not self._lifecycle.ended:
                    raise
            else:
                if not self._lifecycle.ended:
                    return opened
            # close() ran while this was opening and could not see it. Let close() finish (it
            # flushes), then close what was opened here.
            self._lifecycle.closed.result()
            self._transport.close(_UNDO_TIMEOUT)
            raise closed_meanwhile()

        return open_or_undo

    def _end(self, timeout: float) -> None:
        deadline = monotonic() + timeout
        error = LayerClosed("The channel layer was closed.")
        try:
            self._upkeep.stop()
            self._commands.close(error)
            self._ordering.close()
            # Before the queue is written: websockets close at once, and browsers connect again.
            self._count_left(self._registry.close(error))
            try:
                self._transport.close(timeout)
            finally:
                self._count_left(sum(feature.close(error) for feature in self._features))
            # Before CLOSED: a thread that waits for that may end the process.
            least = min(timeout, self._timings.close_signals)
            self._stats.close(max(least, deadline - monotonic()))
        finally:
            self._count_left(self._registry.empty())
            self._lifecycle.advance(State.CLOSED)

    def _count_left(self, messages: int) -> None:
        if messages:
            self._stats.count("dropped.closed", messages)
