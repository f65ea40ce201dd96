"""The servers of this process: closes them when it ends, abandons them in a forked child."""

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
    "servers",
    "warn_if_nobody_tells",
]

logger = logging.getLogger("kafka_layer")

_LEAST_TIMEOUT = 0.1

# The rank among multiprocessing's finalizers in a child; those of queues have 10 and -5.
_EXIT_PRIORITY = 100

# Seconds for which a SIGTERM blocks the main thread. Then the thread goes on, because it may hold a
# lock that the close needs.
_HOLD = 1.0

# Seconds until the handler sends the signal again, if the process still lives.
_AGAIN = 0.1

# Added to a signal's number: the status of a process that the signal ended, as shells count it.
_KILLED_BY = 128


class Closable(Protocol):
    """A server, as this module sees it."""

    def close(self, timeout: float) -> None:
        """Write queued records and stop; wait if another thread does so already."""

    def abandon(self) -> None:
        """Drop the parent's clients without freeing them, in a forked child."""


# add(), discard() and copy() of a set are atomic, so there is no lock that a thread of the parent
# could hold at a fork.
_servers: set[Closable] = set()

# Process ids in which close_all() is registered with multiprocessing.
_registered: set[int] = set()

# Ids of processes whose ASGI server announces its end, or that were warned because it does not.
_told: set[int] = set()


def add(server: Closable) -> None:
    """Remember a server until it is discarded."""
    _servers.add(server)


def discard(server: Closable) -> None:
    """Forget a closed server."""
    _servers.discard(server)


def servers() -> list[Closable]:
    """Return every server of this process; any thread."""
    return list(_servers.copy())


def close_all(timeout: float) -> None:
    """Close every server of this process within ``timeout`` seconds."""
    deadline = monotonic() + timeout
    for server in _servers.copy():
        server.close(max(_LEAST_TIMEOUT, deadline - monotonic()))


def abandon_all() -> None:
    """Abandon every server, in a forked child, also those that the parent was closing."""
    for server in _servers.copy():
        try:
            server.abandon()
        except Exception:
            # The others must be abandoned all the same: the child would wait for them at its end.
            logger.exception("A channel layer of the parent could not be abandoned")


def close_when_child_ends(timeout: float) -> None:
    """Have a child of multiprocessing call ``close_all`` at its end.

    Such a child ends by ``os._exit``: it does not run ``atexit``, or (Python 3.13) not the
    functions that were registered before the fork. In other processes, and the second time, this
    does nothing.

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
    """Have SIGTERM close all servers before it ends the process.

    It leaves a handler of the program's own alone, and does nothing outside the main thread, where
    Python cannot set handlers. multiprocessing sends the signal to the workers of a ``Pool`` and to
    daemonic children, and runs none of their finalizers then.

    Args:
        timeout: Seconds that closing may take.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, _SigtermHandler(timeout))


class _SigtermHandler:
    """Closes all servers at the first SIGTERM, then ends the process; a second one ends it at once.

    Args:
        timeout: Seconds that closing may take.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        # The id of the process that is closing; a forked child inherits the handler.
        self._closing: int | None = None

    def __call__(self, number: int, frame: object) -> None:
        """Close in another thread: the interrupted one may hold any lock."""
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
                    # Repeatedly: Python may miss one that comes just as this handler returns.
                    while True:
                        os.kill(process, number)
                        sleep(_AGAIN)

            with contextlib.suppress(RuntimeError):  # no thread can be started
                new_thread(close, "kafka-layer-close").start()
                if not closed.acquire(timeout=_HOLD):
                    return
        signal.signal(number, signal.SIG_DFL)
        os.kill(process, number)
        # The first process of a container is still here: it gets no signal that it does not handle.
        os._exit(_KILLED_BY + number)


def end_will_be_told() -> None:
    """Note that this process's ASGI server announces its end."""
    _told.add(os.getpid())


def warn_if_nobody_tells() -> None:
    """Log once if this is uvicorn's process, and nothing closes the layers at its end."""
    process = os.getpid()
    handler = signal.getsignal(signal.SIGTERM)
    if process in _told or not getattr(handler, "__module__", "").startswith("uvicorn."):
        return
    _told.add(process)
    logger.warning(
        "uvicorn ends this process in a way that loses what was sent last. In asgi.py, write "
        "application = kafka_layer.asgi.closing(application), and leave uvicorn's lifespan on."
    )


# A process that sends and ends writes its messages here. A close at exit starts no thread, which
# Python refuses then.
atexit.register(close_all, 5.0)

# A child would free the parent's clients, which aborts the process, and has none of their threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=abandon_all)
