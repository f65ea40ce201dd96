"""From threads to event loops: which receives of which loops are to be woken, and waking them.

Hot path: one message to a group wakes a receive for each member.

A channel may be received on from any number of loops at the same time; any of them may stand still
or be closed at any moment. So a note that a channel has a message goes to *each* loop in which a
receive waits on it, and a loop that never reads its notes delays nobody but its own receives.
A message is not handed over in a note: the receive that runs first takes it. A message that is
handed over through a future is lost when its receive is cancelled in the same turn of the loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sized
from typing import Any

from ..config import realtime as time
from ..config.timings import Timings

__all__ = ["Loop", "Receives", "Waiter", "Wakeups"]


class Wakeups:
    """The event loops of one server, and the channels whose receives are to be woken.

    Args:
        timings: ``echo``: within how many seconds a loop answers that counts as running.
    """

    def __init__(self, timings: Timings | None = None) -> None:
        self.timings = timings or Timings()
        self._noted: deque[Receives] = deque()
        # By the id of the event loop. An entry goes with its loop; one of an earlier loop with the
        # same id would be told apart by its reference.
        self._loops: dict[int, Loop] = {}
        # For a channel on which nobody has received yet, and that no loop opened.
        self.nowhere = Loop(None, self.timings.echo)

    def note(self, receives: Receives) -> None:
        """Remember that there is something for ``receives``; any thread.

        The note takes effect with the next ``flush``.
        """
        self._noted.append(receives)

    def flush(self) -> None:
        """Wake the receives noted so far, with one callback a loop; any thread; never blocks."""
        noted = self._noted
        if not noted:
            return
        loops: dict[Loop, None] = {}
        for _ in range(len(noted)):
            try:
                receives = noted.popleft()
            except IndexError:  # another thread wakes the rest
                break
            for loop in list(receives.by_loop):
                loop.due[receives] = None
                loops[loop] = None
        for loop in loops:
            loop.schedule()

    def running_loop(self) -> Loop:
        """Return the event loop that runs the caller.

        Raises:
            RuntimeError: If the caller runs in no event loop.
        """
        running = asyncio.get_running_loop()
        loop = self._loops.get(id(running))
        if loop is None or loop.get() is not running:
            key, loops = id(running), self._loops
            loop = loops[key] = Loop(running, self.timings.echo, lambda _: loops.pop(key, None))
        return loop


class Loop:
    """One event loop, seen from the threads that have something for it.

    A loop is closed, or it is running, or it stands still: it has not been seen to run for
    ``patience`` seconds, because a handler blocks it or nobody runs it.

    Args:
        event_loop: The loop; held by a weak reference.
        patience: Seconds after which a loop that does not answer counts as standing still.
        on_collected: Called when the loop was garbage-collected.

    Attributes:
        get: Returns the event loop, or None once it was garbage-collected.
        due: The receives to be woken in this loop, in their order.
        seen_running: When it was last seen to run, on ``time.monotonic()``.
        lively: Seconds for which somebody waited for the loop while it ran. A process that gets no
            processor, or a loop that a handler blocks, is slow but does not refuse to take.
    """

    __slots__ = (
        "__weakref__",
        "_asked",
        "_on_running",
        "_patience",
        "_scheduled",
        "_silent",
        "due",
        "get",
        "lively",
        "seen_running",
    )

    def __init__(
        self,
        event_loop: asyncio.AbstractEventLoop | None,
        patience: float,
        on_collected: Callable[[object], object] | None = None,
    ) -> None:
        self.get: Callable[[], asyncio.AbstractEventLoop | None] = (
            _no_loop if event_loop is None else weakref.ref(event_loop, on_collected)
        )
        self.due: dict[Receives, None] = {}
        self.seen_running = time.monotonic()
        self._patience = patience
        self._scheduled = False
        # Whether it was asked for an echo that has not come yet.
        self._asked = False
        self._on_running: dict[Receives, None] = {}
        self.lively = 0.0
        self._silent = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether it is closed: what waits in it never runs again."""
        event_loop = self.get()
        return event_loop is None or event_loop.is_closed()

    def is_running(self) -> bool:
        """Tell whether the loop has run within the last ``patience`` seconds; any thread.

        Asks it for an echo where the last one is old, so a caller that looks repeatedly sees a
        loop that runs as running.
        """
        age = time.monotonic() - self.seen_running
        if age > self._patience / 4:
            self.ask()
        return age <= self._patience and not self.is_closed

    def ask(self) -> None:
        """Ask the loop to show that it runs; ``seen_running`` moves when it does. Any thread."""
        event_loop = self.get()
        if self._asked or event_loop is None:
            return
        self._asked = True
        try:
            event_loop.call_soon_threadsafe(self._echo)
        except RuntimeError:  # closed
            self._asked = False

    def tell_when_running(self, receives: Receives) -> None:
        """Call ``receives.on_demand`` once, when the loop runs next; any thread."""
        self._on_running[receives] = None
        self.ask()

    def wait(self, event: threading.Event, seconds: float, loop_patience: float) -> float:
        """Wait for an event, and count the time if the loop runs meanwhile; one thread alone.

        Args:
            event: What is waited for.
            seconds: How long, at most.
            loop_patience: Seconds of silence after which the loop counts as if it ran.

        Returns:
            The seconds that were waited.
        """
        gone = self.is_closed
        self.ask()
        started = time.monotonic()
        event.wait(seconds)
        waited = time.monotonic() - started
        if not self._asked or gone or self._silent >= loop_patience:
            self.lively += min(waited, seconds)
        self._silent = self._silent + waited if self._asked else 0.0
        return waited

    def schedule(self) -> None:
        """Have the loop wake what is due; any thread."""
        event_loop = self.get()
        if event_loop is None or event_loop.is_closed():
            self._drop_due()
            return
        if self._scheduled:
            # What is due was added before this look, and the callback looks after it clears this.
            return
        self._scheduled = True
        try:
            # The other one writes to a socket, so that the loop ends its wait for events.
            if event_loop is asyncio._get_running_loop():
                event_loop.call_soon(self._wake_due)
            else:
                event_loop.call_soon_threadsafe(self._wake_due)
        except RuntimeError:  # closed just now
            self._drop_due()
        except BaseException:
            self._scheduled = False
            raise

    def _wake_due(self) -> None:
        self._scheduled = False
        self.seen_running = time.monotonic()
        # These and no more: what is noted while they run is for the next turn.
        for receives in list(self.due):
            self.due.pop(receives, None)
            try:
                receives.wake(self)
            except BaseException:
                # A task ends the loop (SystemExit). Should it run once more, it goes on here.
                self.due[receives] = None
                self.schedule()
                raise

    def _echo(self) -> None:
        self._asked = False
        self.seen_running = time.monotonic()
        for receives in list(self._on_running):
            self._on_running.pop(receives, None)
            receives.on_demand()

    def _drop_due(self) -> None:
        for receives in list(self.due):
            self.due.pop(receives, None)
            receives.by_loop.pop(self, None)


