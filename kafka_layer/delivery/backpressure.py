"""Back-pressure: which full channels the reading thread waits for, and for how long.

The log is the buffer: the reading thread waits until a full channel has room, and the records
behind wait in the broker. One dead browser must not stop a server. So two kinds of channels are
stalled: one that takes nothing while its event loop runs, and one that holds up the others for too
long. The reading thread waits for no stalled channel; that channel alone loses messages until it is
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
    """Whether the reading thread waits for a full channel."""

    ROOM = "it has room again"
    WAIT = "it may take messages soon"
    STALLED = "it is not waited for"


class Congestion:
    """A full channel, from the first look of the reading thread until it is drained.

    States and transitions:

    ======== ======================================================= ===========================
    state    means                                                   ends
    ======== ======================================================= ===========================
    (none)   the channel was not full since it was last empty        full: a message fills it
    full     the reading thread waits for it                         stalled; drained
    stalled  the reading thread does not wait for it                 drained
    ======== ======================================================= ===========================

    A channel is drained when a receive takes its last message, or finds none. It then drops its
    congestion as a whole; late writes to the old object are harmless.

    Args:
        taken: How many messages the channel's receives had taken when it was filled.
        clocks: For each loop that receives, the seconds for which it was seen to run by then.

    Attributes:
        room: Set when half of the capacity is free; None unless a thread waits for that.
        tells_at: How few messages a take has to leave to call ``relieve``: half of the capacity
            while a thread waits for room, otherwise none.
        held_up: Seconds for which the others had to wait for the channel.
        stalled: Whether the channel is stalled.
        none_expires_before: The earliest deadline of its messages at the last search, on
            ``time.monotonic()``; minus infinity if it was filled again since.
    """

    __slots__ = (
        "_since",
        "_taken",
        "held_up",
        "none_expires_before",
        "room",
        "stalled",
        "tells_at",
    )

    def __init__(self, taken: int, clocks: Mapping[Loop, float]) -> None:
        self.room: threading.Event | None = None
        self.tells_at = 0
        self.held_up = 0.0
        self.stalled = False
        self.restart(taken, clocks)

    def restart(self, taken: int, clocks: Mapping[Loop, float]) -> None:
        """Count idle time from now on: a receive took a message, or the channel filled again."""
        self._taken = taken
        self._since = dict(clocks)
        self.none_expires_before = -math.inf

    def await_room(self, room: threading.Event, left: int) -> None:
        """Have the take that leaves so few messages set an event; the thread that waits for it."""
        # In this order: a take looks at tells_at first.
        self.room = room
        self.tells_at = left

    def relieve(self) -> None:
        """Wake the thread that waits for room, if one does; once for each ``await_room``."""
        room, self.room = self.room, None
        if room is not None:
            # In this order: the thread may wait again as soon as it is woken. And
            # the take that empties the channel comes here once more.
            self.tells_at = 0
            room.set()

    def idle(self, taken: int, clocks: Mapping[Loop, float]) -> float:
        """Return the seconds in which *all* loops that receive ran and no message was taken.

        A process that gets no processor, or a loop that a handler blocks, is slow but does not
        refuse messages.
        """
        if taken != self._taken:
            self.restart(taken, clocks)
        return min(ran - self._since.setdefault(loop, ran) for loop, ran in clocks.items())

    def judge(self, taken: int, clocks: Mapping[Loop, float], timings: Timings) -> bool:
        """Tell whether the channel is stalled; a stalled one stays so until this object ends."""
        self.stalled = (
            self.stalled
            or self.idle(taken, clocks) >= timings.stalled
            or self.held_up >= timings.holding_up
        )
        return self.stalled


class Bounded(Protocol):
    """A channel, as back-pressure sees it."""

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
        """Return its congestion; begin one if it has none."""


class BackPressure:
    """Decides what the reading thread does with a full channel.

    Args:
        timings: ``stalled``, ``holding_up`` and ``blocked_loop``.
        channels: Returns the open channels, to tell whether a full one holds up others.
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
        while len(channel) > channel.capacity // 2:
            self._room.clear()
            # A receive may drain the channel during the wait, which then counts for nothing.
            congestion = channel.congestion()
            congestion.await_room(self._room, channel.capacity // 2)
            verdict = self.verdict(channel)
            if verdict is not Verdict.WAIT:
                return verdict is Verdict.ROOM
            # Not more than a round: a process that gets no processor holds up nobody.
            waited = min(self._wait(channel.loops), self._round)
            # A channel that takes its messages all the time causes short waits only.
            if waited >= self._round / 2 and self._holds_up_others(channel):
                congestion.held_up += waited
        return True

    def verdict(self, channel: Bounded) -> Verdict:
        """Tell whether to wait for a channel; does not block."""
        if len(channel) <= channel.capacity // 2:
            return Verdict.ROOM
        # Idle time counts from when it became full, so that many stalled channels cost the time of
        # one.
        clocks = {loop: loop.ran for loop in channel.loops}
        if not channel.congestion().judge(channel.taken, clocks, self._timings):
            return Verdict.WAIT
        # A receive may have drained it meanwhile: then the verdict is about an old congestion.
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

    def _holds_up_others(self, channel: Bounded) -> bool:
        # If more are behind than keep up, the server is slow, and drops would not help the others.
        others = [each for each in self._channels() if each is not channel and not each.stalled]
        behind = sum(len(each) > each.capacity // 2 for each in others)
        return len(others) - behind >= max(1, behind)
