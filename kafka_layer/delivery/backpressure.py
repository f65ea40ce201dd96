"""Back-pressure: which full channels the reading thread waits for, and for how long.

The log is the buffer: where a channel is full, the thread that reads waits until it has room, and
the records behind wait in the broker. One dead browser must not stop a server, so there are two
limits: a channel that takes nothing while its event loop runs, and one that holds up the others for
too long, is stalled. Nothing waits for a stalled channel; it alone loses messages until it is
drained.
"""

from __future__ import annotations

import enum
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ..config import realtime as time
from ..config.threads import new_event
from ..config.timings import Timings
from .wakeups import Loop

__all__ = ["BackPressure", "Bounded", "Congestion", "Verdict"]


class Verdict(enum.Enum):
    """Whether the thread that has a message for a full channel waits for it."""

    ROOM = "it has room again"
    WAIT = "it may take messages soon"
    STALLED = "it is not waited for"


class Congestion:
    """A channel from the moment at which it is full until it is drained.

    States and transitions:

    ======== ======================================================= ===========================
    state    means                                                   ends
    ======== ======================================================= ===========================
    (none)   the channel was not full since it was last empty        full: a message fills it
    full     it is waited for                                        stalled; drained
    stalled  nothing waits for it until it is drained                drained
    ======== ======================================================= ===========================

    A channel is drained when a receive takes its last message, or finds none. It then
    drops its congestion as a whole; late writes to the old object are harmless.

    Args:
        taken: How many messages the channel's receives have taken so far.
        clocks: For each loop that receives, for how many seconds it was seen to run so far.

    Attributes:
        room: Set when half of the capacity is free; None unless a thread waits for that.
        held_up: For how many seconds the others had to wait for the channel.
        stalled: Whether it is stalled.
        none_expires_before: The earliest deadline among its messages when it was last looked for,
            on ``time.monotonic()``; minus infinity since it was filled anew.
    """

    __slots__ = ("_since", "_taken", "held_up", "none_expires_before", "room", "stalled")

    def __init__(self, taken: int, clocks: Mapping[Loop, float]) -> None:
        self.room: threading.Event | None = None
        self.held_up = 0.0
        self.stalled = False
        self.restart(taken, clocks)

    def restart(self, taken: int, clocks: Mapping[Loop, float]) -> None:
        """Count the idle time from now on: a message was taken, or the channel is full anew."""
        self._taken = taken
        self._since = dict(clocks)
        self.none_expires_before = -math.inf

    def idle(self, taken: int, clocks: Mapping[Loop, float]) -> float:
        """Return for how many seconds nothing was taken while *all* loops that receive ran.

        A process that gets no processor, or a loop that a handler blocks, is slow but does not
        refuse to take.
        """
        if taken != self._taken:
            self.restart(taken, clocks)
        return min(ran - self._since.setdefault(loop, ran) for loop, ran in clocks.items())

    def judge(self, taken: int, clocks: Mapping[Loop, float], timings: Timings) -> bool:
        """Tell whether the channel is stalled, by what is known now; it stays so until it ends."""
        self.stalled = (
            self.stalled
            or self.idle(taken, clocks) >= timings.stalled
            or self.held_up >= timings.holding_up
        )
        return self.stalled


class Bounded(Protocol):
    """A channel, as far as back-pressure is concerned."""

    capacity: int

    def __len__(self) -> int: ...

    @property
    def taken(self) -> int:
        """How many messages were taken from it."""

    @property
    def loops(self) -> Sequence[Loop]:
        """The event loops that receive on it; never empty."""

    @property
    def stalled(self) -> bool:
        """Whether it is stalled."""

    def congestion(self) -> Congestion:
        """Return its congestion; begins one if it has none."""


class BackPressure:
    """What the thread that reads does with a full channel.

    Args:
        timings: ``stalled``, ``holding_up`` and ``blocked_loop``.
        channels: Returns the channels that are open, to tell whether most keep up.
    """

    def __init__(self, timings: Timings, channels: Callable[[], Sequence[Bounded]]) -> None:
        self._timings = timings
        self._channels = channels
        self._room = new_event()
        self._round = timings.stalled / 5

    def wait_for_room(self, channel: Bounded) -> bool:
        """Block until at most half of a channel's capacity is in use; the reading thread alone.

        Returns:
            False if the channel is stalled.
        """
        while True:
            self._room.clear()
            channel.congestion().room = self._room
            verdict = self.verdict(channel)
            if verdict is not Verdict.WAIT:
                return verdict is Verdict.ROOM
            waited = self._wait(channel.loops)
            # Short waits are those for a channel that takes its messages all the time.
            if waited >= self._round / 2 and self._most_keep_up():
                channel.congestion().held_up += waited

    def verdict(self, channel: Bounded) -> Verdict:
        """Tell what the channel's state means now; waits for nothing."""
        if len(channel) <= channel.capacity // 2:
            return Verdict.ROOM
        # Idle since it is full, not since somebody waits for it: many that stand still cost no more
        # time than one.
        clocks = {loop: loop.ran for loop in channel.loops}
        if not channel.congestion().judge(channel.taken, clocks, self._timings):
            return Verdict.WAIT
        # Where it was drained while it was judged, that was about a congestion that is over.
        return Verdict.STALLED if channel.stalled else Verdict.WAIT

    def _wait(self, loops: Sequence[Loop]) -> float:
        for loop in loops:
            loop.ask()
        started = time.monotonic()
        self._room.wait(self._round)
        waited = time.monotonic() - started
        for loop in loops:
            loop.count(min(waited, self._round), self._timings.blocked_loop)
        return waited

    def _most_keep_up(self) -> bool:
        # Where most are behind, the server is slow, and dropping would help nobody.
        channels = self._channels()
        behind = sum(len(each) > each.capacity // 2 for each in channels if not each.stalled)
        return behind * 2 < len(channels)
