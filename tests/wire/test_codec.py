"""Messages as bytes: golden bytes and round trips. docs/wire-format.md is the contract."""

from __future__ import annotations

import ast
import math
from collections import OrderedDict
from decimal import Decimal
from typing import Any

import pytest

from kafka_layer.exceptions import UnreadableRecord
from kafka_layer.wire.codec import Codec
from tests.support.tables import for_each

MESSAGE: dict[str, Any] = {
    "type": "chat.message",
    "text": "Grüße",
    "list": [1, -1, 2.5, None, True, False],
    "nested": {"large": 2**63 - 1},
}
MSGPACK = bytes.fromhex(
    """
    84
    a474797065 ac636861742e6d657373616765
    a474657874 a74772c3bcc39f65
    a46c697374 9601ffcb4004000000000000c0c3c2
    a66e6573746564 81a56c61726765cf7fffffffffffffff
    """
)
JSON = (
    '{"type":"chat.message","text":"Grüße","list":[1,-1,2.5,null,true,false],'
    '"nested":{"large":9223372036854775807}}'
).encode()


class TestGolden:
    """These bytes are on the wire between versions: they must never change."""

    def test_msgpack(self) -> None:
        assert Codec("msgpack").encode(MESSAGE) == MSGPACK

    def test_json(self) -> None:
        assert Codec("json").encode(MESSAGE) == JSON

    @for_each("serializer_format", ["msgpack", "json"])
    @for_each("payload", [MSGPACK, JSON])
    def test_both_are_read_whatever_is_sent(self, serializer_format: Any, payload: bytes) -> None:
        assert Codec(serializer_format).decode(payload) == MESSAGE

    def test_the_first_byte_tells_what_it_is(self) -> None:
        codec = Codec("msgpack")
        sizes = (0, 1, 15, 16, 70_000)
        first = {codec.encode({str(i): i for i in range(size)})[:1] for size in sizes}
        assert first == {b"\x80", b"\x81", b"\x8f", b"\xde", b"\xdf"}
        assert not first & {b"{", b"g"}


class TestMessages:
    @pytest.mark.parametrize("serializer_format", ["msgpack", "json"])
    def test_round_trip(self, serializer_format: Any) -> None:
        codec = Codec(serializer_format)
        message = {"": ["", {}, []], "ö\x00": "\U0010ffff", "n": [-(2**63), 2**63 - 1, 1e308, -0.0]}
        assert repr(codec.decode(codec.encode(message))) == repr(message)

    def test_what_msgpack_adds(self) -> None:
        codec = Codec("msgpack")
        message = {"bytes": bytes(range(256)), "inf": math.inf, "unsigned": 2**64 - 1}
        assert codec.decode(codec.encode(message)) == message

    @pytest.mark.parametrize("serializer_format", ["msgpack", "json"])
    def test_decoding_gives_a_new_dict_each_time(self, serializer_format: Any) -> None:
        codec = Codec(serializer_format)
        payload = codec.encode({"list": [1]})
        codec.decode(payload)["list"].append(2)
        assert codec.decode(payload) == {"list": [1]}

    @pytest.mark.parametrize("serializer_format", ["msgpack", "json"])
    @pytest.mark.parametrize("value", [object(), {1}, 1j, {1: 2}, "\ud800", 2**70])
    def test_what_cannot_be_sent(self, serializer_format: Any, value: object) -> None:
        if serializer_format == "json" and value == 2**70:
            pytest.skip("JSON has integers of any size")
        with pytest.raises(TypeError, match="cannot be sent"):
            Codec(serializer_format).encode({"value": value})

    @for_each("value", [b"bytes", math.nan, math.inf])
    def test_what_json_cannot_send(self, value: object) -> None:
        with pytest.raises(TypeError, match="serializer_format='msgpack'"):
            Codec("json").encode({"value": value})

    @for_each("message", [None, [], "text", b"", 1, (("a", 1),)])
    def test_what_is_no_message(self, message: Any) -> None:
        with pytest.raises(TypeError, match="must be a dict"):
            Codec("msgpack").encode(message)

    @for_each(
        "payload",
        [
            *(b"", b"\xc1", b"\x81", b"\x01", b"\xa1a", b"\x90", b"null", b"[1]", b'"a"', b"{"),
            *(b"{}x", b" {}"),
            *(b'{"a":', b'{"a": "\xff"}', b"\x81\x01\x02", b"\xff\xfe{\x00", b"{" * 100_000),
            *(b"\x91" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, MSGPACK[:-1], JSON[:-1]),
        ],
    )
    def test_what_cannot_be_read(self, payload: bytes) -> None:
        with pytest.raises(UnreadableRecord) as caught:
            Codec("msgpack").decode(payload)
        assert caught.value.cause == "undecodable"


class Own:
    """A serializer that carries decimals."""

    def dumps(self, message: dict[str, Any]) -> bytes:
        return repr({name: str(value) for name, value in message.items()}).encode()

    def loads(self, data: bytes) -> dict[str, Any]:
        return {name: Decimal(value) for name, value in ast.literal_eval(data.decode()).items()}


class TestASerializerOfOnesOwn:
    @pytest.mark.parametrize("serializer_format", ["msgpack", "json"])
    def test_it_writes_and_reads_all_messages(self, serializer_format: Any) -> None:
        codec = Codec(serializer_format, Own())
        payload = codec.encode({"price": Decimal("1.50")})
        assert payload == b"\xc1{'price': '1.50'}"
        assert codec.decode(payload) == {"price": Decimal("1.50")}

    def test_it_may_return_a_dict_of_its_own_class(self) -> None:
        class Ordered(Own):
            def loads(self, data: bytes) -> dict[str, Any]:
                return OrderedDict(super().loads(data))

        codec = Codec("msgpack", Ordered())
        assert codec.decode(codec.encode({"b": 1, "a": 2})) == OrderedDict(b=1, a=2)

    @pytest.mark.parametrize("payload", [MSGPACK, JSON], ids=["msgpack", "json"])
    def test_messages_of_processes_without_it_are_read(self, payload: bytes) -> None:
        assert Codec("msgpack", Own()).decode(payload) == MESSAGE

    def test_a_process_without_it_says_so(self) -> None:
        with pytest.raises(UnreadableRecord, match="serializer is not set") as caught:
            Codec("msgpack").decode(Codec("msgpack", Own()).encode({}))
        assert caught.value.cause == "undecodable"

    @for_each("data", [b"{'a': 'no number'}", b"nothing", b"", b"1"])
    def test_what_it_cannot_read_is_undecodable(self, data: bytes) -> None:
        with pytest.raises(UnreadableRecord) as caught:
            Codec("msgpack", Own()).decode(b"\xc1" + data)
        assert caught.value.cause == "undecodable"

    def test_its_results_are_checked(self) -> None:
        class Wrong:
            def dumps(self, message: dict[str, Any]) -> Any:
                return "text"

            def loads(self, data: bytes) -> Any:
                return ["a list"]

        codec = Codec("msgpack", Wrong())
        with pytest.raises(TypeError, match="returned str, not bytes"):
            codec.encode({})
        with pytest.raises(UnreadableRecord, match="not a map but a list"):
            codec.decode(b"\xc1")
