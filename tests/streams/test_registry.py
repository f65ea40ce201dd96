"""Codecs with a schema registry: the registry's own protocol over HTTP, and each way it fails."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kafka_layer.exceptions import RegistryAway, TopicError, UnreadableRecord
from kafka_layer.streams.codecs import CodecContext
from kafka_layer.streams.registry import Registry, RegistryCodec
from tests.support.registry import SchemaRegistry, running_registry
from tests.support.tables import for_each
from tests.support.waiting import PATIENCE, wait_until

from .records import record
from .shop_pb2 import SCHEMA, Order

AVRO = json.dumps(
    {
        "type": "record",
        "name": "Order",
        "fields": [
            {"name": "owner_id", "type": "string"},
            {"name": "total", "type": "long", "default": 0},
            {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
        ],
    }
)
JSON = json.dumps(
    {
        "title": "Order",
        "type": "object",
        "properties": {"owner_id": {"type": "string"}, "total": {"type": "integer"}},
        "required": ["owner_id"],
        "additionalProperties": False,
    }
)
VALUE = CodecContext("shop.orders", "value")
KINDS = ("avro", "json-schema", "protobuf")


@pytest.fixture
def registry() -> Iterator[SchemaRegistry]:
    with running_registry() as running:
        running.register("shop.orders-value", AVRO)
        yield running


def register(registry: SchemaRegistry, kind: str, subject: str = "orders-value") -> CodecContext:
    """Register the schema of a kind; return a context whose subject is its own."""
    schema, name = {
        "avro": (AVRO, "AVRO"),
        "json-schema": (JSON, "JSON"),
        "protobuf": (SCHEMA, "PROTOBUF"),
    }[kind]
    topic, _, part = subject.rpartition("-")
    registry.register(subject, schema, name)
    return CodecContext(topic, "value" if part == "value" else "key")


def codec(
    registry: SchemaRegistry, kind: str = "avro", timeout: float = PATIENCE, unknown: float = 3600.0
) -> RegistryCodec:
    message = Order if kind == "protobuf" else None
    # Without certificates, whose loading would take longer than the tests.
    settings = {"url": registry.url, "ssl.ca.location": False}
    return RegistryCodec(kind, Registry(settings, timeout, unknown), message)


@pytest.mark.parametrize(
    ("kind", "decoded"),
    [
        ("avro", {"owner_id": "ü", "total": 7, "tags": []}),
        ("json-schema", {"owner_id": "ü", "total": 7}),
        # Protobuf's JSON form writes integers of 64 bits as text.
        ("protobuf", {"owner_id": "ü", "total": "7", "tags": []}),
    ],
)
def test_both_ways_with_one_question_for_each(
    registry: SchemaRegistry, kind: str, decoded: dict[str, Any]
) -> None:
    context = register(registry, kind)
    writing, reading = codec(registry, kind), codec(registry, kind)

    for _ in range(3):
        data = writing.encode({"owner_id": "ü", "total": 7}, context)
        assert data[:5] == b"\0\0\0\0" + (b"\x01" if kind == "avro" else b"\x02")
        assert reading.decode(data, context) == decoded

    assert registry.asked == [
        "GET /subjects/orders-value/versions/latest",
        f"GET /schemas/ids/{data[4]}",
    ]


def test_golden_bytes_of_avro(registry: SchemaRegistry) -> None:
    """As Confluent's clients write them: a zero, the id in four bytes, then Avro's own bytes."""
    golden = b"\0\0\0\0\x01" + b"\x02a" + b"\x0e" + b"\x02\x02t\0"

    assert codec(registry).decode(golden, VALUE) == {"owner_id": "a", "total": 7, "tags": ["t"]}
    assert codec(registry).encode({"owner_id": "a", "total": 7, "tags": ["t"]}, VALUE) == golden


def test_a_record_is_read_with_the_schema_that_it_was_written_with(
    registry: SchemaRegistry,
) -> None:
    old = codec(registry).encode({"owner_id": "a"}, VALUE)
    newer = json.loads(AVRO)
    newer["fields"].append({"name": "note", "type": "string", "default": ""})
    registry.register("shop.orders-value", json.dumps(newer))
    reading = codec(registry)

    assert "note" not in reading.decode(old, VALUE)
    new = codec(registry).encode({"owner_id": "a", "note": "n"}, VALUE)
    assert reading.decode(new, VALUE)["note"] == "n"


def test_a_key_has_a_subject_of_its_own(registry: SchemaRegistry) -> None:
    context = register(registry, "avro", "shop.orders-key")

    codec(registry).encode({"owner_id": "a"}, context)

    assert registry.asked == ["GET /subjects/shop.orders-key/versions/latest"]


def test_a_protobuf_message_can_be_sent_as_it_is(registry: SchemaRegistry) -> None:
    context = register(registry, "protobuf")
    proto = codec(registry, "protobuf")

    message = Order(owner_id="a", total=7)

    assert proto.encode(message, context) == proto.encode({"owner_id": "a", "total": 7}, context)


@for_each("kind", KINDS)
@for_each(
    "data",
    [b"", b"\0", b"poison that is long enough", b"\0\0\0\0", b'{"owner_id":"a"}'],
)
def test_poison_is_undecodable(registry: SchemaRegistry, kind: str, data: bytes) -> None:
    with pytest.raises(UnreadableRecord, match="its value is no") as caught:
        codec(registry, kind).decode(data, VALUE)

    assert caught.value.cause == "undecodable"


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_schema_and_a_broken_body_is_undecodable(
    registry: SchemaRegistry, kind: str
) -> None:
    context = register(registry, kind)
    data = codec(registry, kind).encode({"owner_id": "a long enough owner"}, context)

    with pytest.raises(UnreadableRecord) as caught:
        codec(registry, kind).decode(data[:-9], context)

    assert caught.value.cause == "undecodable"


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_schema_has_a_cause_of_its_own(registry: SchemaRegistry, kind: str) -> None:
    with pytest.raises(UnreadableRecord, match="40403") as caught:
        codec(registry, kind).decode(b"\0\0\0\0\x63\0\0", VALUE)

    assert caught.value.cause == "schema"


class TestUnknown:
    """A schema that the registry does not know is not asked for with each record that names it."""

    # With a body that fits whatever schema 2 will be.
    RECORD = b"\0\0\0\0\x02" + b"\0\0\0\0"

    def decode(self, asking: RegistryCodec, data: bytes = RECORD) -> Any:
        try:
            return asking.decode(data, VALUE)
        except UnreadableRecord as error:
            return f"{error.cause}: {error}"

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_is_asked_once_for_many_records(self, registry: SchemaRegistry, kind: str) -> None:
        asking = codec(registry, kind)
        said = {self.decode(asking) for _ in range(3)}
        assert [each[:8] for each in said] == ["schema: "]
        assert "40403" in said.pop()
        assert len(registry.asked) == 1
        # Another schema is another question.
        self.decode(asking, b"\0\0\0\0\x63\0\0")
        assert len(registry.asked) == 2

    def test_it_is_asked_again_after_a_while(self, registry: SchemaRegistry) -> None:
        asking = codec(registry, unknown=0.05)
        self.decode(asking)
        newer = json.loads(AVRO)
        newer["fields"].append({"name": "note", "type": "string", "default": ""})
        registry.register("shop.orders-value", json.dumps(newer))
        wait_until(
            lambda: isinstance(self.decode(asking), dict), "the schema to be asked for again"
        )

    def test_it_is_asked_again_where_somebody_wants_that(self, registry: SchemaRegistry) -> None:
        asking = codec(registry)
        for _ in range(2):
            self.decode(asking)
            asking.forget_unknown()
        assert len(registry.asked) == 2

    def test_so_many_are_remembered_at_most(
        self, registry: SchemaRegistry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kafka_layer.streams.registry._MOST_UNKNOWN", 2)
        asking = codec(registry)
        for number in (2, 3, 3, 4, 2):
            self.decode(asking, b"\0\0\0\0" + bytes([number, 0]))
        assert [each.rpartition("/")[2] for each in registry.asked] == ["2", "3", "4", "2"]

    def test_who_writes_asks_each_time(self, registry: SchemaRegistry) -> None:
        bills = CodecContext("bills", "value")
        writing = codec(registry)
        with pytest.raises(TopicError, match="register it"):
            writing.encode({"owner_id": "a"}, bills)
        registry.register("bills-value", AVRO)
        assert writing.encode({"owner_id": "a"}, bills)

    def test_a_registry_that_is_away_is_asked_each_time(self, registry: SchemaRegistry) -> None:
        asking = codec(registry)
        registry.status = 503
        for _ in range(2):
            with pytest.raises(RegistryAway):
                asking.decode(b"\0\0\0\0\x01\x02a\0\0", VALUE)
        registry.status = None
        assert self.decode(asking, b"\0\0\0\0\x01\x02a\0\0")["owner_id"] == "a"


@for_each(
    ("kind", "obj"),
    [
        ("avro", {"owner_id": 5}),
        ("avro", {}),
        ("avro", {"owner_id": "a", "onwer": "typing error"}),
        ("avro", "text"),
        ("json-schema", {"owner_id": 5}),
        ("json-schema", {}),
        ("json-schema", {"owner_id": "a", "onwer": "typing error"}),
        ("json-schema", {"owner_id": "a", "total": object()}),
        ("protobuf", {"owner_id": 5}),
        ("protobuf", {"onwer": "typing error"}),
        ("protobuf", "text"),
    ],
)
def test_what_does_not_fit_the_schema_is_refused(
    registry: SchemaRegistry, kind: str, obj: Any
) -> None:
    context = register(registry, kind)

    with pytest.raises(TypeError, match="does not fit its"):
        codec(registry, kind).encode(obj, context)


@pytest.mark.parametrize("kind", KINDS)
def test_a_topic_without_a_schema_is_not_written(registry: SchemaRegistry, kind: str) -> None:
    with pytest.raises(TopicError, match="no schema for 'bills-value': register it"):
        codec(registry, kind).encode({"owner_id": "a"}, CodecContext("bills", "value"))

    assert not [each for each in registry.asked if each.startswith("POST")]


def test_a_schema_may_refer_to_another_and_waits_for_both(registry: SchemaRegistry) -> None:
    address = {"type": "record", "name": "Address", "fields": [{"name": "town", "type": "string"}]}
    fields = [{"name": "to", "type": "Address"}]
    registry.register("address", json.dumps(address))
    registry.register(
        "parcels-value",
        json.dumps({"type": "record", "name": "Parcel", "fields": fields}),
        references=[{"name": "Address", "subject": "address", "version": 1}],
    )
    context = CodecContext("parcels", "value")
    data = codec(registry).encode({"to": {"town": "Bonn"}}, context)
    assert codec(registry).decode(data, context) == {"to": {"town": "Bonn"}}

    reading = codec(registry)
    registry.fails_on = "/subjects/address/"
    with pytest.raises(RegistryAway, match="503"):
        reading.decode(data, context)
    registry.fails_on = None
    assert reading.decode(data, context) == {"to": {"town": "Bonn"}}


class TestAway:
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_is_asked_again_when_it_is_back(self, registry: SchemaRegistry, kind: str) -> None:
        context = register(registry, kind)
        data = codec(registry, kind).encode({"owner_id": "a"}, context)
        reading = codec(registry, kind)
        registry.go_away()

        for ask in (lambda: reading.decode(data, context), lambda: reading.encode({}, context)):
            with pytest.raises(RegistryAway, match=registry.url.removeprefix("http://")):
                ask()
        registry.come_back()

        assert reading.decode(data, context)["owner_id"] == "a"
        assert reading.encode({"owner_id": "a"}, context) == data

    def test_what_is_known_needs_no_registry(self, registry: SchemaRegistry) -> None:
        known = codec(registry)
        data = known.encode({"owner_id": "a"}, VALUE)
        known.decode(data, VALUE)
        registry.go_away()

        assert known.decode(known.encode({"owner_id": "b"}, VALUE), VALUE)["owner_id"] == "b"

    def test_one_that_hangs_is_away_after_a_bounded_time(self, registry: SchemaRegistry) -> None:
        registry.answers_nothing = True
        started = time.monotonic()

        with pytest.raises(RegistryAway, match="does not answer"):
            codec(registry, timeout=0.4).decode(b"\0\0\0\0\x01\0\0", VALUE)

        assert 0.15 < time.monotonic() - started < PATIENCE

    @for_each("status", [401, 403, 404, 429, 500, 503])
    def test_an_answer_that_is_none_drops_nothing(
        self, registry: SchemaRegistry, status: int
    ) -> None:
        registry.status = status
        away = codec(registry)

        with pytest.raises(RegistryAway, match=f"answers: .*{status}"):
            away.decode(b"\0\0\0\0\x01\x02a\0\0", VALUE)
        registry.status = None

        assert away.decode(b"\0\0\0\0\x01\x02a\0\0", VALUE)["owner_id"] == "a"

    def test_another_server_of_the_same_registry_answers(self, registry: SchemaRegistry) -> None:
        with running_registry() as gone:
            gone.go_away()
            both = Registry({"url": f"{gone.url},{registry.url}"})

            assert RegistryCodec("avro", both).decode(b"\0\0\0\0\x01\x02a\0\0", VALUE)

    def test_no_error_shows_credentials(self) -> None:
        secret = Registry({"url": "http://user:secret@127.0.0.1:9"}, 1.0)

        with pytest.raises(RegistryAway, match=r"127\.0\.0\.1:9") as caught:
            RegistryCodec("avro", secret).decode(b"\0\0\0\0\x01\0\0", VALUE)

        assert "secret" not in f"{caught.value} {caught.value.__cause__!r}"


async def test_no_event_loop_waits_for_a_registry(registry: SchemaRegistry) -> None:
    asked = codec(registry)

    for ask in (asked.decode, asked.encode):
        with pytest.raises(RuntimeError, match="must not block an event loop"):
            ask(b"\0\0\0\0\x01\x02a\0\0", VALUE)
    assert registry.asked == []


def test_a_receiver_gets_a_copy_without_the_registry(registry: SchemaRegistry) -> None:
    came = record(b"\0\0\0\0\x01\x02a\0\0", value_codec=codec(registry))
    assert came.value["owner_id"] == "a"
    registry.go_away()

    assert came.new_value() == came.value
    assert came.new_value() is not came.value


def test_a_child_process_has_a_client_of_its_own(
    registry: SchemaRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Registry({"url": registry.url})
    parents = server.client()
    child = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: child)

    assert server.client() is server.client() is not parents


def test_properties_that_cannot_work_are_refused_at_once() -> None:
    for properties in ({}, {"url": "registry:8081"}, {"url": "http://a", "tiemout": 1}):
        with pytest.raises(ValueError, match=r"url|Invalid|Unrecognized"):
            Registry(properties)
