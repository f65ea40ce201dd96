"""A health probe of a process that serves no web pages: HTTP on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Address", "Health", "HealthProbe"]

_REQUEST_TIMEOUT = 5.0
_LONGEST_REQUEST = 8192


class Address(NamedTuple):
    """The address of a probe.

    Attributes:
        host: A name or number of this machine; None listens on all of its addresses.
        port: The TCP port; 0 lets the system choose one.
    """

    host: str | None
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``PORT`` or ``HOST:PORT``.

        Raises:
            ValueError: If it is neither.
        """
        host, _, port = text.rpartition(":")
        if not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"{text!r} is neither PORT nor HOST:PORT")
        return cls(host.strip("[]") or None, int(port))


class Health(NamedTuple):
    """The health of a process.

    Attributes:
        ready: Whether it can do its work now.
        details: Further facts, for the JSON of the answer.
    """

    ready: bool
    details: dict[str, Any]


class HealthProbe:
    """Answers ``GET /live`` with 200 while the event loop runs, every other path by ``health``.

    Args:
        address: Where it listens.
        health: Returns the health of the process: the probe answers 200 if it is ready, else 503.
            Called in the event loop; must not block.
    """

    def __init__(self, address: Address, health: Callable[[], Health]) -> None:
        self._address = address
        self._health = health
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Begin to listen, in the running loop; returns the port.

        Raises:
            OSError: If the address is not this machine's, or is taken.
        """
        self._server = await asyncio.start_server(
            self._answer, *self._address, limit=_LONGEST_REQUEST
        )
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(
                ValueError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
            ):
                request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _REQUEST_TIMEOUT)
                target = request.split(b" ", 2)[1].partition(b"?")[0]
                health = Health(True, {}) if target == b"/live" else self._health()
                writer.write(_response(health))
                await writer.drain()
        except (asyncio.TimeoutError, IndexError):
            pass
        finally:
            writer.close()


def _response(health: Health) -> bytes:
    status = "200 OK" if health.ready else "503 Service Unavailable"
    body = json.dumps({"ready": health.ready, **health.details}).encode() + b"\n"
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body
