"""Who is in a room, without a database: pages tell each other, and nobody keeps a list.

A page that comes or goes is announced to the others in the room. A page that wants to know
who is there calls the roll: the question goes to the room's group, and each connection
answers to the channel that asked. So a page always can replace a list that may be stale, for
instance when a worker was lost, whose connections could not say goodbye.
"""

import contextlib
from typing import Any

from channels.exceptions import ChannelFull


class PresenceMixin:
    """For the consumer of a room; it has a `group`, a `member` and `deliver(frame)`."""

    channel_layer: Any
    channel_name: str
    group: str
    member: dict[str, Any]

    async def announce_arrival(self) -> None:
        await self._tell_others("presence.joined")

    async def announce_departure(self) -> None:
        await self._tell_others("presence.left")

    async def call_roll(self) -> None:
        """Have everyone in the room answer to this connection, itself included."""
        call = {"type": "presence.roll_call", "reply_to": self.channel_name}
        await self.channel_layer.group_send(self.group, call)

    async def deliver(self, frame: dict[str, Any]) -> None:
        raise NotImplementedError

    async def _tell_others(self, kind: str) -> None:
        message = {"type": kind, "member": self.member}
        await self.channel_layer.group_send(self.group, message, exclude=[self.channel_name])

    # From the channel layer

    async def presence_roll_call(self, call: dict[str, Any]) -> None:
        # Whoever asked and does not keep up with the answers may ask again.
        with contextlib.suppress(ChannelFull):
            here = {"type": "presence.here", "member": self.member}
            await self.channel_layer.send(call["reply_to"], here)

    async def presence_here(self, message: dict[str, Any]) -> None:
        await self.deliver({"type": "here", "member": message["member"]})

    async def presence_joined(self, message: dict[str, Any]) -> None:
        await self.deliver({"type": "joined", "member": message["member"]})

    async def presence_left(self, message: dict[str, Any]) -> None:
        await self.deliver({"type": "left", "member": message["member"]})
