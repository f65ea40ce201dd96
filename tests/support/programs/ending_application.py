"""An ASGI application that sends 300 messages as its server ends, and says so to the group.

``LAYER_CONFIG`` is the layer's CONFIG as JSON. ``LAYER_ENDING`` names what is served: "closing" is
wrapped, and sends in its lifespan shutdown; "bare" does the same without the wrapper; "foreign" is
wrapped and does not know the lifespan protocol, and is asked by HTTP to send.
"""

from __future__ import annotations

import json
import os
from typing import Any

from kafka_layer.asgi import closing
from kafka_layer.layer import KafkaChannelLayer

COUNT = 300


layer = KafkaChannelLayer(**json.loads(os.environ["LAYER_CONFIG"]))


async def send_all() -> None:
    for number in range(COUNT):
        await layer.group_send("room", {"kind": "group", "n": number})


async def respond(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here\n"})


async def knowing(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "lifespan":
        # It has started, and is warm, as a server that has sent before.
        await layer.group_send("nobody", {})
        await respond(send)
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send_all()
    await send({"type": "lifespan.shutdown.complete"})


async def foreign(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise ValueError(f"no application for {scope['type']}")
    await send_all()
    await respond(send)


application = {"closing": closing(knowing), "bare": knowing, "foreign": closing(foreign)}[
    os.environ["LAYER_ENDING"]
]
