"""The floor: bare Kafka clients, and the smallest channel layer that can be written with them.

Bare clients are a Producer, a Consumer and a msgpack map in each record. The smallest layer has
what no layer can do without: a coroutine for each call, one call into the event loop for each
batch, and a queue for each channel. It has nothing else: no checks of names or messages, no expiry,
no capacity, no word about what is lost, no other server's channels in groups, one event loop.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ormsgpack
from channels.exceptions import ChannelFull
from confluent_kafka import OFFSET_END, Consumer, Message, Producer, TopicPartition

from tests.support.counting import Inbox

_PRODUCER = {"enable.idempotence": True, "linger.ms": 0, "delivery.report.only.error": True}
_CONSUMER = {"group.id": "bare", "enable.auto.commit": False, "enable.auto.offset.store": False}


class _BareClients:
    """The least that a program on Kafka needs, with the settings that our layer has, too.

    Everything goes to one topic, keyed by channel or group.
    """

    def __init__(
        self, bootstrap_servers: str, topic: str, partitions: int, producer_config: dict[str, Any]
    ) -> None:
        self._servers = {"bootstrap.servers": bootstrap_servers, "log_level": 3}
        self._topic, self._partitions = topic, partitions
        self._producer = Producer({**self._servers, **_PRODUCER, **producer_config})
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._start(self._free_queue)

    def _begin(self) -> None:
        """Consume from now on; blocks until that is settled."""
        consumer = Consumer({**self._servers, **_CONSUMER})
        ends = [TopicPartition(self._topic, n, OFFSET_END) for n in range(self._partitions)]
        consumer.assign(consumer.offsets_for_times(ends, 10))
        self._start(self._consume, consumer)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        self._threads.append(threading.Thread(target=target, args=args, daemon=True))
        self._threads[-1].start()

    def produce(self, key: str, message: Mapping[str, Any]) -> None:
        try:
            self._producer.produce(self._topic, ormsgpack.packb(message), key)
        except BufferError:
            raise ChannelFull from None

    def _take(self, records: Sequence[Message]) -> None:
        """Get what was consumed, in the thread that consumes."""
        raise NotImplementedError

    async def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        await asyncio.to_thread(self._producer.flush, 5)

    def _free_queue(self) -> None:
        # The producer's queue counts a message until its report was polled for.
        while not self._stop.wait(0.01):
            self._producer.poll(0)

    def _consume(self, consumer: Consumer) -> None:
        while not self._stop.is_set():
            first = consumer.poll(0.1)
            if first is not None:
                self._take([first, *consumer.consume(500, 0)])
        consumer.close()


def read_log(bootstrap_servers: str, topic: str, since: float) -> int:
    """Read what was written to a topic since a time; returns how many records that were."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            **_CONSUMER,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 5,
        }
    )
    partitions = consumer.list_topics(topic, 10).topics[topic].partitions
    starts = [TopicPartition(topic, number, round(since * 1000)) for number in partitions]
    consumer.assign(consumer.offsets_for_times(starts, 10))
    left, count = len(starts), 0
    while left:
        first = consumer.poll(10)
        if first is None:
            raise TimeoutError(f"no record of {topic} came within 10 s")
        read = [first, *consumer.consume(500, 0)]
        ends = sum(each.error() is not None for each in read)
        left, count = left - ends, count + len(read) - ends
    consumer.close()
    return count


class BarePort(_BareClients):
    """A port of bare clients; a message is taken in the thread that consumes."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._inboxes: dict[str, Inbox] = {}
        self._addressees: defaultdict[str, list[Inbox]] = defaultdict(list)

    async def new_channels(self, count: int) -> list[str]:
        return [f"bare!{secrets.token_urlsafe(12)}" for _ in range(count)]

    async def listen(self, inboxes: Mapping[str, Inbox]) -> None:
        for channel, inbox in inboxes.items():
            self._inboxes[channel] = inbox
            self._addressees[channel].append(inbox)
        await asyncio.to_thread(self._begin)

    async def join(self, group: str, channels: Sequence[str]) -> None:
        self._addressees[group] += [self._inboxes[channel] for channel in channels]

    async def send(self, channel: str, message: Mapping[str, Any]) -> None:
        self.produce(channel, message)

    group_send = send
    native = _BareClients.produce

    def _take(self, records: Sequence[Message]) -> None:
        for record in records:
            for inbox in self._addressees.get(record.key().decode(), ()):
                inbox.take(ormsgpack.unpackb(record.value()))


class SmallestLayer(_BareClients):
    """A channel layer for one event loop."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._queues: dict[str, asyncio.Queue[bytes]] = {}
        # Of a key: its own channel, or the members of the group.
        self._addressees: defaultdict[bytes, dict[str, asyncio.Queue[bytes]]] = defaultdict(dict)
        self._loop: Any = None

    async def new_channel(self, prefix: str = "specific") -> str:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            await asyncio.to_thread(self._begin)
        name = f"{prefix}!{secrets.token_urlsafe(12)}"
        self._queues[name] = asyncio.Queue()
        await self.group_add(name, name)
        return name

    async def send(self, channel: str, message: Mapping[str, Any]) -> None:
        if "!" not in channel:
            raise NotImplementedError("it has no worker channels")
        self.produce(channel, message)

    async def receive(self, channel: str) -> Any:
        return ormsgpack.unpackb(await self._queues[channel].get())

    async def group_add(self, group: str, channel: str) -> None:
        self._addressees[group.encode()][channel] = self._queues[channel]

    async def group_discard(self, group: str, channel: str) -> None:
        self._addressees[group.encode()].pop(channel, None)

    async def group_send(self, group: str, message: Mapping[str, Any]) -> None:
        self.produce(group, message)

    def _take(self, records: Sequence[Message]) -> None:
        batch = [(record.key(), record.value()) for record in records]
        self._loop.call_soon_threadsafe(self._hand_over, batch)

    def _hand_over(self, batch: list[tuple[bytes, bytes]]) -> None:
        for key, value in batch:
            for queue in self._addressees.get(key, {}).values():
                queue.put_nowait(value)
