"""The servers of this process: closed when it ends, abandoned in a forked child."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
from typing import Protocol

from ..config.realtime import monotonic
from ..config.threads import Lock, new_thread, sleep

__all__ = [
    "abandon_all",
    "add",
    "close_all",
    "close_at_sigterm",
    "close_when_child_ends",
    "discard",
    "end_will_be_told",
    "present",
    "warn_if_nobody_tells",
]

logger = logging.getLogger("kafka_layer")

_LEAST_TIMEOUT = 0.1

# How a child of multiprocessing orders its finalizers; those of queues have 10, and -5.
_EXIT_PRIORITY = 100

# Seconds for which a SIGTERM holds up the main thread. It goes on then, until all is closed: it may
# hold a lock that the closing needs.
_HOLD = 1.0

# Seconds after which the signal is sent again, if the process still lives.
_AGAIN = 0.1


class Live(Protocol):
    """What this module knows of a server."""

    def close(self, timeout: float) -> None:
        """Write what is queued and stop; if another thread does so already, wait for that."""

    def abandon(self) -> None:
        """Let go of everything without touching it, in a forked child."""


# Adding to a set, discarding and copying it are one step each for all threads, without a lock that
# a thread of the parent could hold at a fork.
_servers: set[Live] = set()

# Process ids in which close_all() is registered with multiprocessing.
_registered: set[int] = set()

# Process ids in which the ASGI server tells when it ends, or that were warned that it does not.
_told: set[int] = set()


def add(server: Live) -> None:
    """Remember a server until it is discarded."""
    _servers.add(server)


def discard(server: Live) -> None:
    """Forget a server: it has nothing to close any more."""
    _servers.discard(server)


def present() -> list[Live]:
    """Return every server of this process; any thread."""
    return list(_servers.copy())


def close_all(timeout: float) -> None:
    """Close every server of this process within ``timeout`` seconds."""
    deadline = monotonic() + timeout
    for server in _servers.copy():
        server.close(max(_LEAST_TIMEOUT, deadline - monotonic()))


def abandon_all() -> None:
    """Let go of every server, in a forked child: also those that a thread of the parent closes."""
    for server in _servers.copy():
        server.abandon()


def close_when_child_ends(timeout: float) -> None:
    """Have ``close_all`` called at the end of a child of multiprocessing.

    Such a child ends by ``os._exit``: ``atexit`` does not run, or (Python 3.13) runs without the
    functions that were registered before the fork. Does nothing in other processes, and nothing if
    it was called before.

    Args:
        timeout: Seconds that closing may take.
    """
    multiprocessing = sys.modules.get("multiprocessing.process")
    process = os.getpid()
    if multiprocessing is None or process in _registered:
        return
    _registered.add(process)
    if multiprocessing.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, close_all, (timeout,), exitpriority=_EXIT_PRIORITY)


def close_at_sigterm(timeout: float) -> None:
    """Have SIGTERM close all servers before it ends the process, where it would just end it.

    Does nothing where the program has a handler of its own, outside the main thread (Python cannot
    set a handler there), and in children of multiprocessing.

    Args:
        timeout: Seconds that closing may take.
    """
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, _SigtermHandler(timeout))


class _SigtermHandler:
    """Closes all servers at the first SIGTERM; that, or a second one, ends the process.

    Args:
        timeout: Seconds that closing may take.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        # The process that is closing: a child that was forked inherits the handler.
        self._closing: int | None = None

    def __call__(self, number: int, frame: object) -> None:
        """Close, in a thread: this one may hold any lock."""
        process = os.getpid()
        if self._closing != process and _servers:
            self._closing = process
            closed = Lock()
            closed.acquire()

            def close() -> None:
                try:
                    close_all(self._timeout)
                finally:
                    closed.release()
                    # Again and again: one that comes as this handler returns may not be noticed.
                    while True:
                        os.kill(process, number)
                        sleep(_AGAIN)

            with contextlib.suppress(RuntimeError):  # no thread can be started
                new_thread(close, "kafka-layer-close").start()
                if not closed.acquire(timeout=_HOLD):
                    return
        signal.signal(number, signal.SIG_DFL)
        os.kill(process, number)


def end_will_be_told() -> None:
    """Note that this process's ASGI server tells it when it ends."""
    _told.add(os.getpid())


def warn_if_nobody_tells() -> None:
    """Log once if this process is uvicorn's, and nothing closes the layers when it ends."""
    process = os.getpid()
    handler = signal.getsignal(signal.SIGTERM)
    if process in _told or not getattr(handler, "__module__", "").startswith("uvicorn."):
        return
    _told.add(process)
    logger.warning(
        "uvicorn ends this process in a way that loses what was sent last. In asgi.py, write "
        "application = kafka_layer.asgi.closing(application), and leave uvicorn's lifespan on."
    )


# Without it a process that sends and ends would lose what it sent. Closing starts no thread here:
# at this time Python refuses that.
atexit.register(close_all, 5.0)

# A child would free the parent's clients, which aborts the process, and has none of their threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=abandon_all)
