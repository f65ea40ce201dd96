"""What a message may hold, that it arrives as it was sent, and how large it may be."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import pytest
from channels.exceptions import MessageTooLarge

from kafka_layer.wire.topics import Topic
from tests.support.inspect import server_of
from tests.support.layers import Layers, Servers, next_message, next_messages

SAME_IN_ALL_FORMATS: dict[str, Any] = {
    "type": "test.message",
    "unicode": "Grüße 👋 \u2028 \x00 \U0010ffff",
    "empty": ["", [], {}],
    "nested": {"a": [{"b": [1, [2, [3]]]}], "c": {"d": {"e": None}}},
    "integers": [0, -1, 1, 2**31, -(2**31), 2**63 - 1, -(2**63)],
    "floats": [0.0, -0.0, 1.5, 1e308, 5e-324, 0.1],
    "nothing": None,
    "truth": [True, False],
}


class TestRoundTrips:
    @pytest.mark.parametrize("serializer_format", ["msgpack", "json"])
    @pytest.mark.parametrize("keys", [None, ["secret"]], ids=["plain", "encrypted"])
    async def test_what_every_format_carries(
        self, make_layer: Layers, serializer_format: str, keys: list[str] | None
    ) -> None:
        config = {"serializer_format": serializer_format, "symmetric_encryption_keys": keys}
        here, there = make_layer(**config), make_layer(**config)
        channel = await there.new_channel()
        await there.group_add("room", channel)
        await there.send(channel, SAME_IN_ALL_FORMATS)
        assert identical(await next_message(there, channel), SAME_IN_ALL_FORMATS)
        await here.send(channel, SAME_IN_ALL_FORMATS)
        assert identical(await next_message(there, channel), SAME_IN_ALL_FORMATS)
        await here.group_send("room", SAME_IN_ALL_FORMATS)
        assert identical(await next_message(there, channel), SAME_IN_ALL_FORMATS)

    async def test_what_msgpack_alone_carries(self, servers: Servers) -> None:
        here, there, _ = servers
        channel = await there.new_channel()
        message = {
            "bytes": [b"", bytes(range(256))],
            "unsigned": 2**64 - 1,
            "floats": [float("inf"), float("-inf")],
        }
        await here.send(channel, message)
        assert identical(await next_message(there, channel), message)
        await here.send(channel, {"nan": float("nan")})
        received = (await next_message(there, channel))["nan"]
        assert received != received

    async def test_tuples_become_lists(self, servers: Servers) -> None:
        here, there, _ = servers
        channel = await there.new_channel()
        for layer in (here, there):
            await layer.send(channel, {"pair": (1, ("a", "b"))})
            assert identical(await next_message(there, channel), {"pair": [1, ["a", "b"]]})

    async def test_servers_with_different_formats_understand_each_other(
        self, make_layer: Layers
    ) -> None:
        json, msgpack = make_layer(serializer_format="json"), make_layer()
        for sender, receiver in ((json, msgpack), (msgpack, json)):
            channel = await receiver.new_channel()
            await sender.send(channel, {"n": 1})
            assert await next_message(receiver, channel) == {"n": 1}

    async def test_a_channel_name_can_be_sent(self, servers: Servers) -> None:
        here, there, _ = servers
        channel = await there.new_channel()
        await here.send(channel, {"reply_to": channel})
        received = await next_message(there, channel)
        assert received["reply_to"] == channel

    @pytest.mark.parametrize("serializer_format", ["msgpack", "json"])
    async def test_what_nobody_carries(self, make_layer: Layers, serializer_format: str) -> None:
        layer = make_layer(serializer_format=serializer_format)
        channel = await layer.new_channel()
        loop: list[Any] = []
        loop.append(loop)
        values: list[Any] = [
            *(object(), {1, 2}, 1j, uuid.uuid4(), datetime.datetime.now(), datetime.date.today()),
            *({1: "a key that is no str"}, {None: 1}, loop, "a lone surrogate \ud800"),
        ]
        for value in values:
            with pytest.raises(TypeError):
                await layer.send(channel, {"value": value})
            with pytest.raises(TypeError):
                await layer.group_send("room", {"value": value})

    async def test_json_does_not_carry_bytes_and_says_what_does(self, make_layer: Layers) -> None:
        layer = make_layer(serializer_format="json")
        with pytest.raises(TypeError, match="msgpack"):
            await layer.group_send("room", {"value": b"bytes"})


class TestCopies:
    async def test_the_sender_keeps_its_own(self, servers: Servers) -> None:
        layer = servers[0]
        channel = await layer.new_channel()
        message = {"list": [1]}
        await layer.send(channel, message)
        message["list"].append(2)
        assert await next_message(layer, channel) == {"list": [1]}

    async def test_every_receiver_gets_its_own(self, servers: Servers) -> None:
        here, there, _ = servers
        channels = [await there.new_channel() for _ in range(3)]
        for channel in channels:
            await there.group_add("room", channel)
        await here.group_send("room", {"list": [1]})
        for channel in channels:
            received = await next_message(there, channel)
            assert received == {"list": [1]}
            received["list"].append(2)
            received["mine"] = True

    async def test_sending_does_not_change_the_message(self, servers: Servers) -> None:
        layer = servers[0]
        channel = await layer.new_channel()
        message = {"pair": (1, 2), "type": "a"}
        await layer.send(channel, message)
        await layer.group_send("room", message)
        assert identical(message, {"pair": (1, 2), "type": "a"})


class TestSizes:
    @pytest.mark.parametrize("keys", [None, ["secret"]], ids=["plain", "encrypted"])
    async def test_a_megabyte_passes(self, make_layer: Layers, keys: list[str] | None) -> None:
        here = make_layer(symmetric_encryption_keys=keys)
        there = make_layer(symmetric_encryption_keys=keys)
        channel = await there.new_channel()
        await there.group_add("room", channel)
        messages = [{"n": number, "data": bytes([number]) * 1024 * 1024} for number in range(3)]
        for message in messages:
            await here.send(channel, message)
        assert await next_messages(there, channel, 3) == messages
        for message in messages:
            await here.group_send("room", message)
        assert await next_messages(there, channel, 3) == messages

    async def test_what_is_too_large_raises_at_once(self, servers: Servers) -> None:
        here, there, _ = servers
        channel = await there.new_channel()
        await there.group_add("room", channel)
        too_large = {"data": b"x" * 2 * 1024 * 1024}
        for call in (
            here.send(channel, too_large),
            there.send(channel, too_large),
            here.group_send("room", too_large),
            here.user_send("someone", too_large),
            here.all_send(too_large),
        ):
            with pytest.raises(MessageTooLarge, match=r"max\.message\.bytes"):
                await call
        excluded = [f"specific.0-abcdef01!{number}" for number in range(100_000)]
        for call in (
            here.group_send("room", {}, exclude=excluded),
            here.user_send("someone", {}, exclude=excluded),
            here.all_send({}, exclude=excluded),
            here.group_send_many(["room", "other"], {}, exclude=excluded),
        ):
            with pytest.raises(MessageTooLarge, match="'exclude'"):
                await call
        # and nothing of it is in the way of the next one
        await here.group_send("room", {"n": 1})
        assert await next_message(there, channel) == {"n": 1}

    async def test_the_largest_that_passes_the_check_passes_the_broker(
        self, servers: Servers
    ) -> None:
        here, there, _ = servers
        channel = await there.new_channel()
        await there.group_add("room", channel)
        largest = server_of(there).sender.limit_of(Topic.SEND_GROUP) - len(b"\x81\xa1d\xc6....")
        await here.group_send("room", {"d": b"x" * largest})
        assert len((await next_message(there, channel))["d"]) == largest
        with pytest.raises(MessageTooLarge):
            await here.group_send("room", {"d": b"x" * (largest + 1)})


def identical(left: object, right: object) -> bool:
    """Whether both are equal and of the same types all the way down; 1, 1.0 and True differ."""
    return repr(left) == repr(right)
