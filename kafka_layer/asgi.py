"""``closing``, the line in a project's ``asgi.py`` that closes layers when an ASGI server ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from .config.timings import Timings
from .delivery.tickets import in_thread
from .server import process

__all__ = ["closing"]

logger = logging.getLogger("kafka_layer")

_Event = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[Any]]
_Send = Callable[[Any], Awaitable[None]]
_Application = Callable[[Any, Any, Any], Awaitable[None]]


def closing(application: _Application) -> _Application:
    """Wrap an ASGI application so that its server closes all layers of the process as it ends.

    uvicorn, alone or as gunicorn's worker, ends a process in a way that lets Python run nothing
    more, which loses the last messages. The wrapper closes the layers at the end of the
    application's own lifespan shutdown, so it also writes what the application sends there. It
    answers the lifespan protocol for an application that does not know it, such as Django's, and
    passes on every other kind of connection.

    Args:
        application: The ASGI application, such as a ``ProtocolTypeRouter``.

    Returns:
        The application to serve.
    """

    async def application_that_closes(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _Lifespan(receive, send).run(application, scope)
        else:
            await application(scope, receive, send)

    return application_that_closes


class _Lifespan:
    """The lifespan of one process: passes it to the application, or answers in its place.

    Args:
        receive: The server's ASGI callable.
        send: The server's ASGI callable.
    """

    def __init__(self, receive: _Receive, send: _Send) -> None:
        self._receive_event = receive
        self._send_event = send
        self._received: set[str] = set()
        self._sent: set[str] = set()

    async def run(self, application: _Application, scope: Any) -> None:
        process.end_will_be_told()
        error: Exception | None = None
        try:
            await application(scope, self._receive, self._send)
        except Exception as raised:
            if "lifespan.startup" in self._received and not self._has_started:
                raise
            if self._has_started:
                error = raised
        if self._sent & {"lifespan.startup.failed", *_ENDS}:
            if error is not None:
                raise error
            return
        # The application does not know the protocol, or left it before the end.
        if error is not None and "lifespan.shutdown" not in self._received:
            logger.error("The application's lifespan ended with an error.", exc_info=error)
        if not self._has_started:
            await self._until("lifespan.startup")
            await self._send({"type": "lifespan.startup.complete"})
        await self._until("lifespan.shutdown")
        if error is not None:
            await _close_layers()
            raise error
        await self._send({"type": "lifespan.shutdown.complete"})

    @property
    def _has_started(self) -> bool:
        return "lifespan.startup.complete" in self._sent

    async def _until(self, kind: str) -> None:
        """Receive events up to one of a kind, unless the application has received it."""
        while kind not in self._received:
            await self._receive()

    async def _receive(self) -> _Event:
        event: _Event = await self._receive_event()
        self._received.add(event["type"])
        return event

    async def _send(self, event: _Event) -> None:
        if event["type"] in _ENDS:
            await _close_layers()
        await self._send_event(event)
        self._sent.add(event["type"])


_ENDS = frozenset({"lifespan.shutdown.complete", "lifespan.shutdown.failed"})


async def _close_layers() -> None:
    """Close all layers of this process at the same time; does not block the event loop."""
    timeout = Timings().close
    tickets = [
        in_thread("kafka-layer-close", partial(each.close, timeout)) for each in process.servers()
    ]
    closed = (ticket.outcome() for ticket in tickets)
    for outcome in await asyncio.gather(*closed, return_exceptions=True):
        if isinstance(outcome, BaseException):
            logger.error("A channel layer could not be closed.", exc_info=outcome)
