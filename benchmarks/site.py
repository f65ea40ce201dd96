"""The smallest project with websockets: every path is a room. Daphne runs it in the benchmarks.

The channel layer comes as JSON, like ``CHANNEL_LAYERS``, in an environment variable.
"""

from __future__ import annotations

import json
import os
from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter
from django.conf import settings

from .webservers import ENVIRONMENT

__all__ = ["application"]

settings.configure(CHANNEL_LAYERS=json.loads(os.environ[ENVIRONMENT]))
django.setup()


class Room(AsyncWebsocketConsumer):
    """Passes what a browser says to everybody in the room."""

    async def connect(self) -> None:
        self.room = self.scope["path"].strip("/")
        await self.channel_layer.group_add(self.room, self.channel_name)
        # The handshake ends here: who is connected is a member.
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send(self.room, {"type": "room.message", "text": text_data})

    async def room_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


application = ProtocolTypeRouter({"websocket": Room.as_asgi()})
