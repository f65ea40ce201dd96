"""An ASGI application for daphne: from its first request on it sends messages, and notes them.

``LAYER_CONFIG`` is the layer's CONFIG as JSON, ``LAYER_DIARY`` a file that gets the number of each
message to the group ``room`` whose send returned, a line each.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from typing import Any

from tests.support.patience import PatientLayer

layer = PatientLayer(**json.loads(os.environ["LAYER_CONFIG"]))
diary = os.open(os.environ["LAYER_DIARY"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
sending: list[asyncio.Task[None]] = []


async def application(scope: Any, receive: Any, send: Any) -> None:
    if not sending:
        sending.append(asyncio.create_task(send_on_and_on()))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"sending\n"})


async def send_on_and_on() -> None:
    for number in itertools.count():
        await layer.group_send("room", {"kind": "group", "n": number})
        os.write(diary, f"{number}\n".encode())
        await asyncio.sleep(0.002)
