"""Records that another program writes to the topics of streams, and who gets them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaException, Producer

from kafka_layer.layer import KafkaChannelLayer
from tests.faults.outage import PAUSES
from tests.faults.traffic import Tally, tally
from tests.support.layers import stats_of
from tests.support.streams import ForeignTopic
from tests.support.waiting import wait_until_async

__all__ = ["LIMIT", "Encode", "Flow", "Viewer", "as_json", "stream"]

LIMIT = 60.0
"""Seconds until all is there, also behind a broker's start on a busy machine."""

Encode = Callable[[dict[str, Any]], bytes]


def as_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


class Flow:
    """Writes numbered records to each partition of a topic, from a thread, as another program does.

    Args:
        topic: The topic.
        partitions: How many partitions it has.
        name: Tells the records from those of other flows.
        encode: Makes the value of a record.

    Attributes:
        partitions: As given; a test that adds some raises it.
        written: The numbers that the broker has, by name and partition, as in the records.
        made: How many records were made.
    """

    def __init__(
        self, topic: ForeignTopic, partitions: int = 1, name: str = "", encode: Encode = as_json
    ) -> None:
        self.partitions = partitions
        self.written: dict[str, list[int]] = defaultdict(list)
        self.made = 0
        self._topic, self._servers = topic.name, topic.servers
        self._name, self._encode = name, encode
        self._numbers: dict[str, int] = defaultdict(int)
        self._failed: list[object] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flow", daemon=True)

    @property
    def count(self) -> int:
        """How many records the broker has."""
        return sum(map(len, list(self.written.values())))

    def start(self) -> Flow:
        """Begin."""
        self._thread.start()
        return self

    async def goes_on(self, records: int) -> None:
        """Return when the broker has so many more."""
        goal = self.count + records
        await wait_until_async(lambda: self.count >= goal, f"{records} more records", LIMIT)

    async def piles_up(self, records: int) -> None:
        """Return when so many records wait for the broker."""
        await wait_until_async(
            lambda: self.made - self.count >= records, f"{records} records to wait", LIMIT
        )

    async def stop(self) -> None:
        """End, when the broker has all."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join, LIMIT)
        assert not self._thread.is_alive(), "records were not written"
        assert self.count == self.made, self._failed

    def _run(self) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self._servers,
                "enable.idempotence": True,
                # Or the first records of a new partition may overtake each other.
                "max.in.flight.requests.per.connection": 1,
                "linger.ms": 0,
                **PAUSES,
                "topic.metadata.refresh.interval.ms": 200,
                "log_level": 0,
            }
        )
        while not self._stop.wait(0.02):
            for partition in range(self.partitions):
                self._write(producer, partition)
            producer.poll(0)
        producer.flush(LIMIT)

    def _write(self, producer: Producer, partition: int) -> None:
        name = f"{self._name}{partition}"
        number = self._numbers[name]
        value = self._encode({"p": name, "n": number, "room": "all"})

        def note(error: object, _: object) -> None:
            if error is None:
                self.written[name].append(number)
            else:
                self._failed.append(error)

        try:
            producer.produce(self._topic, value, b"7", partition, on_delivery=note)
        except KafkaException:
            # The producer does not know the partition yet.
            return
        self._numbers[name] += 1
        self.made += 1


class Viewer:
    """Receives on a channel until it is closed.

    Attributes:
        numbers: Those that came, by name and partition, as in the records.
        others: Values of records that are of no flow.
    """

    def __init__(self, layer: KafkaChannelLayer, channel: str) -> None:
        self.numbers: dict[str, list[int]] = defaultdict(list)
        self.others: list[Any] = []
        self._layer, self._channel = layer, channel
        self._task = asyncio.create_task(self._receive())

    @classmethod
    async def opened(cls, layer: KafkaChannelLayer, group: str) -> Viewer:
        """Open a channel, add it to a group, and receive on it from now on."""
        channel = await layer.new_channel()
        await layer.group_add(group, channel)
        return cls(layer, channel)

    def check(self) -> None:
        """Raise what a receive raised."""
        if self._task.done():
            self._task.result()

    async def has_each_once_in_order(self, *written: Mapping[str, Sequence[int]]) -> None:
        """Wait until all numbers that were written are there; fail if one lacks or is too much."""
        wanted = {name: numbers for each in written for name, numbers in each.items()}

        def has_all() -> bool:
            self.check()
            return all(set(numbers) <= set(self.numbers[name]) for name, numbers in wanted.items())

        what = "all records to come"
        with contextlib.suppress(TimeoutError):
            await wait_until_async(has_all, what, LIMIT, pause=0.05)
        got = {name: tally(wanted.get(name, ()), came) for name, came in self.numbers.items()}
        expected = {name: Tally(len(numbers), 0, 0, 0) for name, numbers in wanted.items()}
        assert got == expected, (stats_of(self._layer), self._layer.stats().streams)

    async def close(self) -> None:
        """Stop receiving."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _receive(self) -> None:
        while True:
            value = (await self._layer.receive(self._channel))["value"]
            if isinstance(value, dict) and "p" in value:
                self.numbers[value["p"]].append(value["n"])
            else:
                self.others.append(value)


def stream(topic: str, group: str | None, **more: Any) -> dict[str, Any]:
    """Return the settings of a stream, of which a late start leaves out nothing."""
    return {
        "topic": topic,
        "group": group,
        "type": "order.changed",
        "start": "earliest",
        **more,
    }
