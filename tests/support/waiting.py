"""Waiting for something that another thread or process does: with a deadline, and by name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["PATIENCE", "wait_until", "wait_until_async"]

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds until a wait fails where a test does not say it: machines stand still for some, and only
a test that fails waits so long."""

_PAUSE = 0.01


def wait_until(
    predicate: Callable[[], T], what: str, timeout: float = PATIENCE, *, pause: float = _PAUSE
) -> T:
    """Call ``predicate`` until it returns something true, and return that.

    Args:
        predicate: What is asked. An exception in it ends the wait.
        what: What is waited for, for the error: "the broker to answer".
        timeout: Seconds until the wait fails. The predicate is asked at least once.
        pause: Seconds between two questions.

    Returns:
        What the predicate returned.

    Raises:
        TimeoutError: It returned nothing true in time; the message says what was awaited
            and what came last.
    """
    deadline = time.monotonic() + timeout
    while not (result := predicate()):
        if time.monotonic() >= deadline:
            raise _timed_out(what, timeout, result)
        time.sleep(pause)
    return result


async def wait_until_async(
    predicate: Callable[[], T], what: str, timeout: float = PATIENCE, *, pause: float = _PAUSE
) -> T:
    """Do what :func:`wait_until` does, and let the event loop run in between."""
    deadline = time.monotonic() + timeout
    while not (result := predicate()):
        if time.monotonic() >= deadline:
            raise _timed_out(what, timeout, result)
        await asyncio.sleep(pause)
    return result


def _timed_out(what: str, timeout: float, last: object) -> TimeoutError:
    return TimeoutError(f"Waited {timeout:g} s for {what}; the last answer was {last!r}")
