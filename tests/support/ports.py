"""Ports for programs that tests start."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

__all__ = ["kept_port"]


@contextlib.contextmanager
def kept_port() -> Iterator[int]:
    """Keep a loopback port that nobody listens on: the kernel gives it to nobody else meanwhile.

    A socket that is bound and never listens keeps it. On Linux a server binds and listens beside
    it, with SO_REUSEADDR, which servers set.

    Returns:
        A context with the port.
    """
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]
