"""The wire format: golden bytes, round trips, encryption. docs/wire-format.md is its contract."""

from __future__ import annotations

import base64
import hashlib
import math
from typing import Any

import pytest
from cryptography.fernet import Fernet

from kafka_layer.exceptions import UnreadableRecord
from kafka_layer.wire.codec import Codec
from kafka_layer.wire.headers import exclude_header, excluded, headers_to_dict
from kafka_layer.wire.topics import Topic

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
# What stands before the payload inside a token for send-group, key "room-1".
ADDRESS = b"send-group\0room-1\0"


def fernet(key: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()))


class TestGolden:
    """These bytes are on the wire between versions: they must never change."""

    def test_msgpack(self) -> None:
        assert Codec("msgpack").encode(MESSAGE) == MSGPACK

    def test_json(self) -> None:
        assert Codec("json").encode(MESSAGE) == JSON

    @pytest.mark.parametrize("serializer_format", ["msgpack", "json"])
    @pytest.mark.parametrize("payload", [MSGPACK, JSON], ids=["msgpack", "json"])
    def test_both_are_read_whatever_is_sent(self, serializer_format: Any, payload: bytes) -> None:
        assert Codec(serializer_format).decode(payload) == MESSAGE

    def test_encrypted(self) -> None:
        codec = Codec("msgpack", [b"a key"])
        token = codec.seal(Topic.SEND_GROUP, "room-1", MSGPACK)
        assert fernet("a key").decrypt(token) == ADDRESS + MSGPACK

    def test_an_encrypted_value_of_an_earlier_time(self) -> None:
        token = fernet("a key").encrypt_at_time(ADDRESS + JSON, 1_000_000_000)
        assert Codec("msgpack", [b"a key"]).open(Topic.SEND_GROUP, "room-1", token) == JSON

    def test_the_first_byte_tells_what_it_is(self) -> None:
        codec = Codec("msgpack")
        sizes = (0, 1, 15, 16, 70_000)
        first = {codec.encode({str(i): i for i in range(size)})[:1] for size in sizes}
        assert first == {b"\x80", b"\x81", b"\x8f", b"\xde", b"\xdf"}
        assert not first & {b"{", b"g"}
        assert Codec("msgpack", [b"k"]).seal(Topic.ACK, "", b"").startswith(b"g")

    def test_headers(self) -> None:
        assert exclude_header([]) == []
        assert exclude_header(["a!1", "b!2"]) == [("exclude", b"a!1,b!2")]


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

    @pytest.mark.parametrize("value", [b"bytes", math.nan, math.inf])
    def test_what_json_cannot_send(self, value: object) -> None:
        with pytest.raises(TypeError, match="serializer_format='msgpack'"):
            Codec("json").encode({"value": value})

    @pytest.mark.parametrize("message", [None, [], "text", b"", 1, (("a", 1),)])
    def test_what_is_no_message(self, message: Any) -> None:
        with pytest.raises(TypeError, match="must be a dict"):
            Codec("msgpack").encode(message)

    @pytest.mark.parametrize(
        "payload",
        [
            *(b"", b"\xc1", b"\x81", b"\x01", b"\xa1a", b"\x90", b"null", b"[1]", b'"a"', b"{"),
            *(b"{}x", b" {}"),
            *(b'{"a":', b'{"a": "\xff"}', b"\x81\x01\x02", b"\xff\xfe{\x00", b"{" * 100_000),
            *(b"\x91" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, MSGPACK[:-1], JSON[:-1]),
        ],
        ids=lambda payload: repr(payload[:12]),
    )
    def test_what_cannot_be_read(self, payload: bytes) -> None:
        with pytest.raises(UnreadableRecord) as caught:
            Codec("msgpack").decode(payload)
        assert caught.value.cause == "undecodable"


