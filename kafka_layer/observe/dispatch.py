"""Runs the receivers of the layer's Django signals, in a thread of their own.

Receivers are code of the application: they may be slow, raise, use the database, be coroutines, or
call the layer. None of that may delay or break a receive, a send, a delivery report or a loop.
"""

from __future__ import annotations

import contextvars
import inspect
import logging
import os
import queue
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from asgiref.sync import async_to_sync
from django.conf import settings
from django.dispatch import Signal

from ..config.realtime import monotonic
from ..config.threads import Lock, SimpleQueue, new_thread
from ..signals import connection_changed, messages_dropped, produce_failed
from .events import Observer

__all__ = ["SignalDispatch", "in_receiver"]

logger = logging.getLogger("kafka_layer")

# As many signals as librdkafka's queue holds records by default: all may fail after an outage.
_LIMIT = 100_000
# Signals between two checks of the thread's database connections.
_BURST = 100

# The dispatcher that runs the receiver that makes this call; None outside receivers. A context
# variable, because a coroutine receiver runs in another thread.
_runs_here: contextvars.ContextVar[SignalDispatch | None] = contextvars.ContextVar(
    "kafka_layer_signal_dispatch", default=None
)


def in_receiver() -> bool:
    """Tell whether a receiver of a signal makes this call."""
    return _runs_here.get() is not None


class _Event(NamedTuple):
    signal: Signal
    sender: object
    arguments: Mapping[str, Any]


class SignalDispatch(Observer):
    """Sends signals one after another; any thread. Only ``close`` blocks.

    States, with what leads from one to the other:

    - *idle*: no thread. A signal that has receivers starts one: *running*.
    - *running*: the thread sends the queued signals. It ends when none came for ``linger`` seconds,
      and at once when ``close`` waits for it and all are sent: *idle*.

    There is no closed state: a signal after ``close`` is sent as well, as long as the process can
    start a thread. A process that ends cannot; there ``close`` sends the rest itself. After a fork
    the child's layers have dispatchers of their own.

    Args:
        on_overflow: Called for each signal that is not sent, because too many wait.
        linger: How long the thread waits for another signal before it ends, in seconds.
        limit: How many signals may wait.
    """

    def __init__(self, on_overflow: Callable[[], None], linger: float, limit: int = _LIMIT) -> None:
        self._on_overflow = on_overflow
        self._linger = linger
        self._limit = limit
        # None ends the thread's wait for more. A signal handler that interrupts a SimpleQueue may
        # use the same queue.
        self._events: queue.SimpleQueue[_Event | None] = SimpleQueue()
        # The thread that runs receivers holds it. Callers acquire it without blocking, so that a
        # signal handler may interrupt the holder.
        self._running = Lock()

    def on_signal(self, signal: Signal, sender: object, arguments: Mapping[str, Any]) -> None:
        """Queue a signal that has receivers, and start the thread if it does not run."""
        # has_listeners() takes the signal's lock, and a receiver may be connecting.
        if not signal.receivers:
            return
        if self._events.qsize() >= self._limit:
            self._on_overflow()
            return
        self._events.put(_Event(signal, sender, arguments))
        self._start()

    def close(self, timeout: float) -> None:
        """Wait until every signal so far was sent. A receiver that closes a layer does not wait.

        Args:
            timeout: Seconds that this may block. The thread sends the rest later, if the process
                lives on.
        """
        if _runs_here.get() is self:
            return
        deadline = monotonic() + timeout
        self._events.put(None)
        if self._running.acquire(timeout=max(0.0, timeout)):
            # Signals are left only if no thread could be started.
            try:
                self._send_queued(0.0, deadline)
            finally:
                self._release()
        else:
            logger.warning(
                "Receivers of the channel layer's signals did not end within %.1f s of a close; "
                "%d signal(s) wait behind them",
                timeout,
                self._events.qsize() - 1,
            )

    def _start(self) -> None:
        if not self._running.acquire(blocking=False):
            return
        try:
            new_thread(target=self._run, name="kafka-layer-signals").start()
        except RuntimeError:
            # The process ends and starts no threads any more; it calls close() next.
            self._running.release()

    def _run(self) -> None:
        try:
            self._send_queued(self._linger, float("inf"))
            _close_connections()
        finally:
            self._release()

    def _release(self) -> None:
        self._running.release()
        # on_signal() starts no thread while this one ends: its signal may wait in the queue.
        if not self._events.empty():
            self._start()

    def _send_queued(self, linger: float, deadline: float) -> None:
        """Send queued signals until none comes for ``linger`` seconds, or until the deadline."""
        sent = 0
        while monotonic() < deadline:
            try:
                event = self._events.get(timeout=linger) if linger else self._events.get_nowait()
            except queue.Empty:
                break
            if event is None:
                # close() waits: all signals before it are sent. Send those after it, too.
                linger = 0.0
                continue
            if sent % _BURST == 0:
                _close_old_connections()
            sent += 1
            token = _runs_here.set(self)
            try:
                _send(event)
            finally:
                _runs_here.reset(token)
            if self._events.empty():
                sent = 0
                _close_old_connections()


def _send(event: _Event) -> None:
    try:
        for _, response in event.signal.send_robust(event.sender, **event.arguments):
            # Before Django 5 send_robust() returns the coroutine of an asynchronous receiver.
            if inspect.iscoroutine(response):
                async_to_sync(_awaited)(response)
    except BaseException:
        logger.exception("A receiver of a signal of the channel layer failed; others go on")


async def _awaited(coroutine: Any) -> None:
    await coroutine


def _close_old_connections() -> None:
    """Close database connections that have become unusable, as Django does around a request."""
    if settings.configured:
        from django.db import close_old_connections

        try:
            close_old_connections()
        except Exception:
            logger.exception("Old database connections could not be closed")


def _close_connections() -> None:
    """Close the database connections of a thread that ends."""
    if settings.configured:
        from django.db import connections

        try:
            connections.close_all()
        except Exception:
            logger.exception("The database connections of a thread could not be closed")


def _renew_locks() -> None:
    # A thread of the parent may have held such a lock at the fork, while it sent a signal.
    for signal in (connection_changed, messages_dropped, produce_failed):
        signal.lock = Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_locks)
