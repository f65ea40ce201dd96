"""Streams on a Kafka that fails: no record is lost, comes twice or overtakes another."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from kafka_layer.layer import KafkaChannelLayer
from tests.faults.flows import Flow, Viewer, as_json, stream
from tests.support.kafka import RealBroker
from tests.support.layers import Layers
from tests.support.registry import SchemaRegistry, running_registry
from tests.support.streams import SOON, ForeignTopic, wait_for_state


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
        other = b'{"p": "other", "n": 0, "room": "all"}'
        await asyncio.to_thread(topic.write, other)
        await flow.goes_on(100)
        codec.knows = True
        await layer.resume_stream("stops")
        await flow.goes_on(50)
        await flow.stop()
        await viewer.has_each_once_in_order(flow.written, {"other": [0]})
        errors = {"undecodable": 1, "template": 1, "name": 1}
        await wait_for_state(layer, "skips", "reading", errors=errors, partitions=3)
        await strict.has_each_once_in_order(flow.written, {"other": [0]})
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
