"""A record: decoded lazily and once, and for each receiver an object of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kafka_layer.exceptions import UnreadableRecord
from kafka_layer.streams.codecs import CODECS
from kafka_layer.streams.payload import StreamPayload, message_of
from kafka_layer.wire.topics import StreamTopic
from tests.support.tables import for_each

from .records import CountingCodec, record


def test_each_part_is_decoded_once_when_it_is_asked_for() -> None:
    keys, values = CountingCodec(CODECS["str"]), CountingCodec(CODECS["json"])
    came = record(b'{"a":1}', key_codec=keys, value_codec=values)
    assert (keys.decoded, values.decoded) == (0, 0)

    assert came.key == came.key == "7"
    assert (keys.decoded, values.decoded) == (1, 0)

    assert came.value is came.value
    assert (keys.decoded, values.decoded) == (1, 1)


def test_what_is_not_there_is_none_and_is_not_decoded() -> None:
    keys, values = CountingCodec(CODECS["str"]), CountingCodec(CODECS["json"])
    came = record(None, None, [("h", None)], key_codec=keys, value_codec=values)

    assert came.key is came.value is came.new_key() is came.new_value() is None
    assert came.headers == {"h": None}
    assert (keys.decoded, values.decoded) == (0, 0)


def test_an_empty_key_is_a_key() -> None:
    assert record(key=b"").key == ""


def test_a_part_that_cannot_be_decoded_leaves_the_other_one_readable() -> None:
    came = record(b"poison")

    for _ in range(2):
        with pytest.raises(UnreadableRecord, match="value"):
            _ = came.value
    assert came.key == "7"


@pytest.mark.parametrize("blocking", [False, True])
def test_each_receiver_gets_an_object_of_its_own(blocking: bool) -> None:
    values = CountingCodec(CODECS["json"])
    values.blocking = blocking
    came = record(b'{"a":[1]}', b'{"k":[]}', key_codec=values, value_codec=values)
    assert (came.value, came.key) == ({"a": [1]}, {"k": []})

    for _ in range(3):
        value, key = came.new_value(), came.new_key()
        assert (value, key) == ({"a": [1]}, {"k": []})
        value["a"].append(2)
        key["k"].append(2)
    assert (came.value, came.key) == ({"a": [1]}, {"k": []})


def test_the_first_receiver_gets_what_was_decoded_for_the_templates() -> None:
    values = CountingCodec(CODECS["json"])
    came = record(b'{"a":1}', value_codec=values)

    assert came.new_value() is not came.new_value()
    assert values.decoded == 2
    decoded = came.value
    assert came.new_value() is decoded
    assert values.decoded == 3
    assert came.value is not decoded


def test_a_receiver_on_an_event_loop_asks_no_registry_again() -> None:
    values = CountingCodec(CODECS["json"])
    values.blocking = True
    came = record(b'{"a":1}', value_codec=values)
    assert came.value == {"a": 1}

    assert came.new_value() == came.new_value() == {"a": 1}
    assert values.decoded == 1


@for_each("value", [b'{"a":[1]}', None])
@for_each("key", [b"7", None])
@for_each("headers", [(), [("h", b"x"), ("h", b"\xff"), ("n", None)]])
@for_each("tombstone", ["order.deleted", None])
def test_the_message_of_an_only_receiver_is_that_of_each(
    value: bytes | None, key: bytes | None, headers: Any, tombstone: str | None
) -> None:
    read: Any = StreamTopic("orders", "shop.orders"), key, value, headers, 1000.0, 3, 42
    stream = SimpleNamespace(
        name="orders",
        type="order.changed",
        tombstone=tombstone,
        key=CODECS["str"],
        value=CODECS["json"],
    )
    message = message_of(read, stream)
    assert message == StreamPayload(read, stream).open()
    assert message["headers"] == ({"h": b"\xff", "n": None} if headers else {})
    assert message["type"] == ("order.deleted" if tombstone and not value else "order.changed")
