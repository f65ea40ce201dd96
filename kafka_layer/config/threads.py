"""Threads, locks and events that are the operating system's, also where gevent replaces them.

``gevent.monkey.patch_all()`` turns the threads of the standard library into greenlets, which all
run in one thread. A call that blocks in C, such as librdkafka's poll, then blocks them all. So the
layer takes its threads, locks and events from this module alone:

- Threads, locks and queues are native, even after ``patch_all()``.
- A thread of the layer waits for an ``Event`` natively. Any other caller may be a greenlet: it
  waits as a greenlet, and lets the others run.

A call that blocks in C belongs into a thread of the layer; ``call_natively`` makes one and waits
for it. Without gevent all of these are the standard library's own.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import sys
import threading
from _queue import SimpleQueue
from _thread import LockType
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured

from .realtime import monotonic

__all__ = [
    "Condition",
    "Event",
    "Lock",
    "Nudge",
    "RLock",
    "SimpleQueue",
    "Thread",
    "call_natively",
    "died",
    "is_current",
    "new_condition",
    "new_event",
    "new_future",
    "new_thread",
    "require_native_threads",
    "sleep",
    "wait_for_futures",
]

T = TypeVar("T")

Event = threading.Event
"""The type of what ``new_event`` makes."""

Condition = threading.Condition
"""The type of what ``new_condition`` makes."""

Thread = threading.Thread
"""The type of what ``new_thread`` makes."""


def _original(module: str, name: str) -> Any:
    """Return a function of the standard library, also where gevent has replaced it."""
    if "gevent.monkey" in sys.modules:
        return sys.modules["gevent.monkey"].get_original(module, name)
    return getattr(importlib.import_module(module), name)


_start_new_thread: Callable[..., int] = _original("_thread", "start_new_thread")
_get_ident: Callable[[], int] = _original("_thread", "get_ident")

Lock: Callable[[], LockType] = _original("_thread", "allocate_lock")
"""Make a lock. No greenlet may be switched while it is held."""

RLock: Callable[[], Any] = _original("_thread", "RLock")
"""Make a lock that its holder may take again. No greenlet may be switched while it is held."""

sleep: Callable[[float], None] = _original("time", "sleep")
"""Block the calling thread, which must be one of the layer, for some seconds."""

# Native identifiers of the layer's threads, where threads are replaced.
_own: set[int] = set()


def _are_threads_replaced() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def _is_greenlet() -> bool:
    """Tell whether the caller may be a greenlet, so that it must not block its thread."""
    return _are_threads_replaced() and _get_ident() not in _own


def require_native_threads() -> None:
    """Refuse eventlet, which replaces threads and does not give the original ones.

    Raises:
        ImproperlyConfigured: If eventlet replaced the threads of the standard library.
    """
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("thread"):
        raise ImproperlyConfigured(
            "kafka_layer does not run under eventlet.monkey_patch(): its threads would block all "
            "green threads. Use gevent, or native threads."
        )


class Nudge:
    """Wakes a thread of the layer that waits for it, with less work than an event.

    A wait takes the nudge, so of two threads that wait only one goes on. Any thread and any
    greenlet may ``set`` and ``clear`` it.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        # Held while it is not set.
        self._lock = Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Have the present wait return, or the next one; never blocks."""
        if self._lock.locked():
            try:
                self._lock.release()
            except RuntimeError:  # another thread has set it since the look
                return

    def clear(self) -> None:
        """Forget that it was set."""
        self._lock.acquire(False)

    def wait(self, timeout: float) -> bool:
        """Wait until it is set, and clear it; a thread of the layer.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether it was set.
        """
        return self._lock.acquire(True, max(0.0, timeout))


def new_event() -> Event:
    """Make an event that threads of the layer and greenlets may wait for."""
    return _Event() if _are_threads_replaced() else threading.Event()


def new_condition() -> Condition:
    """Make a condition that threads of the layer and greenlets may wait for."""
    return _Condition() if _are_threads_replaced() else threading.Condition()


def new_future() -> Future[Any]:
    """Make a future that threads of the layer and greenlets may wait for."""
    future: Future[Any] = Future()
    if _are_threads_replaced():
        future._condition = _Condition()
    return future


def new_thread(target: Callable[..., object], name: str, args: Iterable[Any] = ()) -> Thread:
    """Make a native daemon thread; it is not started yet.

    Args:
        target: What it runs.
        name: The thread's name; the layer's begin with ``kafka-layer-``.
        args: The target's arguments.
    """
    kind = _Thread if _are_threads_replaced() else threading.Thread
    return kind(target=target, name=name, args=args, daemon=True)


def died(thread: Thread | None) -> bool:
    """Tell whether a thread has been started and has ended."""
    return thread is not None and thread.ident is not None and not thread.is_alive()


def is_current(thread: Thread | None) -> bool:
    """Tell whether the caller runs in a thread that ``new_thread`` made."""
    return thread is not None and thread.ident == _get_ident()


def call_natively(function: Callable[[], T]) -> T:
    """Call a function that may block in C; other greenlets of the caller's thread run meanwhile.

    Returns:
        What the function returns.

    Raises:
        BaseException: What the function raises.
    """
    if not _is_greenlet():
        return function()
    future = new_future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    try:
        new_thread(run, "kafka-layer-blocking").start()
    except RuntimeError:
        # The process ends and starts no threads any more; its other greenlets end, too.
        return function()
    outcome: T = future.result()
    return outcome


def wait_for_futures(futures: Iterable[Future[Any]], timeout: float) -> bool:
    """Wait in a thread of the layer until futures that librdkafka decides are done.

    Args:
        futures: The futures; librdkafka resolves them.
        timeout: Seconds that this may block.

    Returns:
        Whether all are done.
    """
    pending = list(futures)
    if not _are_threads_replaced():
        return not concurrent.futures.wait(pending, timeout).not_done
    deadline = monotonic() + timeout
    while pending := [each for each in pending if not each.done()]:
        left = deadline - monotonic()
        if left <= 0:
            return False
        sleep(min(left, 0.005))
    return True


class _Event(threading.Event):
    """An event for native threads and greenlets, where threads are replaced."""

    def __init__(self) -> None:
        self._native = Lock()
        self._is_set = False
        # Each function wakes one waiter; any thread may call it, once.
        self._wakers: list[Callable[[], object]] = []

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        with self._native:
            self._is_set = True
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            wake()

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        if self._is_set:
            return True
        if _is_greenlet():
            self._wait_as_greenlet(timeout)
        else:
            self._wait_natively(timeout)
        return self._is_set

    def _register(self, wake: Callable[[], object]) -> bool:
        """Add a waiter's function; returns False if the event is set already."""
        with self._native:
            if not self._is_set:
                self._wakers.append(wake)
            return not self._is_set

    def _forget(self, wake: Callable[[], object]) -> None:
        with self._native:
            if wake in self._wakers:
                self._wakers.remove(wake)

    def _wait_natively(self, timeout: float | None) -> None:
        waiting = Lock()
        waiting.acquire()
        wake = waiting.release
        if self._register(wake):
            waiting.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
            self._forget(wake)

    def _wait_as_greenlet(self, timeout: float | None) -> None:
        gevent = importlib.import_module("gevent")
        hub = gevent.get_hub()
        waiter = importlib.import_module("gevent.hub").Waiter(hub)

        def wake() -> None:
            # The hub's loop runs it; a waiter whose time is over ignores the value. If the hub is
            # gone, no greenlet waits in it.
            with contextlib.suppress(Exception):
                hub.loop.run_callback_threadsafe(waiter.switch, None)

        if self._register(wake):
            # Without an active watcher gevent's loop raises LoopExit: a wait without end.
            keeps_the_loop = hub.loop.async_()
            keeps_the_loop.start(lambda: None)
            try:
                with gevent.Timeout(timeout, False):
                    waiter.get()
            finally:
                self._forget(wake)
                keeps_the_loop.stop()
                keeps_the_loop.close()


