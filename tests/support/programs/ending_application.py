"""An ASGI and a WSGI application that send 300 messages where ``/send`` is asked.

Each message says which process sent it; so does each answer. ``LAYER_CONFIG`` is the layer's
CONFIG as JSON. ``LAYER_ENDING`` names the ASGI application: "closing" is wrapped, and sends in its
lifespan shutdown, too; "bare" is the same without the wrapper; "foreign" is wrapped and does not
know the lifespan protocol. "handled" is "bare" with a handler for SIGTERM, as docs/deployment.md
shows it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from kafka_layer.asgi import closing
from kafka_layer.config.timings import Timings
from kafka_layer.layer import KafkaChannelLayer
from tests.support.patience import CLOSE, START

COUNT = 300

# Reloaders that watch the modules of a process have one to watch.
if importlib.util.find_spec("watched_by_reloaders"):
    importlib.import_module("watched_by_reloaders")


class Layer(KafkaChannelLayer):
    # A warning that comes with the refresh comes soon.
    timings = Timings(start=START, close=CLOSE, refresh=1.0)


layer = Layer(**json.loads(os.environ["LAYER_CONFIG"]))


def messages() -> list[dict[str, Any]]:
    return [{"type": "sent", "by": os.getpid(), "n": number} for number in range(COUNT)]


async def send_all() -> None:
    for message in messages():
        await layer.group_send("room", message)


async def lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send_all()
    await send({"type": "lifespan.shutdown.complete"})


async def knowing(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    else:
        await foreign(scope, receive, send)


async def foreign(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise ValueError(f"no application for {scope['type']}")
    # It has started, and is warm, as a server that has sent before.
    await layer.group_send("nobody", {"type": "sent"})
    if scope["path"] == "/send":
        await send_all()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


application = {
    "closing": closing(knowing),
    "bare": knowing,
    "handled": knowing,
    "foreign": closing(foreign),
}[os.environ["LAYER_ENDING"]]

if os.environ["LAYER_ENDING"] == "handled":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    layer.group_send_sync("nobody", {"type": "sent"})
    if environ["PATH_INFO"] == "/send":
        for message in messages():
            layer.group_send_sync("room", message)
    answer = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
