"""The websocket of one person in one room.

Frames are JSON objects with a `type`. A browser sends

    say      {"text": "Hello"}

and receives

    welcome  {"worker", "room", "you"}: the connection is a member of its room from here on
    message  {"id", "author", "text", "sent_at", "sent_by", "delivered_by", "transit_ms"}
    problem  {"text"}: why the last frame did nothing; the connection goes on
    refusal  {"text"}: why the connection ends; connecting again would not help

`sent_by` and `delivered_by` name the workers at both ends of a message's way.
"""

import json
import secrets
import time
from typing import Any
from urllib.parse import parse_qs

from channels.exceptions import ChannelFull
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings

from . import people, rules

CLOSE_REFUSED = 4400
"""The close code after a refusal, from the range that RFC 6455 leaves to applications."""


class ChatConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """Joins the room's group, sends what its person says there and delivers what others say."""

    group: str | None = None
    """The group this connection is a member of; None before it joined."""

    async def connect(self) -> None:
        self.rate_limit = rules.RateLimit(burst=10, per_second=2)
        try:
            self.room = rules.clean_room(self.scope["url_route"]["kwargs"]["room"])
            self.person = self._find_person()
        except rules.Invalid as invalid:
            # Rejecting the handshake instead would hide the reason from the page.
            await self.accept()
            await self.send_json({"type": "refusal", "text": str(invalid)})
            await self.close(CLOSE_REFUSED)
            return
        group = rules.group_name(self.room)
        await self.channel_layer.group_add(group, self.channel_name)
        self.group = group
        await self.accept()
        await self.send_json(
            {
                "type": "welcome",
                "worker": settings.DEMO_WORKER,
                "room": self.room,
                "you": {"id": self.person.id, "name": self.person.name},
            }
        )

    async def disconnect(self, code: int) -> None:
        if self.group is not None:
            await self.channel_layer.group_discard(self.group, self.channel_name)

    # From the browser

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any
    ) -> None:
        if self.group is None:  # refused, and the close is on its way
            return
        try:
            if not self.rate_limit.allows():
                raise rules.Invalid("That was a bit fast. Please wait a second.")
            await self._handle(_parse(text_data))
        except rules.Invalid as invalid:
            await self.send_json({"type": "problem", "text": str(invalid)})
        except ChannelFull:
            await self.send_json(
                {"type": "problem", "text": "The chat is very busy. Please try again."}
            )

    async def _handle(self, frame: object) -> None:
        match frame:
            case {"type": "say", "text": str(text)}:
                await self._say(rules.clean_text(text))
            case _:
                raise rules.Invalid("This page sent something that the chat does not know.")

    async def _say(self, text: str) -> None:
        await self.channel_layer.group_send(
            self.group,
            {
                "type": "chat.message",
                "id": secrets.token_hex(8),
                "author": {"id": self.person.id, "name": self.person.name},
                "text": text,
                "sent_at": time.time(),
                "sent_by": settings.DEMO_WORKER,
            },
        )

    # From the channel layer

    async def chat_message(self, event: dict[str, Any]) -> None:
        # All workers of the demo run on one machine, so one clock is at both ends.
        transit = max(0.0, time.time() - event["sent_at"])
        await self.send_json(
            event
            | {
                "type": "message",
                "delivered_by": settings.DEMO_WORKER,
                "transit_ms": round(transit * 1000, 1),
            }
        )

    def _find_person(self) -> people.Person:
        query = parse_qs(self.scope["query_string"].decode("latin-1"))
        person = people.find(self.scope["session"], query.get("as", [""])[0])
        if person is None:
            raise rules.Invalid("The chat does not know you any more. Please join again.")
        return person


def _parse(text: str | None) -> object:
    if text is None:
        raise rules.Invalid("The chat understands text only.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise rules.Invalid("This page sent something that is not JSON.") from None
