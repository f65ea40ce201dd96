"""The servers of this process: closed when it ends, abandoned in a forked child."""

from __future__ import annotations

import atexit
import os
import sys
from typing import Protocol

from ..config.realtime import monotonic

__all__ = ["abandon_all", "add", "close_all", "close_when_child_ends", "discard"]

_LEAST_TIMEOUT = 0.1

# How a child of multiprocessing orders its finalizers; those of queues have 10, and -5.
_EXIT_PRIORITY = 100


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


def add(server: Live) -> None:
    """Remember a server until it is discarded."""
    _servers.add(server)


def discard(server: Live) -> None:
    """Forget a server: it has nothing to close any more."""
    _servers.discard(server)


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


# Without it a process that sends and ends would lose what it sent. Closing starts no thread here:
# at this time Python refuses that.
atexit.register(close_all, 5.0)

# A child would free the parent's clients, which aborts the process, and has none of their threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=abandon_all)
