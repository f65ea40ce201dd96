"""What a server looks for from time to time, as nobody announces it: topics, and the clock."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from ..config.realtime import monotonic
from ..config.timings import Timings
from ..delivery.tickets import run_blocking
from ..exceptions import BrokerUnavailable
from ..transport import Backplane
from . import live
from .clock import BrokerClock
from .commands import Commands
from .feature import Feature
from .lifecycle import Lifecycle, State

__all__ = ["Refresh"]


class Refresh:
    """Refreshes what one server knows, every ``timings.refresh`` seconds; the upkeep's thread.

    Args:
        transport: Looks at the topics.
        commands: Asks for the broker's time.
        clock: What that sets.
        lifecycle: The server's state.
        features: May need the broker's time.
        timings: The layer's times.
    """

    def __init__(
        self,
        transport: Backplane,
        commands: Commands,
        clock: BrokerClock,
        lifecycle: Lifecycle,
        features: Collection[Feature],
        timings: Timings,
    ) -> None:
        self._transport = transport
        self._commands = commands
        self._clock = clock
        self._lifecycle = lifecycle
        self._features = features
        self._timings = timings
        self._next = 0.0

    def plan(self) -> None:
        """Note that everything is fresh at this moment, after a start."""
        self._next = monotonic() + self._timings.refresh

    def run_if_due(self) -> None:
        """Refresh, where it is time; again in the next round if no broker answers."""
        if monotonic() < self._next and not self._transport.health().doubtful:
            return
        self.plan()
        live.warn_if_nobody_tells()
        try:
            self._transport.refresh()
        except BrokerUnavailable:
            self._next = monotonic()
        else:
            self._set_clock()

    def _set_clock(self) -> None:
        receives = self._lifecycle.state is State.RECEIVING
        # A server that only sends never computes ages, and may lack WRITE on the ack topic.
        if receives and not self._clock.append_times_reported:
            with contextlib.suppress(TimeoutError):
                run_blocking(self._commands.self_test(self._timings.upkeep))
        elif receives or any(feature.needs_clock for feature in self._features):
            self._commands.probe_clock()
