"""How a worker process sends and receives: through a channel layer, or with bare Kafka clients.

A channel layer is used through its public API alone. The bare port is the floor: the same traffic
over Kafka with nothing in between, not even an event loop on the receiving side.
"""

from __future__ import annotations

import asyncio
import importlib
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull

from .inbox import Inbox

__all__ = ["BarePort", "LayerPort", "Port", "PortSpec"]

Message = dict[str, Any]

_POLL_INTERVAL = 0.01


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


class BarePort:
    """One Producer and one Consumer; a message is taken in the thread that consumes.

    Args:
        bootstrap_servers: The brokers.
        topic: Where everything goes, keyed by channel or group.
        partitions: How many partitions it has.
        producer_config: More librdkafka properties of the producer.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        partitions: int,
        producer_config: Mapping[str, Any] | None = None,
    ) -> None:
        import ormsgpack
        from confluent_kafka import Producer

        self._servers = bootstrap_servers
        self._topic = topic
        self._partitions = partitions
        self._encode, self._decode = ormsgpack.packb, ormsgpack.unpackb
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "linger.ms": 0,
                "delivery.report.only.error": True,
                "log_level": 3,
                **(producer_config or {}),
            }
        )
        self._inboxes: dict[str, Inbox] = {}
        self._addressees: defaultdict[str, list[Inbox]] = defaultdict(list)
        self._stop = threading.Event()
        self._consuming: threading.Thread | None = None
        self._reporting = threading.Thread(target=self._free_queue, daemon=True)
        self._reporting.start()

    async def new_channels(self, count: int) -> list[str]:
        return [f"bare!{secrets.token_urlsafe(12)}" for _ in range(count)]

    async def listen(self, inboxes: Mapping[str, Inbox]) -> None:
        for channel, inbox in inboxes.items():
            self._inboxes[channel] = inbox
            self._addressees[channel].append(inbox)
        if self._consuming is None:
            ready = threading.Event()
            self._consuming = threading.Thread(target=self._consume, args=(ready,), daemon=True)
            self._consuming.start()
            await asyncio.to_thread(ready.wait)

    async def join(self, group: str, channels: Sequence[str]) -> None:
        self._addressees[group] += [self._inboxes[channel] for channel in channels]

    async def send(self, channel: str, message: Message) -> None:
        self._produce(channel, message)

    group_send = send

    def sync_group_sends(self) -> dict[str, Callable[[str, Message], Any]]:
        return {"native": self._produce}

    async def close(self) -> None:
        self._stop.set()
        await asyncio.to_thread(self._reporting.join)
        if self._consuming is not None:
            await asyncio.to_thread(self._consuming.join)
        await asyncio.to_thread(self._producer.flush, 5)

    def _produce(self, key: str, message: Message) -> None:
        try:
            self._producer.produce(self._topic, self._encode(message), key)
        except BufferError:
            raise ChannelFull from None

    def _free_queue(self) -> None:
        # The producer's queue counts a message until its report was polled for.
        while not self._stop.wait(_POLL_INTERVAL):
            self._producer.poll(0)

    def _consume(self, ready: threading.Event) -> None:
        from confluent_kafka import OFFSET_END, Consumer, TopicPartition

        consumer = Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": "bare",
                "log_level": 3,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
            }
        )
        ends = [TopicPartition(self._topic, each, OFFSET_END) for each in range(self._partitions)]
        consumer.assign(consumer.offsets_for_times(ends, 10))
        ready.set()
        addressees, decode = self._addressees, self._decode
        while not self._stop.is_set():
            first = consumer.poll(0.1)
            if first is None:
                continue
            for record in (first, *consumer.consume(500, 0)):
                for inbox in addressees.get(record.key().decode(), ()):
                    inbox.take(decode(record.value()))
        consumer.close()
