"""Codecs without a schema, and a project's own."""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from typing import Any

import pytest

from kafka_layer.exceptions import UnreadableRecord
from kafka_layer.streams.codecs import CODECS, CodecContext, OwnCodec
from tests.support.tables import for_each

VALUE = CodecContext("shop.orders", "value")


@for_each(
    ("codec", "obj", "data"),
    [
        ("json", {"a": [1, 2.5, None, True, "ü"]}, '{"a":[1,2.5,null,true,"ü"]}'.encode()),
        ("json", "text", b'"text"'),
        ("msgpack", {"a": [1, b"raw"]}, b"\x81\xa1a\x92\x01\xc4\x03raw"),
        ("msgpack", {7: "x", b"k": 1}, b"\x82\x07\xa1x\xc4\x01k\x01"),
        ("str", "ü", b"\xc3\xbc"),
        ("str", "", b""),
        ("bytes", b"\xff", b"\xff"),
    ],
)
def test_both_ways(codec: str, obj: Any, data: bytes) -> None:
    assert CODECS[codec].encode(obj, VALUE) == data
    assert CODECS[codec].decode(data, VALUE) == obj


def test_json_may_have_spaces_around_it() -> None:
    for data in (b' {"a": 1}', b'{"a": 1}\r\n', b'\t{"a": 1}\n'):
        assert CODECS["json"].decode(data, VALUE) == {"a": 1}


def test_json_takes_what_djangos_encoder_takes() -> None:
    data = CODECS["json"].encode(
        {
            "at": datetime.datetime(2026, 11, 28, tzinfo=datetime.timezone.utc),
            "price": decimal.Decimal("1.50"),
            "id": uuid.UUID(int=7),
        },
        VALUE,
    )

    assert data == (
        b'{"at":"2026-11-28T00:00:00Z","price":"1.50","id":"00000000-0000-0000-0000-000000000007"}'
    )


@for_each(
    ("codec", "data"),
    [
        ("json", b"poison"),
        ("json", b"\xff"),
        ("json", b""),
        ("json", b"[" * 100_000),
        ("json", b'{"a":1} {"b":2}'),
        ("msgpack", b""),
        ("msgpack", b"\xc1"),
        ("msgpack", b"\x91" * 5000),
        ("str", b"\xff"),
    ],
)
def test_poison_is_undecodable_and_says_which_part(codec: str, data: bytes) -> None:
    with pytest.raises(UnreadableRecord, match="its key is no") as caught:
        CODECS[codec].decode(data, CodecContext("shop.orders", "key"))

    assert caught.value.cause == "undecodable"


@for_each(
    ("codec", "obj"),
    [
        ("json", object()),
        ("json", math.nan),
        ("json", {"a": b"raw"}),
        ("json", "\ud800"),
        ("msgpack", object()),
        ("msgpack", 2**70),
        ("str", 5),
        ("str", b"raw"),
        ("str", None),
        ("str", "\ud800"),
        ("bytes", "text"),
        ("bytes", 5),
    ],
)
def test_what_cannot_be_encoded_is_a_type_error(codec: str, obj: Any) -> None:
    with pytest.raises(TypeError, match="value cannot be sent as"):
        CODECS[codec].encode(obj, VALUE)


def upper(data: bytes) -> str:
    return data.decode().upper()


def lower(obj: str) -> bytes:
    return obj.lower().encode()


class Both:
    decode = staticmethod(upper)
    encode = staticmethod(lower)


@for_each("given", [(upper, lower), [upper, lower], Both, Both()])
def test_a_projects_own_codec_is_a_pair_or_an_object(given: Any) -> None:
    codec = OwnCodec(given)

    assert codec.decode(b"a", VALUE) == "A"
    assert codec.encode("A", VALUE) == b"a"
    assert not codec.blocking


def test_a_function_alone_decodes_and_says_how_it_would_encode() -> None:
    codec = OwnCodec(upper)

    assert codec.decode(b"a", VALUE) == "A"
    with pytest.raises(TypeError, match=r"only decodes; set a pair of functions"):
        codec.encode("A", VALUE)


def test_a_class_whose_instances_are_made_of_bytes_is_a_function() -> None:
    assert OwnCodec(bytearray).decode(b"a", VALUE) == bytearray(b"a")


async def coroutine(data: bytes) -> str:
    return "a"


@for_each(
    ("given", "said"),
    [
        (None, "a function of bytes"),
        (5, "a function of bytes"),
        ((upper, 5), "a function of bytes"),
        ((upper,), "a function of bytes"),
        (coroutine, "coroutine"),
        ((upper, coroutine), "coroutine"),
    ],
)
def test_what_is_no_codec(given: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        OwnCodec(given)


def test_whatever_an_own_codec_raises_is_undecodable() -> None:
    with pytest.raises(UnreadableRecord, match="raised ZeroDivisionError") as caught:
        OwnCodec(lambda data: 1 / 0).decode(b"a", VALUE)
    assert caught.value.cause == "undecodable"

    with pytest.raises(TypeError, match="returned a str, not bytes"):
        OwnCodec((upper, upper)).encode(b"a", VALUE)
