"""A channel's bounded queue, and the only place where a thread hands something to an event loop.

A thread that puts a message appends it to the mailbox and leaves a note with the loop that waits;
``Bridges.notify`` then schedules at most one callback per loop, however many mailboxes it
wakes. The callback wakes, and the receives run within it. ``receive`` itself takes the message,
with no await between taking and returning, so a cancelled receive takes none with it: a message
handed over through a future is lost when its receive is cancelled in the same turn of the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from ..config import realtime as time
from ..wire.records import Place

__all__ = ["LOOP_PATIENCE", "PATIENCE", "STALLED_AFTER", "Bridges", "Envelope", "Mailbox"]

STALLED_AFTER = 0.25
"""Seconds without a take after which a full mailbox counts as stalled, while its loop runs."""

LOOP_PATIENCE = 10.0
"""Seconds after which an event loop that does not run counts as if it did."""

PATIENCE = 1.0
"""Seconds, between two drains, for which a slow mailbox may hold up the ones that keep up."""

_ROUND = STALLED_AFTER / 5
_NOTICEABLE = _ROUND / 2


class Envelope:
    """A message on its way to receivers; one object is shared by all mailboxes that hold it.

    Attributes:
        payload: The serialized message; each receiver decodes its own copy.
        deadline: When the message expires, on ``time.monotonic()``.
        place: Where its record stands in the log: topic, partition, offset and the broker's
            timestamp in seconds. None for a message that went from channel to channel within the
            process.
        unreadable: Set once decoding it failed, so that it is reported once.
    """

    __slots__ = ("deadline", "payload", "place", "unreadable")

    def __init__(self, payload: bytes, deadline: float, place: Place | None = None) -> None:
        self.payload = payload
        self.deadline = deadline
        self.place = place
        self.unreadable = False


class Mailbox:
    """The messages that wait for the receivers of one channel.

    Threads of any kind ``put``; ``take`` and ``wait`` belong to the event loop that
    receives, which may be another one each time.

    Args:
        channel: The channel's name.
        capacity: Messages it holds at most.
        bridges: The loop crossings of its server.
        on_wait: Called in the loop when a receive begins to wait.

    Attributes:
        bridge: The crossing to the loop that last waited.
        due: Whether that loop has a note that it is to be woken.
        last_seen: When a receive last waited or took, on ``time.monotonic()``.
        stalled: Whether nothing waits for it, because it stopped taking; ends when it is drained.
    """

    __slots__ = (
        "__weakref__",
        "_bridges",
        "_held_up",
        "_items",
        "_on_wait",
        "_room",
        "_taken",
        "_waiters",
        "_watched",
        "_when_full",
        "bridge",
        "capacity",
        "channel",
        "due",
        "last_seen",
        "stalled",
    )

    def __init__(
        self,
        channel: str,
        capacity: int,
        bridges: Bridges,
        on_wait: Callable[[], None] | None = None,
    ) -> None:
        self.channel = channel
        self._on_wait = on_wait
        self.capacity = capacity
        self.bridge: _Bridge | None = None
        self.due = False
        self.last_seen = time.monotonic()
        self.stalled = False
        self._bridges = bridges
        self._items: deque[Envelope] = deque()
        # In their order; a dict, because any of them may leave.
        self._waiters: dict[_Waiter, None] = {}
        self._taken = 0
        # When it became full the last time: how many were taken, and how long its loop was lively.
        self._when_full = 0, 0.0
        self._room = threading.Event()
        self._held_up = 0.0
        # Whether take() has to tell anyone: one test in the hot path instead of three.
        self._watched = False

    def __len__(self) -> int:
        return len(self._items)

    @property
    def receiving(self) -> bool:
        """Whether a receive waits on the channel at this moment."""
        return self._receives() > 0

    @property
    def unserved(self) -> int:
        """How many receives wait for which there is no message yet."""
        return max(0, self._receives() - len(self._items))

    def put(self, envelope: Envelope) -> bool:
        """Append a message and note that the waiting loop is to be woken; any thread.

        The note takes effect with the next ``Bridges.notify``.

        Returns:
            False if the mailbox is full; the message is not in it then.
        """
        room = self.capacity - len(self._items)
        if room <= 0:
            return False
        self._items.append(envelope)
        if room == 1:
            self._when_full = self._taken, self._lively()
        if self._waiters and not self.due:
            self._bridges.note(self)
        return True

    def take(self) -> Envelope | None:
        """Return the oldest message, or None; any thread, in practice the receiving loop's."""
        # Most receives come before their message, and an exception costs as much as all the rest.
        if not self._items:
            return None
        try:
            envelope = self._items.popleft()
        except IndexError:
            return None
        self._taken += 1
        if self._watched:
            self._tell_taken()
        return envelope

    async def wait(self) -> None:
        """Return when there may be a message to take; another receive may be faster."""
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop=loop)
        if self.bridge is None or self.bridge.loop() is not loop:
            # A note with the loop before may never be read: that loop may stand still.
            self.bridge = self._bridges.to_running_loop()
            self.due = False
        self._waiters[waiter] = None
        try:
            # A put that saw no waiter came before the line above, so its message is seen here.
            if self._items:
                # One that saw it may be about to wake it.
                waiter.set_result(None)
            else:
                if self._on_wait is not None:
                    self._on_wait()
                await waiter
        finally:
            self._waiters.pop(waiter, None)
            self.last_seen = time.monotonic()

    def wake(self, here: asyncio.AbstractEventLoop | None) -> None:
        """Wake waiting receives while there are messages; any thread.

        Args:
            here: The loop of which the caller is a callback, and not a task, if it is. Its receives
                run at once.
        """
        self.due = False
        # These and no more: a thread may put the next message while they run.
        for waiter in list(self._waiters):
            if not self._items:
                return
            loop = waiter.get_loop()
            if loop is here:
                waiter.wake()
            else:
                # It may be closed or stand still: it is told once, and its message stays wanted.
                self._waiters.pop(waiter, None)
                # Until it runs it does not count as waiting; this keeps its channel meanwhile.
                self.last_seen = time.monotonic()
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(waiter.wake)

    def wait_for_room(self, holds_up_others: Callable[[], bool]) -> bool:
        """Block until at most half of the capacity is in use; the router's thread alone.

        Args:
            holds_up_others: Tells whether channels that keep up wait for this one.

        Returns:
            False if the mailbox is stalled: nothing was taken while its loop was lively for
            ``STALLED_AFTER`` seconds, or it held up others for ``PATIENCE`` seconds. It stays so
            until it was drained.
        """
        # Since it is full, not since somebody waits: many that stand still cost no more than one.
        taken, since = self._when_full
        while not self.stalled:
            self._room.clear()
            self._watched = True
            if len(self._items) <= self.capacity // 2:
                return True
            if self._taken != taken:
                taken, since = self._taken, self._lively()
            if self._lively() - since >= STALLED_AFTER or self._held_up >= PATIENCE:
                self.stalled = True
                break
            waited = (self.bridge or _NOWHERE).wait(self._room, _ROUND)
            if waited >= _NOTICEABLE and holds_up_others():
                self._held_up += waited
        return False

    def clear(self) -> int:
        """Drop every message and return how many there were; any thread."""
        dropped = 0
        while self.take() is not None:
            dropped += 1
        return dropped

    def _lively(self) -> float:
        return (self.bridge or _NOWHERE).lively

    def _receives(self) -> int:
        # A loop that was closed under a waiting receive never ends it: that one does not count.
        return sum(not each.get_loop().is_closed() for each in list(self._waiters))

    def _tell_taken(self) -> None:
        left = len(self._items)
        if left <= self.capacity // 2:
            self._room.set()
        if not left:
            self.stalled = self._watched = False
            self._held_up = 0.0


