"""What worker processes do in the subject on streams: write as others do, read and count."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from .traffic import Sent, message
from .workers import Context

_TEXT = "The quick brown fox jumps over the lazy dog. " * 2
_PATIENCE = 60.0
_BATCH = 500
_PLAIN = {"group.id": "bare", "enable.auto.commit": False, "fetch.queue.backoff.ms": 5}


class Read(NamedTuple):
    """How long it took to read so many records, how much more memory was used, in MB, and the
    seconds of processor by threads: ``stream`` reads them, ``loop`` receives them.
    """

    seconds: float
    records: int
    megabytes: float = 0.0
    cpu: Mapping[str, float] = {}

    @property
    def per_second(self) -> float:
        """Records a second."""
        return self.records / self.seconds

    def each(self, *threads: str) -> float:
        """Microseconds of processor that these threads, or all, took for a record."""
        return sum(self.cpu[name] for name in threads or self.cpu) * 1e6 / self.records


async def create(context: Context, topic: str, partitions: int, compact: bool = False) -> None:
    """Create a topic."""
    admin = AdminClient({"bootstrap.servers": context.spec.config["bootstrap_servers"]})
    config = {"cleanup.policy": "compact" if compact else "delete"}
    new = NewTopic(topic, partitions, 1, config=config)
    await asyncio.to_thread(admin.create_topics([new])[topic].result, _PATIENCE)


async def fill(context: Context, topic: str, count: int, keys: int) -> None:
    """Write records, with so many keys in turn, as fast as it goes."""
    await asyncio.to_thread(_fill, _producer(context), topic, count, keys)


async def write_paced(
    context: Context, topic: str, keys: Sequence[str], rate: float, seconds: float
) -> Sent:
    """Write so many records a second, of the keys in turn, as ``traffic.paced`` sends messages."""
    return await asyncio.to_thread(_write_paced, _producer(context), topic, keys, rate, seconds)


async def open_members(context: Context, groups: Iterable[str], tracked: bool = False) -> None:
    """Open a channel for each group, tracked or not; count what all of them receive from now on."""
    layer, notes = context.port.layer, context.notes

    async def listen(channel: str) -> None:
        receive = layer.receive
        while True:
            await receive(channel)
            notes["got"] += 1

    for group in groups:
        channel = await layer.new_channel()
        if tracked:
            layer.track(channel)
        await layer.group_add(group, channel)
        context.port._listeners.append(asyncio.create_task(listen(channel)))


async def read_stream(context: Context, stream: str, count: int, delivered: bool) -> Read:
    """Read a stream from its beginning; returns once so many records are read, or delivered."""
    layer, notes = context.port.layer, context.notes
    notes["got"] = 0
    read = (lambda: notes["got"]) if delivered else _records_of(layer, stream)
    before = read()
    await layer.seek_stream(stream, "earliest")
    await layer.resume_stream(stream)
    first = await _wait_for(lambda: read() - before, 1)
    began, cpu = time.monotonic(), _cpu_seconds(stream)
    await _wait_for(lambda: read() - before, count)
    took, used = time.monotonic() - began, _cpu_seconds(stream)
    await layer.pause_stream(stream)
    return Read(took, count - first, cpu={name: used[name] - cpu[name] for name in used})


async def pause(context: Context, stream: str) -> None:
    """Read a stream no more."""
    await context.port.layer.pause_stream(stream)


async def first_answer(context: Context, group: str) -> Read:
    """Take a channel, as the first of the server, and wait for the last record of a group."""
    layer = context.port.layer
    memory, began = _megabytes(), time.monotonic()
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    await asyncio.wait_for(layer.receive(channel), _PATIENCE)
    return Read(time.monotonic() - began, 1, _megabytes() - memory)


async def read_bare(context: Context, topic: str, count: int, decode: bool) -> Read:
    """Read a topic with a bare consumer, in a thread, and decode the records or not."""

    def take(records: Iterable[Message]) -> None:
        for record in records:
            key, value = record.key(), record.value()
            if decode:
                _decoded(key, value)

    return await asyncio.to_thread(_consume, context, topic, count, take)


async def read_smallest(context: Context, topic: str, count: int, keys: int) -> Read:
    """Read a topic into as many queues as there are keys, with a task that receives from each.

    The smallest that can be done: one call into the event loop for each batch, as ``SmallestLayer``
    makes it.
    """
    loop, got, done = asyncio.get_running_loop(), 0, asyncio.Event()
    queues: dict[bytes, asyncio.Queue[bytes]] = {
        str(key).encode(): asyncio.Queue() for key in range(keys)
    }

    def hand_over(batch: Iterable[tuple[bytes, bytes]]) -> None:
        for key, value in batch:
            queues[key].put_nowait(value)

    def take(records: Iterable[Message]) -> None:
        batch = [(record.key() or b"", record.value() or b"") for record in records]
        loop.call_soon_threadsafe(hand_over, batch)

    async def listen(key: bytes, queue: asyncio.Queue[bytes]) -> None:
        nonlocal got
        while True:
            _decoded(key, await queue.get())
            got += 1
            if got == count:
                done.set()

    listeners = [asyncio.create_task(listen(*each)) for each in queues.items()]
    began, used = time.monotonic(), time.thread_time()
    read = await asyncio.to_thread(_consume, context, topic, count, take)
    started = time.monotonic() - read.seconds - began
    await asyncio.wait_for(done.wait(), _PATIENCE)
    took = time.monotonic() - began - started
    for each in listeners:
        each.cancel()
    return read._replace(seconds=took, cpu={**read.cpu, "loop": time.thread_time() - used})


async def decode(context: Context, count: int) -> float:
    """Decode so many records as the layer's codecs do, without anything else; returns the
    microseconds of each.
    """
    key, value, decode = b"17", _value(17), json.JSONDecoder().raw_decode
    began = time.thread_time()
    for _ in range(count):
        key.decode(), decode(value.decode())
    return (time.thread_time() - began) * 1e6 / count


def _decoded(key: bytes | None, value: bytes | None) -> tuple[str, Any]:
    return (key or b"").decode(), json.loads((value or b"").decode())


def _records_of(layer: Any, stream: str) -> Callable[[], int]:
    return lambda: int(layer.stats().streams[stream]["records"])


async def _wait_for(found: Callable[[], int], count: int) -> int:
    deadline = time.monotonic() + _PATIENCE
    while (now := found()) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{now} of {count} came")
        await asyncio.sleep(0.002)
    return now


def _cpu_seconds(stream: str) -> dict[str, float]:
    """Return the seconds of processor of the thread that reads a stream, and of this one."""
    reading = next(each for each in threading.enumerate() if each.name.endswith(f"stream-{stream}"))
    clock = time.pthread_getcpuclockid(reading.ident or 0)
    return {"stream": time.clock_gettime(clock), "loop": time.thread_time()}


def _consume(
    context: Context, topic: str, count: int, take: Callable[[Sequence[Message]], object]
) -> Read:
    """Read so many records of a topic, from its beginning."""
    servers = context.spec.config["bootstrap_servers"]
    consumer = Consumer({**_PLAIN, "bootstrap.servers": servers})
    partitions = consumer.list_topics(topic, 10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    deadline, read, began, used = time.monotonic() + _PATIENCE, 0, 0.0, 0.0
    while read < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{read} of {count} were read")
        first = consumer.poll(0.1)
        if first is None:
            continue
        if not read:
            began, used = time.monotonic(), time.thread_time()
        records = [first, *consumer.consume(_BATCH, 0)]
        records = [record for record in records if record.error() is None]
        take(records)
        read += len(records)
    took, used = time.monotonic() - began, time.thread_time() - used
    consumer.close()
    return Read(took, read, cpu={"stream": used})


def _producer(context: Context) -> Producer:
    servers = context.spec.config["bootstrap_servers"]
    return Producer({"bootstrap.servers": servers, "linger.ms": 0, "acks": "all"})


def _value(number: int) -> bytes:
    return json.dumps({"n": number, "text": _TEXT}).encode()


def _fill(producer: Producer, topic: str, count: int, keys: int) -> None:
    for number in range(count):
        while True:
            try:
                producer.produce(topic, _value(number), str(number % keys))
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    if producer.flush(_PATIENCE):
        raise TimeoutError(f"{topic} was not filled")


def _write_paced(
    producer: Producer, topic: str, keys: Sequence[str], rate: float, seconds: float
) -> Sent:
    began = time.monotonic()
    for number in range(int(rate * seconds)):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        turn, sender = divmod(number, len(keys))
        producer.produce(topic, json.dumps(message(sender, turn)).encode(), keys[sender])
        producer.poll(0)
    producer.flush(_PATIENCE)
    return Sent(int(rate * seconds), began, time.monotonic())


def _megabytes() -> float:
    if sys.platform != "linux":
        return 0.0
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20
