"""send and receive: delivery, order, copies, capacity, expiry, names and types."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from channels.exceptions import ChannelFull

from kafka_layer.layer import KafkaChannelLayer
from tests.support.inspect import server_of
from tests.support.layers import (
    Layers,
    Servers,
    begin_receive,
    let_pass,
    next_message,
    next_messages,
    stats_of,
)
from tests.support.waiting import wait_until_async

ILLEGAL_CHANNELS: list[Any] = [
    *("", "ä!b", "with space!b", "x" * 100 + "!a", "two!!marks"),
    *("a!b\n", "a\n!b", "\N{ARABIC-INDIC DIGIT THREE}!b", 7, None, b"bytes!x", ["specific!x"]),
]
ILLEGAL_GROUPS: list[Any] = [
    *("", "ä", "with space", "with!mark", "x" * 100, "newline\n", "\N{FULLWIDTH DIGIT THREE}"),
    *(7, None, b"bytes"),
]
NO_MESSAGES: list[Any] = ["text", b"bytes", None, 1, ["list"], ("a", 1)]


class TestDelivery:
    async def test_a_message_to_a_channel_of_this_server(self, servers: Servers) -> None:
        layer = servers[0]
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "test.message", "text": "hi"})
        assert await next_message(layer, channel) == {"type": "test.message", "text": "hi"}

    async def test_a_message_to_a_channel_of_another_server(self, servers: Servers) -> None:
        here, there, _ = servers
        channel = await there.new_channel()
        await here.send(channel, {"type": "test.message"})
        assert await next_message(there, channel) == {"type": "test.message"}

    async def test_a_receive_that_waits_already(self, servers: Servers) -> None:
        here, there, _ = servers
        channel = await there.new_channel()
        waiting = await begin_receive(there, channel)
        await here.send(channel, {"n": 1})
        assert await waiting == {"n": 1}

    @pytest.mark.parametrize("same_server", [True, False])
    async def test_first_in_first_out(self, servers: Servers, same_server: bool) -> None:
        there = servers[1]
        here = there if same_server else servers[0]
        channel = await there.new_channel()
        for number in range(50):
            await here.send(channel, {"n": number})
        received = await next_messages(there, channel, 50)
        assert [each["n"] for each in received] == list(range(50))

    async def test_channels_of_one_server_do_not_mix(self, servers: Servers) -> None:
        here, there, _ = servers
        channels = [await there.new_channel() for _ in range(5)]
        for number, channel in enumerate(channels):
            await here.send(channel, {"n": number})
        received = [await next_message(there, channel) for channel in reversed(channels)]
        assert [each["n"] for each in received] == [4, 3, 2, 1, 0]

    async def test_several_receives_on_one_channel_share_its_messages(
        self, servers: Servers
    ) -> None:
        here, there, _ = servers
        channel = await there.new_channel()
        waiting = [await begin_receive(there, channel) for _ in range(10)]
        for number in range(10):
            await here.send(channel, {"n": number})
        received = await asyncio.gather(*waiting)
        assert sorted(each["n"] for each in received) == list(range(10))

    async def test_a_cancelled_receive_loses_nothing(self, servers: Servers) -> None:
        here, there, _ = servers
        channel = await there.new_channel()
        cancelled = await begin_receive(there, channel)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await here.send(channel, {"n": 1})
        assert await next_message(there, channel) == {"n": 1}

    async def test_a_receive_that_is_cancelled_as_it_is_woken_passes_the_message_on(
        self, servers: Servers
    ) -> None:
        layer = servers[0]
        channel = await layer.new_channel()
        for number in range(200):
            first = asyncio.create_task(layer.receive(channel))
            await asyncio.sleep(0)  # it waits now
            second = await begin_receive(layer, channel)
            await layer.send(channel, {"n": number})
            first.cancel()  # woken, and cancelled in the same turn of the loop
            assert await second == {"n": number}
            assert first.cancelled()

    async def test_a_local_receiver_is_served_without_the_broker(self, servers: Servers) -> None:
        layer = servers[0]
        channel = await layer.new_channel()
        sent = layer.stats().sent_by_kind.get("channel")
        await layer.send(channel, {"n": 1})
        mailbox = server_of(layer).registry.mailbox(channel)
        assert mailbox is not None
        assert len(mailbox) == 1, "it is there before send returns"
        assert await next_message(layer, channel) == {"n": 1}
        assert layer.stats().sent_by_kind.get("channel") == sent

    async def test_layers_with_different_prefixes_never_meet(
        self, make_layer: Layers, prefix: str
    ) -> None:
        ours, theirs = make_layer(), make_layer(prefix=prefix)
        our_channel, their_channel = await ours.new_channel(), await theirs.new_channel()
        await ours.group_add("room", our_channel)
        await theirs.group_add("room", their_channel)
        await theirs.group_send("room", {"from": "theirs"})
        await ours.group_send("room", {"from": "ours"})
        await theirs.send(our_channel, {"from": "theirs, by name"})
        await theirs.group_send("room", {"from": "barrier"})
        await ours.group_send("room", {"from": "barrier"})
        received = await next_messages(ours, our_channel, 2)
        assert received == [{"from": "ours"}, {"from": "barrier"}]
        received = await next_messages(theirs, their_channel, 2)
        assert received == [{"from": "theirs"}, {"from": "barrier"}]


class TestCapacity:
    async def test_a_full_channel_of_this_server_raises(self, make_layer: Layers) -> None:
        layer = make_layer(capacity=3)
        channel = await layer.new_channel()
        for number in range(3):
            await layer.send(channel, {"n": number})
        with pytest.raises(ChannelFull):
            await layer.send(channel, {"n": 3})
        received = await next_messages(layer, channel, 3)
        assert [each["n"] for each in received] == [0, 1, 2]
        await layer.send(channel, {"n": 4})
        assert await next_message(layer, channel) == {"n": 4}

    async def test_channel_capacity_patterns(self, make_layer: Layers) -> None:
        layer = make_layer(capacity=3, channel_capacity={"small.*": 1, "large*": 5})
        room = {}
        for name in ("small", "large", "specific"):
            channel = await layer.new_channel(name)
            results = [await sent(layer, channel) for _ in range(9)]
            room[name] = results.count(True)
            assert results == sorted(results, reverse=True)
        assert room == {"small": 1, "large": 5, "specific": 3}

    async def test_a_full_channel_is_counted(self, make_layer: Layers) -> None:
        layer = make_layer(capacity=1)
        channel = await layer.new_channel()
        await layer.send(channel, {})
        with pytest.raises(ChannelFull):
            await layer.send(channel, {})
        assert stats_of(layer)["refused.full"] == 1

    async def test_more_than_capacity_reaches_a_receiver_that_keeps_up(
        self, make_layer: Layers
    ) -> None:
        here, there = make_layer(), make_layer(capacity=4)
        channel = await there.new_channel()
        await there.group_add("room", channel)
        receiving = asyncio.create_task(next_messages(there, channel, 500))
        for number in range(500):
            await here.group_send("room", {"n": number})
        assert [each["n"] for each in await receiving] == list(range(500))


class TestExpiry:
    @pytest.mark.parametrize("by_group", [False, True], ids=["send", "group_send"])
    async def test_messages_that_waited_too_long_hold_no_room(
        self, make_layer: Layers, by_group: bool
    ) -> None:
        layer = make_layer(capacity=3)
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        for number in range(3):
            await layer.send(channel, {"n": number})
        grow_old(layer, channel)
        if by_group:
            await layer.group_send("room", {"n": "fresh"})
        else:
            await layer.send(channel, {"n": "fresh"})
        assert await next_message(layer, channel) == {"n": "fresh"}
        counted = stats_of(layer)
        assert counted["dropped.expired"] == 3
        assert "dropped.full" not in counted

    async def test_a_message_that_waits_too_long_is_not_received(self, make_layer: Layers) -> None:
        layer = make_layer()
        channel = await layer.new_channel()
        await layer.send(channel, {"n": "old"})
        grow_old(layer, channel)
        await layer.send(channel, {"n": "new"})
        assert await next_message(layer, channel) == {"n": "new"}
        assert stats_of(layer)["dropped.expired"] == 1

    async def test_a_group_message_that_waits_too_long_is_not_received(
        self, make_layer: Layers
    ) -> None:
        here, there = make_layer(), make_layer()
        channel = await there.new_channel()
        await there.group_add("room", channel)
        await here.group_send("room", {"n": "old"})
        await wait_until_async(lambda: stats_of(there)["delivered"] == 1, "the old one to arrive")
        grow_old(there, channel)
        await here.group_send("room", {"n": "new"})
        assert await next_message(there, channel) == {"n": "new"}
        assert stats_of(there)["dropped.expired"] == 1

    async def test_a_message_that_arrives_too_late_is_not_received(
        self, make_layer: Layers
    ) -> None:
        here, there = make_layer(), make_layer(expiry=30)
        channel = await there.new_channel()
        await there.group_add("room", channel)
        let_pass(there, 31)
        await here.group_send("room", {"n": "late"})
        await wait_until_async(lambda: stats_of(there)["dropped.expired"] == 1, "it to be dropped")
        let_pass(there, -31)
        await here.group_send("room", {"n": "in time"})
        assert await next_message(there, channel) == {"n": "in time"}


class TestNamesAndTypes:
    async def test_channel_names_that_are_not_legal(self, servers: Servers) -> None:
        layer = servers[0]
        for name in ILLEGAL_CHANNELS:
            for call in (
                layer.send(name, {}),
                layer.receive(name),
                layer.group_add("room", name),
                layer.group_discard("room", name),
                layer.user_add("someone", name),
                layer.send_many([name], {}),
            ):
                await raises_type_error(call, name)

    async def test_group_names_that_are_not_legal(self, servers: Servers) -> None:
        layer = servers[0]
        channel = await layer.new_channel()
        for name in ILLEGAL_GROUPS:
            for call in (
                layer.group_send(name, {}),
                layer.group_add(name, channel),
                layer.group_discard(name, channel),
                layer.group_send_many(["fine", name], {}),
            ):
                await raises_type_error(call, name)

    async def test_user_ids_that_are_not_legal(self, servers: Servers) -> None:
        layer = servers[0]
        channel = await layer.new_channel()
        for user_id in ("", None, True, 1.5, b"bytes"):
            for call in (
                layer.user_send(user_id, {}),  # type: ignore[arg-type]
                layer.user_add(user_id, channel),  # type: ignore[arg-type]
                layer.user_discard(user_id, channel),  # type: ignore[arg-type]
                layer.user_send_many([user_id], {}),  # type: ignore[list-item]
            ):
                await raises_type_error(call, user_id)

    async def test_messages_that_are_not_dicts(self, servers: Servers) -> None:
        layer = servers[0]
        channel = await layer.new_channel()
        for message in NO_MESSAGES:
            for call in (
                layer.send(channel, message),
                layer.group_send("room", message),
                layer.user_send("someone", message),
                layer.all_send(message),
                layer.send_many([channel], message),
            ):
                await raises_type_error(call, message)

    async def test_a_string_is_no_collection_of_names(self, make_layer: Layers) -> None:
        layer = make_layer()
        for call in (
            layer.send_many("name", {}),
            layer.group_send_many("name", {}),
            layer.user_send_many("name", {}),
            layer.group_send("room", {}, exclude="name"),
        ):
            await raises_type_error(call, "name")

    async def test_a_worker_channel_cannot_be_in_a_group(self, make_layer: Layers) -> None:
        with pytest.raises(ValueError, match="worker channel"):
            await make_layer().group_add("room", "thumbnails")

    @pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
    async def test_a_message_to_a_name_that_no_layer_gave_is_dropped(
        self, make_layer: Layers, sync: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Stored by another layer, or sent by an old page: the specification knows no error."""
        layer = make_layer()
        name = "specific.made-up!abc"
        if sync:
            await asyncio.to_thread(layer.send_sync, name, {})
        else:
            await layer.send(name, {})
        assert layer.stats().dropped == {"foreign": 1}
        assert [each for each in caplog.records if name in each.getMessage()]

    async def test_a_name_that_no_layer_gave_is_in_no_group(self, make_layer: Layers) -> None:
        layer = make_layer()
        await layer.group_discard("room", "specific.made-up!abc")
        await layer.user_discard("me", "specific.made-up!abc")
        with pytest.raises(ValueError, match="new_channel"):
            await layer.group_add("room", "specific.made-up!abc")
        with pytest.raises(ValueError, match="new_channel"):
            await layer.receive("specific.made-up!abc")

    async def test_receiving_on_a_channel_of_another_server(self, servers: Servers) -> None:
        here, there, _ = servers
        channel = await there.new_channel()
        with pytest.raises(ValueError, match="only that one can receive"):
            await here.receive(channel)

    async def test_new_channel_names(self, servers: Servers) -> None:
        here, there, _ = servers
        names = [await layer.new_channel() for _ in range(200) for layer in (here, there)]
        assert len(set(names)) == 400
        for name in names:
            here.require_valid_channel_name(name)
            assert name.startswith("specific.")
            assert len(name) < 100
        assert (await here.new_channel("mine")).startswith("mine.")
        assert (await here.new_channel(prefix="mine.")).startswith("mine.")

    async def test_new_channel_with_a_prefix_that_is_not_legal(self, servers: Servers) -> None:
        layer = servers[0]
        for prefix in ("ä", "with space", "x" * 90):
            with pytest.raises(TypeError):
                await layer.new_channel(prefix)

    async def test_the_extensions(self, make_layer: Layers) -> None:
        layer = make_layer()
        assert set(layer.extensions) == {"groups", "flush"}


async def sent(layer: KafkaChannelLayer, channel: str) -> bool:
    try:
        await layer.send(channel, {})
    except ChannelFull:
        return False
    return True


async def raises_type_error(call: Awaitable[Any], value: object) -> None:
    try:
        await call
    except TypeError:
        return
    pytest.fail(f"{call} took {value!r}")


def grow_old(layer: KafkaChannelLayer, channel: str) -> None:
    """Have what waits in a channel be as old as if it waited for ``expiry`` and more."""
    mailbox = server_of(layer).registry.mailbox(channel)
    assert mailbox is not None
    for _ in range(len(mailbox)):
        waiting = mailbox.take()
        assert waiting is not None
        waiting.deadline -= layer.config.expiry + 1
        assert mailbox.put(waiting)