class TestEncryption:
    @pytest.mark.parametrize("topic", list(Topic))
    @pytest.mark.parametrize("key", ["room-1", "", None, "ü"])
    def test_round_trip(self, topic: Topic, key: str | None) -> None:
        codec = Codec("msgpack", [b"secret"])
        assert codec.open(topic, key, codec.seal(topic, key, MSGPACK)) == MSGPACK

    def test_nothing_of_the_message_shows(self) -> None:
        token = Codec("msgpack", [b"secret"]).seal(Topic.SEND_GROUP, "room-1", MSGPACK)
        plain = base64.urlsafe_b64decode(token)
        assert b"chat.message" not in token + plain
        assert b"room-1" not in token + plain

    def test_two_tokens_of_one_message_differ(self) -> None:
        codec = Codec("msgpack", [b"secret"])
        assert codec.seal(Topic.ACK, "a", b"x") != codec.seal(Topic.ACK, "a", b"x")

    def test_rotation(self) -> None:
        old, new = Codec("msgpack", [b"1"]), Codec("json", [b"2"])
        both = Codec("msgpack", [b"2", b"1"])
        by_old = old.seal(Topic.ACK, "a", b"payload")
        by_both = both.seal(Topic.ACK, "a", b"payload")
        assert both.open(Topic.ACK, "a", by_old) == b"payload"
        assert both.open(Topic.ACK, "a", by_both) == b"payload"
        assert new.open(Topic.ACK, "a", by_both) == b"payload"
        for codec, token in ((old, by_both), (new, by_old)):
            with pytest.raises(UnreadableRecord, match="symmetric_encryption_keys"):
                codec.open(Topic.ACK, "a", token)

    @pytest.mark.parametrize(
        ("topic", "key"),
        [
            (Topic.SEND_GROUP, "room-2"),
            (Topic.SEND_GROUP, ""),
            (Topic.SEND_GROUP, None),
            (Topic.SEND_USER, "room-1"),
            (Topic.SEND_GROUP, "room-1\0"),
        ],
    )
    def test_a_token_is_worth_nothing_under_another_address(
        self, topic: Topic, key: str | None
    ) -> None:
        codec = Codec("msgpack", [b"secret"])
        token = codec.seal(Topic.SEND_GROUP, "room-1", MSGPACK)
        with pytest.raises(UnreadableRecord, match="another address") as caught:
            codec.open(topic, key, token)
        assert caught.value.cause == "decrypt"

    def test_every_byte_counts(self) -> None:
        codec = Codec("msgpack", [b"secret"])
        token = codec.seal(Topic.SEND_GROUP, "room-1", b"payload")
        raw = base64.urlsafe_b64decode(token)
        for position in range(1, len(raw)):
            changed = raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]
            with pytest.raises(UnreadableRecord):
                codec.open(Topic.SEND_GROUP, "room-1", base64.urlsafe_b64encode(changed))
        for cut in (token[:-1], token[:20], b"g", b"gAAAA"):
            with pytest.raises(UnreadableRecord):
                codec.open(Topic.SEND_GROUP, "room-1", cut)

    def test_plain_values_are_refused_where_keys_are_set(self) -> None:
        for value in (MSGPACK, JSON, b"\x80"):
            with pytest.raises(UnreadableRecord, match="not encrypted"):
                Codec("msgpack", [b"secret"]).open(Topic.SEND_GROUP, "room-1", value)

    @pytest.mark.parametrize("keys", [[], [b"secret"]])
    @pytest.mark.parametrize("value", [None, b""])
    def test_nothing_is_no_value(self, keys: list[bytes], value: bytes | None) -> None:
        with pytest.raises(UnreadableRecord, match="it has no value"):
            Codec("msgpack", keys).open(Topic.SEND_GROUP, "room-1", value)

    def test_tokens_are_refused_where_no_keys_are_set(self) -> None:
        token = Codec("msgpack", [b"secret"]).seal(Topic.SEND_GROUP, "room-1", MSGPACK)
        with pytest.raises(UnreadableRecord, match="is not set"):
            Codec("msgpack").open(Topic.SEND_GROUP, "room-1", token)

    def test_without_keys_the_payload_is_the_value(self) -> None:
        codec = Codec("msgpack")
        assert codec.seal(Topic.SEND_GROUP, "room-1", MSGPACK) is MSGPACK
        assert codec.open(Topic.SEND_GROUP, "other", MSGPACK) is MSGPACK


class TestHeaders:
    def test_excluded_names(self) -> None:
        assert excluded(exclude_header(["a!1", "b!2"])) == {"a!1", "b!2"}
        for headers in ([], [("exclude", b"")], [("exclude", None)], [("other", b"a!1")]):
            assert excluded(headers) == set()
        assert excluded([("other", b"a!1"), ("exclude", b"c!3")]) == {"c!3"}

    def test_foreign_headers_harm_nobody(self) -> None:
        headers = [("a", b"\xff"), ("b", None), ("a", b"last")]
        assert headers_to_dict(headers) == {"a": "last", "b": ""}
