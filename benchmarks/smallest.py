"""The smallest channel layer on Kafka that can be written in Python: the floor for any other.

It has what no layer can do without: a coroutine for each call, bare clients, one call into the
event loop for each batch, and a queue for each channel. It has nothing else: no checks of names or
messages, no expiry, no capacity, no word about what is lost, no other server's channels in groups,
one event loop.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ormsgpack

from .bare import BareClients

if TYPE_CHECKING:
    from confluent_kafka import Message

__all__ = ["SmallestLayer"]


class SmallestLayer:
    """A channel layer for one event loop.

    Args:
        **config: Those of :class:`benchmarks.bare.BareClients`.
    """

    def __init__(self, **config: Any) -> None:
        self._clients = BareClients(take=self._hand_to_loop, **config)
        self._queues: dict[str, asyncio.Queue[bytes]] = {}
        # Of a key: its own channel, or the members of the group.
        self._addressees: defaultdict[bytes, dict[str, asyncio.Queue[bytes]]] = defaultdict(dict)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def new_channel(self, prefix: str = "specific") -> str:
        """Open a channel and return its name."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            await asyncio.to_thread(self._clients.consume)
        name = f"{prefix}!{secrets.token_urlsafe(12)}"
        self._queues[name] = asyncio.Queue()
        await self.group_add(name, name)
        return name

    async def send(self, channel: str, message: Mapping[str, Any]) -> None:
        """Send to a channel."""
        _require_no_worker_channel(channel)
        self._clients.produce(channel, message)

    async def receive(self, channel: str) -> Any:
        """Wait for the next message of a channel."""
        _require_no_worker_channel(channel)
        return ormsgpack.unpackb(await self._queues[channel].get())

    async def group_add(self, group: str, channel: str) -> None:
        """Make a channel a member of a group."""
        self._addressees[group.encode()][channel] = self._queues[channel]

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group."""
        self._addressees[group.encode()].pop(channel, None)

    async def group_send(self, group: str, message: Mapping[str, Any]) -> None:
        """Send to the members of a group."""
        self._clients.produce(group, message)

    async def close(self) -> None:
        """Free everything."""
        await asyncio.to_thread(self._clients.close)

    def _hand_to_loop(self, records: Sequence[Message]) -> None:
        batch = [(record.key(), record.value()) for record in records]
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._hand_over, batch)

    def _hand_over(self, batch: list[tuple[bytes, bytes]]) -> None:
        for key, value in batch:
            for queue in self._addressees.get(key, {}).values():
                queue.put_nowait(value)


def _require_no_worker_channel(channel: str) -> None:
    if "!" not in channel:
        raise NotImplementedError("it has no worker channels")
