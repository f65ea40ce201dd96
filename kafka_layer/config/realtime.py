"""The layer's clocks: real ones, also where a test freezes or moves the time.

freezegun replaces ``time.monotonic`` and ``time.time`` in every module that it finds, but not in
the threads of the standard library. Two threads that share a deadline would then read two clocks.
"""

from __future__ import annotations

import time
from functools import partial
from types import BuiltinFunctionType

__all__ = ["monotonic", "wall_clock"]


def _is_real(function: object) -> bool:
    return isinstance(function, BuiltinFunctionType)


# freezegun does not look for partial objects. If the time is frozen when this module is imported,
# use clock_gettime, which freezegun leaves alone (and Windows does not have).
monotonic: partial[float] = (
    partial(time.monotonic)
    if _is_real(time.monotonic) or not hasattr(time, "clock_gettime")
    else partial(time.clock_gettime, time.CLOCK_MONOTONIC)
)
"""Seconds that only grow, at the speed of real time: the original ``time.monotonic``."""

wall_clock: partial[float] = (
    partial(time.time)
    if _is_real(time.time) or not hasattr(time, "clock_gettime")
    else partial(time.clock_gettime, time.CLOCK_REALTIME)
)
"""Seconds since the epoch by this machine's clock: the original ``time.time``."""
