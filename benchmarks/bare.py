"""The floor: bare Kafka clients, a Producer and a Consumer, and a msgpack map in each record."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ormsgpack
from channels.exceptions import ChannelFull
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from .inbox import Inbox

if TYPE_CHECKING:
    from confluent_kafka import Message

__all__ = ["BareClients", "BarePort"]

_POLL_INTERVAL = 0.01


class BareClients:
    """The least that a program on Kafka needs, with the settings that our layer has, too.

    Args:
        bootstrap_servers: The brokers.
        topic: Where everything goes, keyed by channel or group.
        partitions: How many partitions it has.
        take: Gets what was consumed, in the thread that consumes.
        producer_config: More librdkafka properties of the producer.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        partitions: int,
        take: Callable[[Sequence[Message]], None],
        producer_config: Mapping[str, Any] | None = None,
    ) -> None:
        self._servers = bootstrap_servers
        self._topic = topic
        self._partitions = partitions
        self._take = take
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
        self._stop = threading.Event()
        self._consuming: threading.Thread | None = None
        self._reporting = threading.Thread(target=self._free_queue, daemon=True)
        self._reporting.start()

    def consume(self) -> None:
        """Consume from now on; blocks until that is settled. Idempotent.

        Raises:
            KafkaException: No broker says within 10 s where the topic ends.
        """
        if self._consuming is None:
            consumer = Consumer(
                {
                    "bootstrap.servers": self._servers,
                    "group.id": "bare",
                    "log_level": 3,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                }
            )
            ends = [TopicPartition(self._topic, n, OFFSET_END) for n in range(self._partitions)]
            consumer.assign(consumer.offsets_for_times(ends, 10))
            self._consuming = threading.Thread(target=self._consume, args=[consumer], daemon=True)
            self._consuming.start()

    def produce(self, key: str, message: Mapping[str, Any]) -> None:
        """Write one message.

        Raises:
            ChannelFull: The producer's queue is.
        """
        try:
            self._producer.produce(self._topic, ormsgpack.packb(message), key)
        except BufferError:
            raise ChannelFull from None

    def close(self) -> None:
        """Write what is queued, and free everything."""
        self._stop.set()
        self._reporting.join()
        if self._consuming is not None:
            self._consuming.join()
        self._producer.flush(5)

    def _free_queue(self) -> None:
        # The producer's queue counts a message until its report was polled for.
        while not self._stop.wait(_POLL_INTERVAL):
            self._producer.poll(0)

    def _consume(self, consumer: Consumer) -> None:
        while not self._stop.is_set():
            first = consumer.poll(0.1)
            if first is not None:
                self._take([first, *consumer.consume(500, 0)])
        consumer.close()


class BarePort:
    """Bare clients; a message is taken in the thread that consumes.

    Args:
        **config: Those of :class:`BareClients`.
    """

    def __init__(self, **config: Any) -> None:
        self._clients = BareClients(take=self._take, **config)
        self._inboxes: dict[str, Inbox] = {}
        self._addressees: defaultdict[str, list[Inbox]] = defaultdict(list)

    async def new_channels(self, count: int) -> list[str]:
        return [f"bare!{secrets.token_urlsafe(12)}" for _ in range(count)]

    async def listen(self, inboxes: Mapping[str, Inbox]) -> None:
        for channel, inbox in inboxes.items():
            self._inboxes[channel] = inbox
            self._addressees[channel].append(inbox)
        await asyncio.to_thread(self._clients.consume)

    async def join(self, group: str, channels: Sequence[str]) -> None:
        self._addressees[group] += [self._inboxes[channel] for channel in channels]

    async def send(self, channel: str, message: Mapping[str, Any]) -> None:
        self._clients.produce(channel, message)

    group_send = send

    def sync_group_sends(self) -> dict[str, Callable[[str, Mapping[str, Any]], Any]]:
        return {"native": self._clients.produce}

    async def close(self) -> None:
        await asyncio.to_thread(self._clients.close)

    def _take(self, records: Sequence[Message]) -> None:
        for record in records:
            for inbox in self._addressees.get(record.key().decode(), ()):
                inbox.take(ormsgpack.unpackb(record.value()))