class Receives:
    """The receives that wait on one channel, by the loop that each waits in.

    Only its own loop adds, wakes and removes a receive; other threads leave notes.

    Args:
        wakeups: The loops of its server.
        messages: What the receives wait for: they are woken while it is not empty.
        on_wait: Called in its loop when a receive begins to wait, and in a loop's thread when a
            loop that stood still runs again; must not block or raise.

    Attributes:
        by_loop: The receives that wait in each loop, in their order; a loop without one is not in
            it.
        error: What every receive raises from now on; None while the channel is open.
    """

    __slots__ = ("__weakref__", "_messages", "_on_wait", "_wakeups", "by_loop", "error")

    def __init__(
        self, wakeups: Wakeups, messages: Sized, on_wait: Callable[[], None] | None = None
    ) -> None:
        self.by_loop: dict[Loop, dict[Waiter, None]] = {}
        self.error: Exception | None = None
        self._wakeups = wakeups
        self._messages = messages
        self._on_wait = on_wait

    def note(self) -> None:
        """Remember that there is a message; takes effect with the next ``Wakeups.flush``."""
        self._wakeups.note(self)

    def enter(self) -> Waiter:
        """Begin to wait, in the running loop; the caller awaits the waiter, then calls ``leave``.

        A message that is put from here on wakes it. The caller looks once more for one that was
        put before.

        Raises:
            Exception: The error with which the channel was closed.
        """
        loop = self._wakeups.running_loop()
        waiter = Waiter(loop)
        waiters = self.by_loop.get(loop)
        if waiters is None:
            waiters = self.by_loop[loop] = {}
        waiters[waiter] = None
        loop.seen_running = time.monotonic()
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """End to wait, whatever the reason."""
        waiters = self.by_loop.get(waiter.loop)
        if waiters is not None:
            waiters.pop(waiter, None)
            if not waiters:
                self.by_loop.pop(waiter.loop, None)

    def wake(self, loop: Loop) -> None:
        """Run the receives that wait in ``loop`` while there are messages; a callback of it."""
        waiters = self.by_loop.get(loop)
        if waiters is None:
            return
        # These and no more: each may wait anew at once.
        for waiter in list(waiters):
            if not self._messages and self.error is None:
                return
            waiter.wake()

    def close(self, error: Exception) -> None:
        """Let every receive raise ``error``, those that wait and those to come; any thread."""
        self.error = error
        self.note()
        self._wakeups.flush()

    def raise_if_closed(self) -> None:
        """Raise the error with which the channel was closed, if it was: a copy for each receive."""
        if self.error is not None:
            # A shared one would gather the traceback of each receive.
            raise copy.copy(self.error)

    @property
    def waiting(self) -> bool:
        """Whether a receive waits in a loop that is not closed."""
        return any(not loop.is_closed for loop in list(self.by_loop))

    @property
    def demand(self) -> int:
        """How many receives wait, in loops that run, for which there is no message; any thread.

        It may be too low where nobody has asked for a while; ``on_wait`` is called once the loops
        have shown that they run.
        """
        count = 0
        for loop in list(self.by_loop):
            if loop.is_running():
                count += len(self.by_loop.get(loop, ()))
            else:
                loop.tell_when_running(self)
        return max(0, count - len(self._messages)) if count else 0

    def on_demand(self) -> None:
        """Tell that ``demand`` may have risen."""
        if self._on_wait is not None:
            self._on_wait()


def _no_loop() -> None:
    return None


class Waiter(asyncio.Future[None]):
    """What a receive waits on: the task that awaits it goes on within ``wake``.

    The task of a plain future is called in the next turn of its loop. For a message to a group that
    is a fifth of the time of each member, measured, and for one that comes alone another look of
    the loop at its sockets.

    Args:
        loop: The running loop.
    """

    __slots__ = ("_context", "_go_on", "loop")

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop=loop.get())
        self.loop = loop

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
