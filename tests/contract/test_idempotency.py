"""Messages with one idempotency key: each receiver and each history gets one of them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.messages import Message
from kafka_layer.wire.idempotency import IDEMPOTENCY_KEY
from kafka_layer.wire.partitions import partition_of
from tests.support.inspect import server_of
from tests.support.layers import PARTITIONS, Layers, Servers, next_messages, stats_of
from tests.support.waiting import wait_until_async

DEADLINE = 30.0
END = {"n": "end"}

WAYS = ["group", "user", "all", "group sync", "user sync", "all sync", "group many", "user many"]

Send = Callable[..., Awaitable[Any]]


@pytest.fixture
def group() -> str:
    """A group that no other test uses."""
    return f"room-{secrets.token_hex(4)}"


async def member(layer: KafkaChannelLayer, group: str) -> str:
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    return channel


async def received(layer: KafkaChannelLayer, channel: str, count: int) -> list[Any]:
    return [each["n"] for each in await next_messages(layer, channel, count)]


async def settled(layer: KafkaChannelLayer) -> None:
    await asyncio.to_thread(server_of(layer).transport.settle, DEADLINE)


def way_of(layer: KafkaChannelLayer, way: str, address: str) -> Send:
    """Return the function that sends to a group, a user or everybody, in one of several ways."""

    async def send(message: dict[str, Any], **options: Any) -> Any:
        kind, _, how = way.partition(" ")
        to: list[Any] = [] if kind == "all" else [address]
        if how == "many":
            to = [to]
        call = getattr(layer, f"{kind}_send" + {"": "", "sync": "_sync", "many": "_many"}[how])
        if how == "sync":
            return await asyncio.to_thread(call, *to, message, **options)
        return await call(*to, message, **options)

    return send


class TestLive:
    async def test_the_second_copy_is_dropped_by_every_server(
        self, make_layer: Layers, group: str
    ) -> None:
        layers = [make_layer() for _ in range(2)]
        # Held to the end: channels that nobody holds drop what is sent to everybody.
        held = []
        dropped = 0
        for number, way in enumerate(WAYS, 1):
            address = f"{group}-{number}"
            channels = [await member(layer, address) for layer in layers]
            held += channels
            # A copy counts for each of its receivers.
            dropped += number if way.startswith("all") else 1
            for layer, channel in zip(layers, channels, strict=True):
                await layer.user_add(address, channel)
            for sender, layer in enumerate(layers):
                # The second one comes from another process, as a retry may.
                await way_of(layer, way, address)({"n": sender}, idempotency_key=f"{address}-17")
                await settled(layer)
            await way_of(layers[0], way, address)({"n": "other"}, idempotency_key=f"{address}-18")
            await settled(layers[0])
            await way_of(layers[0], way, address)(END)
            for layer, channel in zip(layers, channels, strict=True):
                first, *others = sorted(map(str, await received(layer, channel, 3)))
                assert others == ["end", "other"]
                # Two processes write to different partitions of the topic for everybody.
                assert first == "0" or (way.startswith("all") and first == "1")
                # In a partition of its own it may be read after the last message.
                await wait_until_async(
                    lambda layer=layer, dropped=dropped: (
                        layer.stats().dropped == {"duplicate": dropped}
                    ),
                    f"the copy to be dropped ({way})",
                )

    async def test_a_key_counts_for_one_group(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        other = f"{group}-other"
        channel = await member(layer, group)
        await layer.group_add(other, channel)
        await layer.user_add(group, channel)
        await layer.group_send(group, {"n": 1}, idempotency_key="k")
        await layer.group_send(other, {"n": 2}, idempotency_key="k")
        await layer.user_send(group, {"n": 3}, idempotency_key="k")
        assert sorted(await received(layer, channel, 3)) == [1, 2, 3]

    async def test_a_channel_that_joins_in_between_gets_none(
        self, make_layer: Layers, group: str
    ) -> None:
        """It was not there when the message was sent."""
        layer = make_layer()
        await member(layer, "elsewhere")
        await layer.group_send(group, {"n": 1}, idempotency_key="k")
        channel = await member(layer, group)
        await layer.group_send(group, {"n": 1}, idempotency_key="k")
        await layer.group_send(group, END)
        assert await received(layer, channel, 1) == ["end"]

    async def test_a_server_that_starts_in_between_gets_none(
        self, make_layer: Layers, group: str
    ) -> None:
        """Every server drops the same record, whatever it has read."""
        early = make_layer()
        for kind in ("group", "user", "all"):
            await way_of(early, kind, group)({"n": 1}, idempotency_key=group)
        for number in range(150):  # more than one chunk
            await early.group_send(group, {"n": number})
        await settled(early)
        late = make_layer()
        channel = await member(late, group)
        await late.user_add(group, channel)
        for kind in ("group", "user", "all"):
            await way_of(early, kind, group)({"n": "copy"}, idempotency_key=group)
            await settled(early)
            await way_of(early, kind, group)(END, idempotency_key=f"{group} new")
            await settled(early)
        assert await received(late, channel, 3) == ["end"] * 3
        assert late.stats().dropped == {"duplicate": 3}
        assert not late.stats().errors

    async def test_what_a_flush_dropped_is_sent_anew(self, make_layer: Layers, group: str) -> None:
        layer = make_layer()
        await member(layer, group)
        await layer.group_send(group, {"n": 1}, idempotency_key="k")
        await layer.flush()
        late = make_layer()
        receivers = [(each, await member(each, group)) for each in (layer, late)]
        await layer.group_send(group, {"n": 2}, idempotency_key="k")
        await layer.group_send(group, END)
        for each, channel in receivers:
            assert await received(each, channel, 2) == [2, "end"]

    async def test_both_headers(self, make_layer: Layers, group: str) -> None:
        layer = make_layer()
        first, second = await member(layer, group), await member(layer, group)
        for _ in range(2):
            await layer.group_send(group, {"n": 1}, exclude=[first], idempotency_key="k")
        await layer.group_send(group, END)
        assert await received(layer, first, 1) == ["end"]
        assert await received(layer, second, 2) == [1, "end"]
        assert stats_of(layer)["dropped.duplicate"] == 1

    @pytest.mark.parametrize("key", [7, "", "x" * 201])
    async def test_bad_keys_are_refused(self, make_layer: Layers, key: Any) -> None:
        layer = make_layer()
        for way in ("group", "user", "all", "group many", "user many", "all sync"):
            with pytest.raises((TypeError, ValueError), match="idempotency_key"):
                await way_of(layer, way, "room")({}, idempotency_key=key)
        assert not stats_of(layer)["sent"]


class TestEncryption:
    async def test_while_the_keys_change(self, make_layer: Layers, group: str) -> None:
        stages = [["old"], ["old", "new"], ["new", "old"], ["new"]]
        layers = [make_layer(symmetric_encryption_keys=keys) for keys in stages]
        # Those in the middle read what all others write.
        receivers = [(layer, await member(layer, group)) for layer in layers[1:3]]
        for number, layer in enumerate(layers):
            await layer.group_send(group, {"n": number}, idempotency_key="k")
            await settled(layer)
        await layers[1].group_send(group, END)
        for layer, channel in receivers:
            assert await received(layer, channel, 2) == [0, "end"]
            assert layer.stats().dropped == {"duplicate": 3}

    async def test_who_has_no_key_cannot_hold_a_message_back(
        self, make_layer: Layers, group: str
    ) -> None:
        layer = make_layer(symmetric_encryption_keys=["secret"])
        forger = make_layer()
        channel = await member(layer, group)
        await forger.group_send(group, {"n": "forged"}, idempotency_key="k")
        await settled(forger)
        await layer.group_send(group, {"n": 1}, idempotency_key="k")
        assert await received(layer, channel, 1) == [1]

    async def test_the_key_is_not_in_the_record(self, make_layer: Layers, group: str) -> None:
        layer = make_layer(symmetric_encryption_keys=["secret"])
        _, _, _, _, headers = layer._group_record(group, {}, (), "order-17")
        ((name, value),) = headers
        assert name == IDEMPOTENCY_KEY
        assert b"order-17" not in value


class TestHistory:
    async def test_a_history_has_each_message_once(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        for number in (1, 2):
            for _ in range(3):
                await layer.group_send(group, {"n": number}, idempotency_key=f"k{number}")
        await settled(layer)
        found = await layer.group_history(group, limit=2)
        assert [each["n"] for each in found.messages] == [1, 2]
        assert found.complete
        newest = await layer.group_history(group, limit=1, newest_first=True)
        assert [each["n"] for each in newest.messages] == [2]

    async def test_an_original_before_what_is_asked_for(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        other = neighbour(group)
        await layer.group_send(group, {"n": 1}, idempotency_key="k")
        for number in range(250):  # so that it lies in another chunk
            await layer.group_send(other, {"n": number})
        await settled(layer)
        since = await layer.group_position(group)
        await layer.group_send(group, {"n": 1}, idempotency_key="k")
        await layer.group_send(group, {"n": 2})
        await settled(layer)
        for newest_first in (False, True):
            found = await layer.group_history(group, since=since, newest_first=newest_first)
            assert [each["n"] for each in found.messages] == [2]
            assert found.complete
        last = await layer.group_history(group, limit=2)
        assert [each["n"] for each in last.messages] == [1, 2]

    async def test_no_page_is_empty_before_the_last(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        position = await layer.group_position(group)
        for number in range(3):
            for _ in range(4):
                await layer.group_send(group, {"n": number}, idempotency_key=str(number))
        await settled(layer)
        pages = []
        while (found := await layer.group_history(group, since=position, limit=1)).messages:
            assert found.complete
            pages.append([each["n"] for each in found.messages])
            position = found.position
        assert pages == [[0], [1], [2]]

    async def test_after_a_flush(self, make_layer: Layers, group: str) -> None:
        layer = make_layer()
        await layer.group_send(group, {"n": 1}, idempotency_key="k")
        await layer.flush()
        await layer.group_send(group, {"n": 2}, idempotency_key="k")
        await settled(layer)
        for each in (layer, make_layer()):
            found = await each.group_history(group)
            assert [message["n"] for message in found.messages] == [2]
            assert found.complete

    async def test_to_everybody(self, make_layer: Layers, prefix: str) -> None:
        """Each sender has a partition of its own."""
        layers = [make_layer(prefix) for _ in range(4)]
        for layer in layers:
            await layer.all_send({"n": 1}, idempotency_key="k")
            await settled(layer)
        found = await layers[0].all_history()
        assert [each["n"] for each in found.messages] == [1]


class TestRecovery:
    async def test_a_replay_has_each_message_once(self, make_layer: Layers, group: str) -> None:
        here = make_layer()
        channel = await tracked(here, group)
        await here.group_send(group, {"n": 1}, idempotency_key="k1")
        (first,) = await next_messages(here, channel, 1)
        assert isinstance(first, Message)
        for key in ("k1", "k2", "k2", "k3"):
            await here.group_send(group, {"n": int(key[1:])}, idempotency_key=key)
        await settled(here)
        there = make_layer()
        channels = []
        for layer in (there, here):
            channels.append(await tracked(layer, group))
            # The original of k1 was handed over before the position.
            found = await layer.recover(channels[-1], first.position, limit=2)
            assert [each["n"] for each in found.messages] == [2, 3]
        await here.group_send(group, {"n": 3}, idempotency_key="k3")
        await here.group_send(group, END)
        for layer, each in zip((there, here), channels, strict=True):
            assert await received(layer, each, 1) == ["end"]

    async def test_a_slow_reader_gets_each_message_once(
        self, make_layer: Layers, group: str
    ) -> None:
        layer = make_layer(capacity=4)
        channel = await tracked(layer, group)
        for number in range(10):
            for _ in range(2):
                await layer.group_send(group, {"n": number}, idempotency_key=f"k{number}")
        await layer.group_send(group, END)
        await settled(layer)
        assert await received(layer, channel, 11) == [*range(10), "end"]


async def tracked(layer: KafkaChannelLayer, group: str) -> str:
    channel = await layer.new_channel()
    layer.track(channel)
    await layer.group_add(group, channel)
    return channel


def neighbour(group: str) -> str:
    """Return another group of the same partition."""
    return next(
        name
        for number in range(1000)
        if partition_of(name := f"{group}-{number}", PARTITIONS) == partition_of(group, PARTITIONS)
    )
