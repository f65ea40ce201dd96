"""Wakes the receives that wait in event loops, from any thread.

Hot path: one message to a group wakes a receive for each member.

Any number of loops may receive on a channel at the same time; any of them may be blocked or closed
at any moment. So a note that a channel has a message goes to *each* loop in which a receive waits
on it, and a loop that never reads its notes delays only its own receives. A note carries no
message: the receive that runs first takes it. (A message that travels in a future is lost when its
receive is cancelled in the same turn of the loop.)
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ..config import realtime as time
from ..config.threads import RLock
from ..config.timings import Timings
from ..wire.records import Place
from ..wire.topics import AnyTopic, Topic

__all__ = ["Envelope", "Loop", "Openable", "Receives", "Waiter", "Wakeups"]


class Openable(Protocol):
    """A payload that is no serialized message."""

    def open(self) -> dict[str, Any]:
        """Return the message, as a copy for one receiver.

        Raises:
            UnreadableRecord: If it cannot be decoded.
        """


class Envelope:
    """A message on its way to receivers; one object is shared by all mailboxes that hold it.

    The thread that reads makes it, and the receiving loop frees it, mostly on another core: each
    further object that a waiting message holds costs both of them. So the place is in its own
    attributes, and not a tuple.

    Attributes:
        payload: The serialized message; each receiver decodes its own copy. Of a stream's record an
            ``Openable``, or the message itself if it has one receiver.
        deadline: When the message expires, on ``time.monotonic()``.
        topic: The topic of its record; None if its place is unknown: it stayed within the process,
            or is of a stream that was not kept for tracked channels.
        partition: The partition of its record.
        offset: The offset of its record.
        timestamp: When the broker wrote its record, in seconds since the epoch.
        key: Its record's key: a group, a user, or "" for everybody and for one channel. Of a
            stream's record its addresses, where a tracked channel follows the stream or a join
            brought it.
        before: For each partition the offset behind the last record that was routed before it; None
            while no channel is tracked.
        unreadable: Whether decoding it failed, so that only the first failure is reported.
        trace: Its record's Kafka headers, where there are any; else not set. For traces alone,
            which put what they found there in their place.
    """

    __slots__ = (
        "before",
        "deadline",
        "key",
        "offset",
        "partition",
        "payload",
        "timestamp",
        "topic",
        "trace",
        "unreadable",
    )

    trace: Any

    def __init__(
        self,
        payload: bytes | Openable | dict[str, Any],
        deadline: float,
        topic: AnyTopic | None = None,
        partition: int = 0,
        offset: int = 0,
        timestamp: float = 0.0,
        key: str | Sequence[tuple[Topic, str]] = "",
        before: Mapping[tuple[Any, int], int] | None = None,
    ) -> None:
        self.payload = payload
        self.deadline = deadline
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.timestamp = timestamp
        self.key = key
        self.before = before
        self.unreadable = False

    @property
    def place(self) -> Place | None:
        """Where its record stands in the log; None if that is unknown."""
        if self.topic is None:
            return None
        return self.topic, self.partition, self.offset, self.timestamp

    @place.setter
    def place(self, place: Place) -> None:
        # The topic last: a receive that sees it sees the rest.
        topic, self.partition, self.offset, self.timestamp = place
        self.topic = topic


class Wakeups:
    """The event loops of one server, and those with notes to read.

    Args:
        timings: ``echo``: seconds within which a running loop answers.

    Attributes:
        noted: The loops with notes since the last ``flush``.
    """

    def __init__(self, timings: Timings | None = None) -> None:
        self.timings = timings or Timings()
        self.noted: dict[Loop, None] = {}
        # By the id of the event loop; an entry ends with its loop. Python reuses ids, so
        # running_loop() compares the loop, too.
        self._loops: dict[int, Loop] = {}
        # For a channel that no loop opened and on which none has received yet.
        self.nowhere = Loop(None, self.timings.echo)
        # Guards Receives._by_loop, which changes when a loop receives for the first time or was
        # closed, and the last place of a mailbox. Re-entrant: a signal handler that sends may
        # interrupt the holder.
        self.lock = RLock()

    def flush(self) -> None:
        """Wake the receives noted so far, with one callback a loop; any thread; never blocks."""
        noted = self.noted
        while noted:
            try:
                loop, _ = noted.popitem()
            except KeyError:  # another thread was faster
                return
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
    """One event loop, seen from other threads.

    A loop is *closed*; or *running*; or *blocked*: it was not seen to run for ``patience`` seconds,
    because a handler blocks it or nobody runs it.

    Args:
        event_loop: The loop; held by a weak reference.
        patience: Seconds without an answer after which the loop counts as blocked.
        on_collected: Called when the loop was garbage-collected.

    Attributes:
        get: Returns the event loop, or None once it was garbage-collected.
        due: The channels whose receives in this loop are to be woken, in order.
        seen_running: When it was last seen to run, on ``time.monotonic()``.
        ran: Seconds for which it was seen to run while back-pressure waited for its receives.
    """

    __slots__ = (
        "__weakref__",
        "_asked",
        "_counted_at",
        "_on_running",
        "_patience",
        "_scheduled",
        "_silent",
        "due",
        "get",
        "ran",
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
        self._counted_at = float("-inf")
        self._on_running: dict[Receives, None] = {}
        self.ran = 0.0
        self._silent = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether it is closed or collected: its receives never run again."""
        event_loop = self.get()
        return event_loop is None or event_loop.is_closed()

    def is_running(self) -> bool:
        """Tell whether the loop has run within the last ``patience`` seconds; any thread.

        Asks the loop for an echo if the last one is old, so the second call sees a loop that runs.
        """
        age = time.monotonic() - self.seen_running
        if age > self._patience / 4:
            self.ask()
        return age <= self._patience and not self.is_closed

    def ask(self) -> None:
        """Ask the loop for an echo, which sets ``seen_running``; any thread."""
        event_loop = self.get()
        if self._asked or event_loop is None:
            return
        self._asked = True
        try:
            event_loop.call_soon_threadsafe(self._echo)
        except RuntimeError:  # closed
            self._asked = False

    def tell_when_running(self, receives: Receives) -> None:
        """Call ``receives.on_demand`` once, when the loop next runs; any thread."""
        self._on_running[receives] = None
        self.ask()

    def count(self, seconds: float, patience: float) -> None:
        """Add the time since ``ask`` to ``ran`` if the loop answered.

        Any thread that reads: of time in which two of them wait nothing counts twice.

        Args:
            seconds: The time since ``ask``.
            patience: Seconds of silence after which the loop counts as if it ran.
        """
        now = time.monotonic()
        seconds, self._counted_at = min(seconds, now - self._counted_at), now
        silent = self._asked and not self.is_closed
        if not silent or self._silent >= patience:
            self.ran += seconds
        self._silent = self._silent + seconds if silent else 0.0

    def schedule(self) -> None:
        """Have the loop wake the receives that are due; any thread."""
        event_loop = self.get()
        if event_loop is None or event_loop.is_closed():
            self._drop_due()
            return
        if self._scheduled:
            # The callback reads ``due`` after it clears this flag, so it sees every note.
            return
        self._scheduled = True
        try:
            # call_soon_threadsafe writes to a socket, to end the loop's wait for events.
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
        # A copy: notes that come meanwhile are for the next turn.
        for receives in list(self.due):
            self.due.pop(receives, None)
            try:
                receives.wake(self)
            except BaseException:
                # SystemExit in a task ends the loop. If it is run again, it goes on here.
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
            receives.drop(self)


