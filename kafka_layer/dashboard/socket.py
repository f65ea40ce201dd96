"""The websocket of the staff's page: each second what is known of all servers, as JSON."""

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
"""What stands before the ticket that a page offers as another subprotocol."""


async def serve(scope: Any, receive: Any, send: Any) -> None:
    """Serve one connection, of a page of a host in ``ALLOWED_HOSTS``: an ASGI application.

    It is no consumer of Channels: those need a channel, which there is none of while Kafka is away.
    It needs no session and no user either: the page's ticket tells that it was let in.
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
        # The server may know of the end before the event that tells it.
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
