"""What worker processes do in the subject on streams: write as others do, read and count."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from .workers import Context

_TEXT = "The quick brown fox jumps over the lazy dog. " * 2
_PATIENCE = 60.0
_PLAIN = {"group.id": "bare", "enable.auto.commit": False, "fetch.queue.backoff.ms": 5}

STREAM = {"group": "order-{key}", "type": "order.changed"}
"""The settings of the streams, but for their topics."""


class Read(NamedTuple):
    """How long it took to read so many records, from the first to the last, and how much more
    memory was used, in MB.
    """

    seconds: float
    records: int
    megabytes: float = 0.0


async def create(context: Context, topic: str, partitions: int, compact: bool = False) -> None:
    """Create a topic."""
    admin = AdminClient({"bootstrap.servers": context.spec.config["bootstrap_servers"]})
    config = {"cleanup.policy": "compact" if compact else "delete"}
    new = NewTopic(topic, partitions, 1, config=config)
    await asyncio.to_thread(admin.create_topics([new])[topic].result, _PATIENCE)


async def fill(context: Context, topic: str, count: int, keys: int) -> None:
    """Write records, with so many keys in turn, as fast as it goes."""
    await asyncio.to_thread(_fill, _producer(context), topic, count, keys)


async def write_paced(context: Context, topic: str, rate: float, seconds: float) -> None:
    """Write so many records a second of one key, each with the time of its writing."""
    await asyncio.to_thread(_write_paced, _producer(context), topic, rate, seconds)


async def send_paced(context: Context, group: str, rate: float, seconds: float) -> None:
    """Send as many messages to a group, with the same content."""
    began = time.monotonic()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        content = {"n": number, "text": _TEXT, "t": time.monotonic()}
        await context.port.layer.group_send(group, {"type": "order.changed", "value": content})


async def open_members(context: Context, groups: Sequence[str]) -> None:
    """Open a channel for each group, and count what each receives from now on."""
    layer = context.port.layer
    context.notes |= {"got": 0, "last": 0.0, "ages": []}
    for group in groups:
        channel = await layer.new_channel()
        await layer.group_add(group, channel)
        listener = asyncio.create_task(_listen(context.notes, layer, channel))
        context.port._listeners.append(listener)


async def ages(context: Context, count: int) -> list[float]:
    """Wait for so many messages; return the seconds that each was on its way."""
    await _wait_for(context, count)
    found: list[float] = context.notes["ages"]
    context.notes |= {"got": 0, "ages": []}
    return found


async def read_stream(context: Context, stream: str, count: int, delivered: bool) -> Read:
    """Read a stream from its beginning; returns once so many records are read, or delivered."""
    layer, notes = context.port.layer, context.notes
    notes |= {"got": 0, "ages": []}
    before = layer.stats().streams[stream]["records"]
    await layer.seek_stream(stream, "earliest")
    await layer.resume_stream(stream)
    if delivered:
        await _wait_for(context, count)
        return Read(notes["last"] - notes["first"], count)
    deadline, first, at = time.monotonic() + _PATIENCE, 0, 0.0
    while (read := layer.stats().streams[stream]["records"] - before) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{layer.stats().streams[stream]}")
        if read and not first:
            first, at = read, time.monotonic()
        await asyncio.sleep(0.001)
    return Read(time.monotonic() - at, count - first)


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
    return await asyncio.to_thread(_read_bare, context, topic, count, decode)


async def _listen(notes: dict[str, Any], layer: Any, channel: str) -> None:
    receive = layer.receive
    while True:
        message = await receive(channel)
        now = notes["last"] = time.monotonic()
        if not notes["got"]:
            notes["first"] = now
        notes["got"] += 1
        written = message["value"].get("t")
        if written is not None:
            notes["ages"].append(now - written)


async def _wait_for(context: Context, count: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while context.notes["got"] < count:
        if time.monotonic() > deadline:
            got = context.notes["got"]
            raise TimeoutError(f"{got} of {count} came; {context.port.layer.stats()}")
        await asyncio.sleep(0.005)


def _read_bare(context: Context, topic: str, count: int, decode: bool) -> Read:
    servers = context.spec.config["bootstrap_servers"]
    consumer = Consumer({**_PLAIN, "bootstrap.servers": servers})
    partitions = consumer.list_topics(topic, 10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    deadline, read, began = time.monotonic() + _PATIENCE, 0, 0.0
    while read < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{read} of {count} were read")
        first = consumer.poll(0.1)
        if first is None:
            continue
        if not read:
            began = time.monotonic()
        records = [first, *consumer.consume(100, 0)]
        for record in records:
            if record.error() is None:
                read += 1
                _take(record, decode)
    took = time.monotonic() - began
    consumer.close()
    return Read(took, read)


def _take(record: Message, decode: bool) -> object:
    key, value = record.key(), record.value()
    if not decode:
        return key, value
    return (key or b"").decode(), json.loads((value or b"").decode())


def _producer(context: Context) -> Producer:
    servers = context.spec.config["bootstrap_servers"]
    return Producer({"bootstrap.servers": servers, "linger.ms": 0, "acks": "all"})


def _fill(producer: Producer, topic: str, count: int, keys: int) -> None:
    for number in range(count):
        value = json.dumps({"n": number, "text": _TEXT}).encode()
        while True:
            try:
                producer.produce(topic, value, str(number % keys))
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    if producer.flush(_PATIENCE):
        raise TimeoutError(f"{topic} was not filled")


def _write_paced(producer: Producer, topic: str, rate: float, seconds: float) -> None:
    began = time.monotonic()
    for number in range(int(rate * seconds)):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        content = {"n": number, "text": _TEXT, "t": time.monotonic()}
        producer.produce(topic, json.dumps(content).encode(), "paced")
        producer.poll(0)
    producer.flush(_PATIENCE)


def _megabytes() -> float:
    if sys.platform != "linux":
        return 0.0
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20
