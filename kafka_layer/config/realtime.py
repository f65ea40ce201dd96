"""The clocks that the layer lives by: real ones, also where a test freezes or moves the time.

freezegun replaces ``time.monotonic`` and ``time.time`` in every module that it finds, but not in
the threads of the standard library. Deadlines that two threads share would then be read off two
clocks.
"""

from __future__ import annotations

import time
from functools import partial
from types import BuiltinFunctionType

__all__ = ["monotonic", "wall_clock"]


def _is_real(function: object) -> bool:
    return isinstance(function, BuiltinFunctionType)


# A partial object is not what freezegun looks for. Where the time is frozen already when this is
# imported, clock_gettime, which freezegun leaves alone, takes its place (it is missing on Windows).
monotonic: partial[float] = (
    partial(time.monotonic)
    if _is_real(time.monotonic) or not hasattr(time, "clock_gettime")
    else partial(time.clock_gettime, time.CLOCK_MONOTONIC)
)
"""Seconds that only grow, at the speed of real time; ``time.monotonic`` as nobody replaced it."""

wall_clock: partial[float] = (
    partial(time.time)
    if _is_real(time.time) or not hasattr(time, "clock_gettime")
    else partial(time.clock_gettime, time.CLOCK_REALTIME)
)
"""Seconds since the epoch by this machine's clock; ``time.time`` as nobody replaced it."""
