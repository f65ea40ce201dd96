"""Streams on a Kafka that fails: no record is lost, comes twice or overtakes another."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaException, Producer

from kafka_layer.layer import KafkaChannelLayer
from tests.faults.conftest import LayersOn
from tests.faults.outage import Outage
from tests.faults.traffic import NO_BLOCKING, Inbox, Stream, Tally, tally
from tests.support.kafka import RealBroker
from tests.support.layers import Layers, stats_of
from tests.support.records import console_produce
from tests.support.registry import SchemaRegistry, running_registry
from tests.support.streams import SOON, ForeignTopic, state_of, wait_for_state
from tests.support.waiting import wait_until_async

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
                "reconnect.backoff.max.ms": 500,
                "topic.metadata.refresh.interval.ms": 200,
                "log_level": 0,
            }
        )
        while not self._stop.wait(0.01):
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


class TestAKilledBroker:
    """It ends without a word while records are written, and comes back after some seconds."""

    async def test_all_that_was_written_arrives(
        self,
        broker: RealBroker,
        make_layer: Layers,
        layers_on: LayersOn,
        kafka: str,
        prefix: str,
    ) -> None:
        # One layer reads the topics of all courses: each client looks for the broker all the time.
        topics = [ForeignTopic(make_layer(), prefix) for _ in range(5)]
        orders, missing, anew, far, shared = topics
        channel = f"orders-to-db-{secrets.token_hex(4)}"
        streams = {
            "orders": stream(orders.name, "orders"),
            "missing": stream(missing.name, "missing"),
            "anew": stream(anew.name, "anew"),
            "shared": stream(shared.name, None, worker_channel=channel),
        }
        layer = make_layer(streams=streams, timings=SOON)
        await asyncio.to_thread(orders.create, 2)
        for topic in (anew, far, shared):
            await asyncio.to_thread(topic.create)
        await Outage(broker.kill, broker.start).run(
            functools.partial(self.records_of_two_partitions, layer, orders),
            functools.partial(self.of_a_topic_that_does_not_exist_yet, layer, missing),
            functools.partial(self.of_a_topic_that_is_made_anew, layer, anew),
            functools.partial(self.of_another_cluster, layers_on(kafka), far),
            functools.partial(self.what_a_worker_gets, layer, shared, channel),
        )

    async def records_of_two_partitions(
        self, layer: KafkaChannelLayer, topic: ForeignTopic, outage: Outage
    ) -> None:
        viewer = await Viewer.opened(layer, "orders")
        flow = Flow(topic, 2).start()
        await flow.goes_on(50)
        await outage.begins()
        await flow.piles_up(100)
        await outage.ends()
        await flow.goes_on(200)
        await flow.stop()
        await viewer.has_each_once_in_order(flow.written)
        await wait_for_state(layer, "orders", "reading", errors={}, delivered=flow.count)
        await viewer.close()

    async def of_a_topic_that_does_not_exist_yet(
        self, layer: KafkaChannelLayer, topic: ForeignTopic, outage: Outage
    ) -> None:
        viewer = await Viewer.opened(layer, "missing")
        await wait_for_state(layer, "missing", "waiting")
        await outage.begins()
        await wait_until_async(lambda: layer.stats().state == "disconnected", "the outage")
        await outage.ends()
        await asyncio.to_thread(topic.create)
        flow = Flow(topic).start()
        await flow.goes_on(50)
        await flow.stop()
        await viewer.has_each_once_in_order(flow.written)
        await viewer.close()

    async def of_a_topic_that_is_made_anew(
        self, layer: KafkaChannelLayer, topic: ForeignTopic, outage: Outage
    ) -> None:
        """With the lower leader epoch of a topic that saw no start of a broker."""
        viewer = await Viewer.opened(layer, "anew")
        old = Flow(topic, name="old").start()
        await old.goes_on(50)
        await outage.begins()
        await outage.ends()
        await old.goes_on(50)
        await old.stop()
        await viewer.has_each_once_in_order(old.written)
        await asyncio.to_thread(topic.delete)
        await wait_until_async(
            lambda: state_of(layer, "anew")["topics"] == 0, "it to be gone", LIMIT
        )
        await asyncio.to_thread(topic.create)
        new = Flow(topic, name="new").start()
        await new.goes_on(50)
        await new.stop()
        await viewer.has_each_once_in_order(old.written, new.written)
        await viewer.close()

    async def of_another_cluster(self, near: Layers, topic: ForeignTopic, outage: Outage) -> None:
        streams = {"far": stream(topic.name, "all", bootstrap_servers=topic.servers)}
        layer = near(streams=streams)
        viewer = await Viewer.opened(layer, "all")
        inbox = await Inbox.opened(layer, "room")
        own = Stream(layer, "room", [inbox])
        own.start()
        await layer.produce("far", {"p": "django", "n": 0})
        flow = Flow(topic).start()
        await flow.goes_on(50)
        await outage.begins()
        await flow.piles_up(100)
        # It waits for the other cluster alone.
        await layer.produce("far", {"p": "django", "n": 1})
        late = near(streams=streams)
        late_viewer = await Viewer.opened(late, "all")
        await wait_for_state(late, "far", "waiting")
        await own.goes_on(100)
        for each in (layer, late):
            assert (each.stats().state, each.stats().reconnects) == ("connected", 0)
        await outage.ends()
        await flow.goes_on(200)
        await flow.stop()
        for each in (viewer, late_viewer):
            await each.has_each_once_in_order(flow.written, {"django": [0, 1]})
            await each.close()
        await own.settled([inbox])
        assert own.tallies([inbox]) == [Tally(len(own.accepted), 0, 0, 0)] * 2
        assert own.longest < NO_BLOCKING
        await inbox.close()

    async def what_a_worker_gets(
        self, layer: KafkaChannelLayer, topic: ForeignTopic, channel: str, outage: Outage
    ) -> None:
        """At most once: what a commit without an answer puts in doubt is counted."""
        worker = Viewer(layer, channel)
        flow = Flow(topic).start()
        await wait_until_async(lambda: len(worker.numbers["0"]) >= 20, "the first ones", LIMIT)
        await outage.begins()
        await flow.piles_up(50)
        await outage.ends()
        await flow.goes_on(100)
        await flow.stop()

        def done() -> list[int]:
            worker.check()
            return worker.numbers["0"]

        def doubtful() -> int:
            return stats_of(layer)["dropped.doubtful"]

        await wait_until_async(
            lambda: len(set(done())) + doubtful() >= flow.count,
            f"{flow.count} records to be done",
            LIMIT,
            pause=0.1,
        )
        # It has one receive, so a commit without an answer puts one record in doubt: that of the
        # outage, and where its session ended on a slow machine, perhaps another one.
        told = tally(flow.written["0"], done())
        assert told.lost <= doubtful() <= 2
        assert (told.twice, told.disordered) == (0, 0)
        await worker.close()


class Mended:
    """A codec that does not know one value, until it is mended."""

    def __init__(self) -> None:
        self.knows = False

    def decode(self, data: bytes) -> Any:
        return "mended" if self.knows and data == b"no JSON" else json.loads(data)


class TestRecordsAndTopics:
    """While records are written, some cannot be read, and topics change."""

    async def test_none_of_the_others_is_harmed(
        self, broker: RealBroker, make_layer: Layers, prefix: str
    ) -> None:
        changing = f"{prefix}-changing"
        orders, bills = (ForeignTopic(make_layer(), prefix) for _ in range(2))
        first, second = (ForeignTopic(make_layer(), changing) for _ in range(2))
        codec = Mended()
        with running_registry() as registry:
            avro = {
                "value": "avro",
                "schema_registry": {"url": registry.url, "ssl.ca.location": False},
            }
            layer = make_layer(
                streams={
                    "skips": stream(orders.name, "{value.room}"),
                    "stops": stream(orders.name, "strict", on_error="stop", value=codec),
                    "bills": stream(bills.name, "bills", on_error="stop", **avro),
                    "changing": stream(f"^foreign-{re.escape(changing)}-", "changing"),
                },
                timings=SOON,
            )
            await asyncio.to_thread(orders.create, 2)
            for topic in (bills, first):
                await asyncio.to_thread(topic.create)
            await asyncio.gather(
                self.poison_and_a_new_partition(layer, orders, codec),
                self.a_registry_that_is_away_and_an_unknown_schema(layer, bills, registry),
                self.topics_that_come_and_go(layer, first, second),
            )

    async def poison_and_a_new_partition(
        self, layer: KafkaChannelLayer, topic: ForeignTopic, codec: Mended
    ) -> None:
        viewer, strict = await Viewer.opened(layer, "all"), await Viewer.opened(layer, "strict")
        flow = Flow(topic, 2).start()
        await flow.goes_on(50)
        poison = (b"no JSON", b'{"none": 1}', b'{"room": ""}')
        await asyncio.to_thread(topic.write, *poison, partition=1)
        told = await wait_for_state(layer, "stops", "stopped", errors={"undecodable": 1})
        assert f"{topic.name}[1] at offset" in told["detail"]
        await asyncio.to_thread(topic.add_partitions, 3)
        flow.partitions = 3
        lines = b'7:{"p": "console", "n": 0, "room": "all"}\n'
        await asyncio.to_thread(console_produce, topic.servers, topic.name, lines)
        await flow.goes_on(100)
        codec.knows = True
        await layer.resume_stream("stops")
        await flow.goes_on(50)
        await flow.stop()
        await viewer.has_each_once_in_order(flow.written, {"console": [0]})
        errors = {"undecodable": 1, "template": 1, "name": 1}
        await wait_for_state(layer, "skips", "reading", errors=errors, partitions=3)
        await strict.has_each_once_in_order(flow.written, {"console": [0]})
        assert strict.others == ["mended", {"none": 1}, {"room": ""}]
        await wait_for_state(layer, "stops", "reading", errors={"undecodable": 1})
        for each in (viewer, strict):
            await each.close()

    async def a_registry_that_is_away_and_an_unknown_schema(
        self, layer: KafkaChannelLayer, topic: ForeignTopic, registry: SchemaRegistry
    ) -> None:
        subject = f"{topic.name}-value"
        schema = registry.register(subject, avro_schema("Bill"))
        viewer = await Viewer.opened(layer, "bills")
        registry.go_away()
        flow = Flow(topic, encode=lambda value: as_avro(schema, value)).start()
        await wait_for_state(layer, "bills", "held up")
        await flow.goes_on(50)
        registry.come_back()
        await wait_for_state(layer, "bills", "reading", errors={})
        await flow.goes_on(50)
        # Nobody has registered it yet.
        unknown = schema + 1
        late = as_avro(unknown, {"p": "late", "n": 0})
        await asyncio.to_thread(topic.write, late)
        await wait_for_state(layer, "bills", "stopped", errors={"schema": 1})
        assert registry.register(subject, avro_schema("Late")) == unknown
        await flow.goes_on(50)
        await layer.resume_stream("bills")
        await flow.stop()
        await viewer.has_each_once_in_order(flow.written, {"late": [0]})
        await wait_for_state(layer, "bills", "reading", errors={"schema": 1})
        await viewer.close()

    async def topics_that_come_and_go(
        self, layer: KafkaChannelLayer, first: ForeignTopic, second: ForeignTopic
    ) -> None:
        viewer = await Viewer.opened(layer, "changing")
        old = {"old": list(range(500))}
        values = [as_json({"p": "old", "n": number}) for number in old["old"]]
        await asyncio.to_thread(first.write, *values)
        await viewer.has_each_once_in_order(old)
        await asyncio.to_thread(second.create)
        flow = Flow(second, name="second").start()
        # So it looked at the first one, too, since all of that was read.
        await wait_for_state(layer, "changing", "reading", topics=2)
        await asyncio.to_thread(first.delete)
        await asyncio.to_thread(first.create)
        anew = Flow(first, name="anew").start()
        await anew.goes_on(100)
        await flow.stop()
        await anew.stop()
        await viewer.has_each_once_in_order(old, flow.written, anew.written)
        await wait_for_state(layer, "changing", "reading", topics=2, errors={})
        await viewer.close()


def avro_schema(name: str) -> str:
    fields = [{"name": "p", "type": "string"}, {"name": "n", "type": "long"}]
    return json.dumps({"type": "record", "name": name, "fields": fields})


def as_avro(schema: int, value: dict[str, Any]) -> bytes:
    """Return a value as Confluent's serializer writes it, which would ask the registry."""
    text = value["p"].encode()
    return b"\0" + schema.to_bytes(4, "big") + varint(len(text)) + text + varint(value["n"])


def varint(number: int) -> bytes:
    """Return a positive number as Avro writes it."""
    left = number << 1
    written = b""
    while left > 0x7F:
        written += bytes([left & 0x7F | 0x80])
        left >>= 7
    return written + bytes([left])