class _Condition(threading.Condition):
    """A condition for native threads and greenlets, where threads are replaced."""

    def __init__(self) -> None:
        super().__init__(RLock())
        self._events: list[_Event] = []

    def wait(self, timeout: float | None = None) -> bool:
        event = _Event()
        self._events.append(event)
        self.release()
        try:
            return event.wait(timeout)
        finally:
            self.acquire()
            if event in self._events:
                self._events.remove(event)

    def notify(self, n: int = 1) -> None:
        events, self._events = self._events[:n], self._events[n:]
        for event in events:
            event.set()

    def notify_all(self) -> None:
        self.notify(len(self._events))


class _Thread(threading.Thread):
    """A native thread, where ``threading.Thread`` is a greenlet."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._over = _Event()
        self._native_ident: int | None = None

    @property
    def ident(self) -> int | None:
        return self._native_ident

    def start(self) -> None:
        begun = Lock()
        begun.acquire()
        _start_new_thread(self._begin, (begun,))
        begun.acquire()

    def is_alive(self) -> bool:
        return self._native_ident is not None and not self._over.is_set()

    def join(self, timeout: float | None = None) -> None:
        self._over.wait(timeout)

    def _begin(self, begun: LockType) -> None:
        self._native_ident = ident = _get_ident()
        _own.add(ident)
        begun.release()
        try:
            self.run()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            _own.discard(ident)
            self._over.set()