class Bridges:
    """The crossings from threads to the event loops of one server, one crossing a loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Bridge] = (
            weakref.WeakKeyDictionary()
        )
        self._noted: deque[_Bridge] = deque()

    def to_running_loop(self) -> _Bridge:
        """Return the crossing to the loop that runs the caller."""
        loop = asyncio.get_running_loop()
        bridge = self._by_loop.get(loop)
        if bridge is None:
            with self._lock:
                bridge = self._by_loop.setdefault(loop, _Bridge(loop))
        return bridge

    def note(self, mailbox: Mailbox) -> None:
        """Remember that a loop is to wake ``mailbox``; any thread."""
        # Before the look at the bridge: a loop that takes over in between clears it.
        mailbox.due = True
        bridge = mailbox.bridge
        if bridge is None:
            return
        bridge.due.append(mailbox)
        if not bridge.noted:
            bridge.noted = True
            self._noted.append(bridge)

    def notify(self) -> None:
        """Wake every mailbox noted so far, with one callback a loop; any thread."""
        while self._noted:
            try:
                bridge = self._noted.popleft()
            except IndexError:
                return
            bridge.noted = False
            bridge.schedule()


class _Bridge:
    """One event loop, seen from the threads that have something for it.

    Attributes:
        loop: The loop; weak, or the bridge would keep alive the key under which it is found.
        due: Mailboxes to be woken.
        noted: Whether the next ``notify`` is for this loop.
        lively: Seconds for which somebody waited for the loop while it ran. A process that gets no
            processor, or a loop that a handler blocks, is slow but does not refuse to take.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop: Callable[[], asyncio.AbstractEventLoop | None] = (
            _no_loop if loop is None else weakref.ref(loop)
        )
        self.due: deque[Mailbox] = deque()
        self.noted = False
        self.lively = 0.0
        self._scheduled = False
        self._turned = True
        self._silent = 0.0

    def wait(self, event: threading.Event, seconds: float) -> float:
        """Wait for an event, and count the time if the loop runs meanwhile; one thread alone.

        Args:
            event: What is waited for.
            seconds: How long, at most.

        Returns:
            The seconds that were waited.
        """
        loop = self.loop()
        gone = loop is None or loop.is_closed()
        if self._turned and loop is not None and not gone:
            self._turned = False
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._turn)
        started = time.monotonic()
        event.wait(seconds)
        waited = time.monotonic() - started
        if self._turned or gone or self._silent >= LOOP_PATIENCE:
            self.lively += min(waited, seconds)
        self._silent = 0.0 if self._turned else self._silent + waited
        return waited

    def _turn(self) -> None:
        self._turned = True

    def schedule(self) -> None:
        loop = self.loop()
        if loop is None or loop.is_closed():
            # Its receives are gone, but another loop may have taken over.
            self._wake_due(None)
        elif not self._scheduled:
            self._scheduled = True
            # The other one writes to a socket, so that the loop wakes up.
            local = loop is asyncio._get_running_loop()
            call_soon = loop.call_soon if local else loop.call_soon_threadsafe
            try:
                call_soon(self._wake_due, loop)
            except RuntimeError:  # closed just now
                self._wake_due(None)

    def _wake_due(self, here: asyncio.AbstractEventLoop | None) -> None:
        # Cleared first: what is noted from here on schedules anew.
        self._scheduled = False
        for _ in range(len(self.due)):
            try:
                mailbox = self.due.popleft()
            except IndexError:
                return
            try:
                mailbox.wake(here)
            except BaseException:
                # A task ends the loop. Should it run once more, it goes on here.
                mailbox.due = True
                self.due.append(mailbox)
                self.schedule()
                raise


def _no_loop() -> None:
    return None


# For a mailbox on which nobody has received yet, and that no loop opened.
_NOWHERE = _Bridge(None)


class _Waiter(asyncio.Future[None]):
    """What a receive waits on: the task that awaits it goes on within ``wake``.

    The task of a plain future is called in the next turn of its loop. For a message to a group that
    is a fifth of the time of each member, measured, and for one that comes alone another look of
    the loop at its sockets.
    """

    __slots__ = ("_context", "_go_on")

    def add_done_callback(
        self, fn: Callable[[Any], object], /, *, context: contextvars.Context | None = None
    ) -> None:
        """Remember how the task goes on; it calls this when it begins to wait, and nobody else."""
        self._go_on = fn
        # An empty context counts as False.
        self._context = contextvars.copy_context() if context is None else context

    def cancel(self, msg: Any | None = None) -> bool:
        """Let the loop call the task, as a plain future does."""
        if not self.done():
            super().add_done_callback(self._go_on, context=self._context)
        return super().cancel(msg)

    def wake(self) -> None:
        """Run the task up to its next await; in a callback of its loop, and not in a task."""
        if not self.done():
            self.set_result(None)
            self._context.run(self._go_on, self)
