"""Periodic requests of a server for what no broker announces: partition counts and the time."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import TYPE_CHECKING

from ..config.realtime import monotonic
from ..config.timings import Timings
from ..delivery.tickets import run_blocking
from ..exceptions import BrokerUnavailable
from . import process
from .clock import BrokerClock
from .commands import Commands
from .lifecycle import Lifecycle, State

if TYPE_CHECKING:
    from ..transport import Backplane
    from .feature import Feature

__all__ = ["Refresh"]


class Refresh:
    """Refreshes one server's knowledge, every ``timings.refresh`` seconds; the upkeep's thread.

    Args:
        transport: Reads the partition counts.
        commands: Asks for the broker's time.
        clock: The clock that this sets.
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
        """Plan the next refresh; also after a start."""
        self._next = monotonic() + self._timings.refresh

    def run_if_due(self) -> None:
        """Refresh when due; again in the next round if no broker answers."""
        if monotonic() < self._next and not self._transport.health().doubtful:
            return
        self.plan()
        process.warn_if_nobody_tells()
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
