"""The websocket of the page for staff: sends the figures of all servers each second, as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from channels.security.websocket import AllowedHostsOriginValidator

from .. import get_layer
from ..config.realtime import monotonic
from ..config.timings import Timings
from .access import alias_of

__all__ = ["SUBPROTOCOL", "TICKET", "serve"]

SUBPROTOCOL = "kafka-layer.dashboard"
"""The websocket's subprotocol."""

TICKET = "kafka-layer.ticket."
"""The prefix of the ticket, which a page offers as a second subprotocol."""


async def serve(scope: Any, receive: Any, send: Any) -> None:
    """Serve one connection, if its ``Origin`` is in ``ALLOWED_HOSTS``; an ASGI application.

    A consumer of Channels needs a channel, and a layer makes none while Kafka is away. So this is a
    plain ASGI application. It needs no session and no user, because the page's ticket is the proof
    of access.
    """
    await AllowedHostsOriginValidator(_serve)(scope, receive, send)


async def _serve(scope: Any, receive: Any, send: Any) -> None:
    if (await receive())["type"] != "websocket.connect":
        return
    offered = scope.get("subprotocols", ())
    ticket = next((each[len(TICKET) :] for each in offered if each.startswith(TICKET)), "")
    alias = alias_of(ticket, Timings().page_ticket)
    if alias is None:
        await send({"type": "websocket.close", "code": 4403})
        return
    await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
    layer = get_layer(alias)
    timings = layer.config.timings
    until = monotonic() + timings.page_session
    gone = asyncio.ensure_future(_gone(receive))
    try:
        # send() raises OSError where the connection has ended before its disconnect event comes.
        with contextlib.suppress(OSError):
            while not gone.done() and monotonic() < until:
                text = json.dumps(layer._server.watch.look(), default=str)
                await send({"type": "websocket.send", "text": text})
                await asyncio.wait({gone}, timeout=timings.ask_servers)
            if not gone.done():
                await send({"type": "websocket.close", "code": 4000, "reason": "ask again"})
    finally:
        gone.cancel()


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass
