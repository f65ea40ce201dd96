"""One outage for several courses of events: each start of a broker takes seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from tests.support.layers import Layers

__all__ = ["PAUSES", "Course", "Outage", "calm"]

PAUSES = dict.fromkeys(("reconnect.backoff.ms", "reconnect.backoff.max.ms"), 1_000)
"""librdkafka properties of clients that look for a broker once a second.

At each attempt a client ends threads and starts others. With the layer's own values, five times a
second, the clients of an outage take most of the time that the broker's start needs.
"""

_ABREAST = 3


def calm(layers: Layers) -> None:
    """Have the layers made from now on look for a broker once a second.

    Their messages live for five minutes: an outage lasts for long where the machine is slow.
    """
    config = {**layers.backend.config, "client_config": PAUSES, "expiry": 300}
    layers.backend = replace(layers.backend, config=config)


class Outage:
    """A broker is away once, while several courses run side by side.

    A course is a coroutine function that gets the outage. It makes what it needs, awaits
    :meth:`begins`, does without a broker what it is about, awaits :meth:`ends`, and looks at what
    became of it. Only a few make what they need at a time, or each would wait for the others'.

    Args:
        end: Makes the broker be away; blocks.
        mend: Makes it serve again; blocks.
    """

    def __init__(self, end: Callable[[], None], mend: Callable[[], None]) -> None:
        self._end, self._mend = end, mend

    async def run(self, *courses: Course) -> None:
        """Return when all courses have come to their ends.

        Raises:
            Exception: What a course raised; the others are cancelled.
        """
        self._begins = _Meeting(len(courses), self._end)
        self._ends = _Meeting(len(courses), self._mend)
        self._turns = asyncio.Semaphore(_ABREAST)
        self._beginners: set[object] = set()
        tasks = [asyncio.ensure_future(self._in_turn(course)) for course in courses]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def begins(self, just_before: Callable[[], None] = lambda: None) -> None:
        """Return when the broker is away, which it is once all courses have asked for it.

        Args:
            just_before: Called in the event loop when all have asked, and the broker goes.
        """
        self._end_turn()
        await self._begins.reached(just_before)

    async def ends(self) -> None:
        """Return when the broker serves again, which it does once all courses have asked for it."""
        await self._ends.reached()

    async def _in_turn(self, course: Course) -> None:
        await self._turns.acquire()
        self._beginners.add(asyncio.current_task())
        try:
            await course(self)
        finally:
            self._end_turn()

    def _end_turn(self) -> None:
        if asyncio.current_task() in self._beginners:
            self._beginners.discard(asyncio.current_task())
            self._turns.release()


Course = Callable[[Outage], Awaitable[None]]
"""What one of several does through an outage."""


class _Meeting:
    """Where courses wait for each other; the last one to come does what all wait for."""

    def __init__(self, courses: int, action: Callable[[], None]) -> None:
        self._missing, self._action = courses, action
        self._preludes: list[Callable[[], None]] = []
        self._done = asyncio.Event()

    async def reached(self, prelude: Callable[[], None] = lambda: None) -> None:
        self._preludes.append(prelude)
        self._missing -= 1
        if not self._missing:
            for each in self._preludes:
                each()
            await asyncio.to_thread(self._action)
            self._done.set()
        await self._done.wait()