class ReceivesHere:
    """The receives of one channel in one loop.

    Attributes:
        loop: The loop.
        waiters: Those that wait, in order.
        noted: Whether ``wake`` is to come. Set after the message was put and before the note is
            left, and cleared before ``wake`` looks for messages. So ``wake`` sees each message for
            which no further note was left.
    """

    __slots__ = ("loop", "noted", "waiters")

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.waiters: dict[Waiter, None] = {}
        self.noted = False


class Receives:
    """The receives that wait for the messages of one channel, by the loop that each waits in.

    Only its own loop adds, wakes and removes a receive; other threads leave notes.

    Args:
        wakeups: The loops of its server.
        on_wait: Called in the loop when ``demand`` may have risen: a receive begins to wait, or a
            blocked loop runs again. Must not block or raise.

    Attributes:
        last_seen: When a receive last took a message (``receive`` sets it) or was cancelled, on
            ``time.monotonic()``.
    """

    # One object together with Mailbox, and few calls: for a message to a group each further object
    # or call for a member adds a tenth of the time.
    __slots__ = (
        "__weakref__",
        "_by_loop",
        "_error",
        "_messages",
        "_on_wait",
        "_opened_in",
        "_wakeups",
        "last_seen",
    )

    def __init__(self, wakeups: Wakeups, on_wait: Callable[[], None] | None = None) -> None:
        self.last_seen = time.monotonic()
        self._opened_in = (
            wakeups.nowhere if asyncio._get_running_loop() is None else wakeups.running_loop()
        )
        self._messages: deque[Envelope] = deque()
        # Replaced, never changed, so that any thread may iterate over it. A loop stays until it is
        # closed, also without a receive that waits.
        self._by_loop: tuple[ReceivesHere, ...] = ()
        self._error: Exception | None = None
        self._wakeups = wakeups
        self._on_wait = on_wait

    async def wait(self) -> None:
        """Return when there may be a message to take; another receive may be faster.

        Raises:
            Exception: The error with which the channel was closed.
        """
        running = asyncio.get_running_loop()
        for here in self._by_loop:
            if here.loop.get() is running:
                break
        else:
            here = self._enter()
        waiters = here.waiters
        waiter = Waiter(loop=running)
        waiters[waiter] = None
        try:
            # A put or a close that saw no receive came before the line above: see it here.
            if not self._messages and self._error is None:
                if self._on_wait is not None:
                    self._on_wait()
                await waiter
        except BaseException:
            # Cancelled; a receive that is woken instead takes a message or waits again.
            self.last_seen = time.monotonic()
            raise
        finally:
            del waiters[waiter]
        if self._error is not None:
            # A copy: a shared error would gather the traceback of each receive.
            raise copy.copy(self._error)

    def note(self) -> None:
        """Leave a note in each loop in which a receive waits; any thread.

        The note takes effect with the next ``Wakeups.flush``.
        """
        for here in self._by_loop:
            if not here.noted and here.waiters:
                here.noted = True
                here.loop.due[self] = None
                self._wakeups.noted[here.loop] = None

    def wake(self, loop: Loop) -> None:
        """Run the receives that wait in ``loop`` while there are messages; in its callback."""
        for here in self._by_loop:
            if here.loop is loop:
                here.noted = False
                # A copy: each receive may wait again at once.
                for waiter in list(here.waiters):
                    if not self._messages and self._error is None:
                        return
                    waiter.wake()
                return

    def close(self, error: Exception) -> int:
        """Drop the messages, and let every present and future receive raise a copy of ``error``.

        Any thread. A second call leaves the first error.

        Returns:
            How many messages were dropped.
        """
        if self._error is None:
            self._error = error
        dropped = 0
        # One by one, so that of two threads only one counts each message.
        while self._messages:
            try:
                self._messages.popleft()
            except IndexError:  # another thread was faster
                break
            dropped += 1
        self.note()
        self._wakeups.flush()
        return dropped

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._error is not None

    @property
    def loops(self) -> Sequence[Loop]:
        """The open loops that have received; without one the loop that opened the channel."""
        open_loops = [each.loop for each in self._by_loop if not each.loop.is_closed]
        return open_loops or [self._opened_in]

    @property
    def receiving(self) -> bool:
        """Whether a receive waits at this moment, in a loop that is not closed."""
        return any(each.waiters and not each.loop.is_closed for each in self._by_loop)

    @property
    def demand(self) -> int:
        """How many receives wait in running loops without a message for them; any thread.

        The first call after a pause may count too few, because loops have to answer an echo first;
        ``on_wait`` tells when the number rises.
        """
        count = 0
        for here in self._by_loop:
            if not here.waiters:
                continue
            if here.loop.is_running():
                count += len(here.waiters)
            else:
                here.loop.tell_when_running(self)
        return max(0, count - len(self._messages)) if count else 0

    def on_demand(self) -> None:
        """Call ``on_wait``: ``demand`` may have risen."""
        if self._on_wait is not None:
            self._on_wait()

    def drop(self, loop: Loop) -> None:
        """Forget the receives of a closed loop; any thread."""
        with self._wakeups.lock:
            self._by_loop = tuple(each for each in self._by_loop if each.loop is not loop)

    def _enter(self) -> ReceivesHere:
        here = ReceivesHere(self._wakeups.running_loop())
        with self._wakeups.lock:
            earlier = tuple(each for each in self._by_loop if not each.loop.is_closed)
            self._by_loop = (*earlier, here)
        return here


def _no_loop() -> None:
    return None


class Waiter(asyncio.Future[None]):
    """The future on which a receive waits: its task goes on within ``wake``.

    A plain future has the loop call the task in its next turn, after another look at its sockets.
    That takes a fifth of a member's time in a message to a group (benchmark ``members``).
    """

    __slots__ = ("_context", "_go_on")

    def add_done_callback(
        self, fn: Callable[[Any], object], /, *, context: contextvars.Context | None = None
    ) -> None:
        """Remember how the task goes on; only the task calls this, when it begins to wait."""
        self._go_on = fn
        # An empty context counts as False.
        self._context = contextvars.copy_context() if context is None else context

    def cancel(self, msg: Any | None = None) -> bool:
        """Let the loop call the task, as a plain future does."""
        if not self.done():
            super().add_done_callback(self._go_on, context=self._context)
        return super().cancel(msg)

    def wake(self) -> None:
        """Run the task up to its next await; in a callback of its loop, outside of tasks."""
        if not self.done():
            self.set_result(None)
            self._context.run(self._go_on, self)
