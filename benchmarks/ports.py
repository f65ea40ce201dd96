"""How a worker process sends and receives: through a channel layer, or with bare Kafka clients.

A channel layer is used through its public API alone. The bare port is the floor: the same traffic
over Kafka with nothing in between, not even an event loop on the receiving side.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from asgiref.sync import async_to_sync

from .inbox import Inbox

__all__ = ["LayerPort", "Port", "PortSpec"]

Message = dict[str, Any]


@dataclass(frozen=True)
class PortSpec:
    """Says which port to open; it is what a worker process is told.

    Attributes:
        backend: Dotted path of the layer's class; empty for bare Kafka clients.
        config: Its keywords.
    """

    backend: str
    config: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> Port:
        """Make the port in this process."""
        if not self.backend:
            # Only here: the processes of other contenders are not to carry the Kafka client.
            from .bare import BarePort

            return BarePort(**self.config)
        module, _, name = self.backend.rpartition(".")
        return LayerPort(getattr(importlib.import_module(module), name)(**self.config))


class Port(Protocol):
    """What the subjects need of a contender inside a worker process."""

    async def new_channels(self, count: int) -> list[str]:
        """Open channels of this process."""

    async def listen(self, inboxes: Mapping[str, Inbox]) -> None:
        """Begin to fill the inboxes of channels."""

    async def join(self, group: str, channels: Sequence[str]) -> None:
        """Make channels members of a group."""

    async def send(self, channel: str, message: Message) -> Any:
        """Send to one channel."""

    async def group_send(self, group: str, message: Message) -> Any:
        """Send to a group."""

    def sync_group_sends(self) -> dict[str, Callable[[str, Message], Any]]:
        """Return the ways to send to a group from synchronous code."""

    async def close(self) -> None:
        """Free everything."""


class LayerPort:
    """A channel layer.

    Args:
        layer: The layer, just constructed.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.send = layer.send
        self.group_send = layer.group_send
        self._listeners: list[asyncio.Task[None]] = []

    async def new_channels(self, count: int) -> list[str]:
        return [await self.layer.new_channel() for _ in range(count)]

    async def listen(self, inboxes: Mapping[str, Inbox]) -> None:
        self._listeners += [
            asyncio.create_task(self._fill(channel, inbox)) for channel, inbox in inboxes.items()
        ]
        await asyncio.sleep(0)

    async def join(self, group: str, channels: Sequence[str]) -> None:
        for channel in channels:
            await self.layer.group_add(group, channel)

    def sync_group_sends(self) -> dict[str, Callable[[str, Message], Any]]:
        ways = {"bridged": async_to_sync(self.layer.group_send)}
        if hasattr(type(self.layer), "group_send_sync"):
            ways["native"] = self.layer.group_send_sync
        return ways

    async def close(self) -> None:
        for listener in self._listeners:
            listener.cancel()
        await asyncio.gather(*self._listeners, return_exceptions=True)
        for name in ("close_pools", "close"):
            if hasattr(type(self.layer), name):
                await getattr(self.layer, name)()
                return

    async def _fill(self, channel: str, inbox: Inbox) -> None:
        receive, take = self.layer.receive, inbox.take
        while True:
            take(await receive(channel))
