"""Servers that share topics, clients connected to them, and what each client got.

What a client did *not* get is proven without waiting for some time: after the messages the sender
sends a barrier to the same addresses, which a witness on every server receives. Whatever was
written before the barrier was routed by then, so a client's mailbox holds all it will ever hold.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection, Sequence
from typing import Any

from kafka_layer.layer import KafkaChannelLayer
from tests.support.layers import next_message

__all__ = ["MESSAGE", "Client", "Cluster", "inboxes"]

Message = dict[str, Any]

MESSAGE: Message = {"type": "hello", "text": "world"}

_BARRIER = "barrier"
_END: Message = {"type": "end of the inbox"}
_numbers = itertools.count()


class Client:
    """A connection: a channel of one server.

    Attributes:
        layer: The server.
        channel: The name object that ``new_channel()`` gave.
    """

    def __init__(self, layer: KafkaChannelLayer, channel: str) -> None:
        self.layer = layer
        self.channel = channel

    async def inbox(self) -> list[Message]:
        """Take all messages out of the mailbox and return them, without the barriers."""
        await self.layer.send(self.channel, _END)
        messages = []
        while (message := await next_message(self.layer, self.channel)) != _END:
            messages.append(message)
        return [each for each in messages if each.get("type") != _BARRIER]

    async def next(self) -> Message:
        """Wait for one message."""
        return await next_message(self.layer, self.channel)


async def inboxes(*clients: Client) -> list[list[Message]]:
    """Return what each client has got; call it after :meth:`Cluster.settle`."""
    return [await client.inbox() for client in clients]


class Cluster:
    """Layers as servers.

    Args:
        servers: The layers.
    """

    def __init__(self, servers: list[KafkaChannelLayer]) -> None:
        self.servers = servers

    def __len__(self) -> int:
        return len(self.servers)

    def __getitem__(self, number: int) -> KafkaChannelLayer:
        return self.servers[number]

    async def connect(self, server: int, group: str = "", user: str | int = "") -> Client:
        """Open a channel on a server and make it a member, by a local call, as consumers do."""
        layer = self.servers[server]
        client = Client(layer, await layer.new_channel())
        if group:
            await layer.group_add(group, client.channel)
        if user:
            await layer.user_add(user, client.channel)
        return client

    async def connect_each(
        self, clients_per_server: int = 1, group: str = "", user: str | int = ""
    ) -> list[Client]:
        """Open channels on every server; the first ones are on the first server."""
        return [
            await self.connect(server, group, user)
            for server in range(len(self))
            for _ in range(clients_per_server)
        ]

    async def settle(
        self,
        sender: KafkaChannelLayer,
        groups: Collection[str] = (),
        users: Sequence[str | int] = (),
    ) -> None:
        """Return once every server has routed what ``sender`` has sent so far.

        Args:
            sender: The server whose messages are awaited: to channels, to all,
            groups: and to these groups,
            users: and to these users.
        """
        witnesses = await self.connect_each()
        for each in witnesses:
            for group in groups:
                await each.layer.group_add(group, each.channel)
            for user in users:
                await each.layer.user_add(user, each.channel)
        barrier = {"type": _BARRIER, "number": next(_numbers)}
        await sender.send_many([each.channel for each in witnesses], barrier)
        await sender.all_send(barrier)
        await sender.group_send_many(groups, barrier)
        await sender.user_send_many(users, barrier)
        for each in witnesses:
            # What was sent before the witness was there may still have been on its way to it.
            left = 2 + len(groups) + len(users)
            while left:
                left -= await each.next() == barrier
            await asyncio.gather(
                *(each.layer.group_discard(group, each.channel) for group in groups),
                *(each.layer.user_discard(user, each.channel) for user in users),
            )
