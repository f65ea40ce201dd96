"""flush, close, and the life of a channel."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest
from channels.exceptions import ChannelFull

from kafka_layer.config.timings import Timings
from kafka_layer.layer import KafkaChannelLayer
from tests.support.inspect import server_of
from tests.support.layers import (
    WORKER_CHANNEL,
    Layers,
    begin_receive,
    next_message,
    stats_of,
)
from tests.support.patience import START
from tests.support.waiting import PATIENCE, wait_until_async

MESSAGE = {"type": "test.message"}
BARRIER = {"type": "barrier"}

Later = Callable[[float], None]


class TestFlush:
    async def test_messages_and_groups_of_all_servers_are_gone(self, make_layer: Layers) -> None:
        here, there = make_layer(), make_layer()
        channels = [(layer, await layer.new_channel()) for layer in (here, there)]
        for layer, channel in channels:
            await layer.group_add("room", channel)
            await layer.user_add("me", channel)
            await layer.send(channel, MESSAGE)
        await here.flush()
        assert here.stats().groups == here.stats().users == 0
        # Counted at its end.
        await wait_until_async(
            lambda: stats_of(there)["dropped.flushed"] == 1, "the other server to be flushed"
        )
        assert there.stats().groups == there.stats().users == 0
        for layer, channel in channels:
            await layer.send(channel, BARRIER)
            assert await next_message(layer, channel) == BARRIER
            assert stats_of(layer)["dropped.flushed"] == 1

    async def test_its_synchronous_twin(self, make_layer: Layers) -> None:
        layer = make_layer()
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.send(channel, MESSAGE)
        await layer.send(WORKER_CHANNEL, MESSAGE)
        await asyncio.to_thread(layer.flush_sync)
        assert layer.stats().groups == 0
        await layer.send(channel, BARRIER)
        assert await next_message(layer, channel) == BARRIER

    async def test_channels_are_usable_afterwards(self, make_layer: Layers) -> None:
        here, there = make_layer(), make_layer()
        channel = await here.new_channel()
        waiting = await begin_receive(here, channel)
        await here.flush()
        await there.send(channel, MESSAGE)
        assert await waiting == MESSAGE
        await here.group_add("room", channel)
        await there.group_send("room", MESSAGE)
        assert await next_message(here, channel) == MESSAGE

    async def test_a_flush_by_a_server_that_only_sends(self, make_layer: Layers) -> None:
        here, there = make_layer(), make_layer()
        channel = await there.new_channel()
        await there.group_add("room", channel)
        await here.flush()
        await wait_until_async(lambda: not there.stats().groups, "the other server to be flushed")

    async def test_a_flush_travels_encrypted(self, make_layer: Layers) -> None:
        here, there = (make_layer(symmetric_encryption_keys=["secret"]) for _ in range(2))
        await there.group_add("room", await there.new_channel())
        await here.flush()
        await wait_until_async(lambda: not there.stats().groups, "the other server to be flushed")


class TestClose:
    async def test_it_is_idempotent(self, make_layer: Layers) -> None:
        layer = make_layer()
        await layer.close()
        await layer.new_channel()
        await layer.close()
        await layer.close()
        await asyncio.gather(layer.close(), layer.close())

    async def test_a_closed_layer_starts_anew(self, make_layer: Layers) -> None:
        layer, other = make_layer(), make_layer()
        before = await layer.new_channel()
        await layer.group_add("room", before)
        await layer.close()
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await other.group_send("room", MESSAGE)
        assert await next_message(layer, channel) == MESSAGE
        with pytest.raises(ValueError, match="of server"):
            await layer.receive(before)

    async def test_what_was_sent_before_is_delivered(self, make_layer: Layers) -> None:
        here, there = make_layer(), make_layer(capacity=2000)
        channel = await there.new_channel()
        await there.group_add("room", channel)
        for number in range(1000):
            await here.group_send("room", {"n": number})
        await here.close()
        for number in range(1000):
            assert await next_message(there, channel) == {"n": number}

    async def test_closing_while_it_starts_leaves_nothing_running(self, make_layer: Layers) -> None:
        layer = make_layer()
        for delay in (0, 0.001, 0.005, 0.01, 0.02, 0.04, 0.06):
            server = server_of(layer)
            starting = asyncio.create_task(layer.new_channel())
            await asyncio.sleep(delay)
            await layer.close()
            await asyncio.wait([starting], timeout=2 * START)
            assert starting.done()
            starting.exception()  # it may have failed
            await wait_until_async(
                lambda server=server: not server.receiving and not server.sender.is_open,
                f"nothing to be started any more ({delay} s)",
            )


class TestLifeOfAChannel:
    """A channel is forgotten when nobody can receive on it any more, and not before."""

    async def test_the_name_is_held(self, make_layer: Layers, later: Later) -> None:
        here, there = make_layer(), make_layer()
        channel = await there.new_channel()
        await there.group_add("room", channel)
        sweeps(there, later)
        await here.group_send("room", MESSAGE)
        assert await next_message(there, channel) == MESSAGE

    async def test_a_receive_waits_on_a_copy_of_the_name(
        self, make_layer: Layers, later: Later
    ) -> None:
        here, there = make_layer(), make_layer()
        name = await there.new_channel()
        copy = "".join(name)
        await there.group_add("room", name)
        waiting = await begin_receive(there, copy)
        del name
        gc.collect()
        sweeps(there, later)
        await here.group_send("room", MESSAGE)
        assert await waiting == MESSAGE

    async def test_nobody_holds_the_name(self, make_layer: Layers, later: Later) -> None:
        here, there = make_layer(), make_layer()
        name = await there.new_channel()
        copy = "".join(name)
        await there.group_add("room", name)
        await there.user_add("me", name)
        await there.send(name, MESSAGE)
        del name
        gc.collect()
        registry = server_of(there).registry
        sweeps(there, later)
        assert len(registry) == len(registry.groups) == len(registry.users) == 0
        # A group_add changes nothing then, from wherever it comes.
        await there.group_add("room", copy)
        await here.group_add("room", copy)
        assert len(registry.groups) == 0
        # A receive brings it back to life, without its groups.
        waiting = await begin_receive(there, copy)
        await here.send(copy, BARRIER)
        assert await waiting == BARRIER

    async def test_a_websocket_that_is_gone_is_forgotten_long_before_expiry(
        self, make_layer: Layers
    ) -> None:
        make_layer.timings = Timings(upkeep=0.1)
        here, there = make_layer(), make_layer(expiry=60)
        registry = server_of(there).registry
        for _ in range(2):
            # As a consumer does: it receives by the very name, and ends in a receive.
            name = await there.new_channel()
            await there.group_add("room", name)
            await there.send(name, MESSAGE)
            assert await next_message(there, name) == MESSAGE
            waiting = await begin_receive(there, name)
            waiting.cancel()
            await asyncio.wait([waiting])
            del name, waiting
        gc.collect()
        await wait_until_async(lambda: not len(registry), "both to be forgotten")
        assert len(registry.groups) == 0
        await here.group_send("room", MESSAGE)

    async def test_a_copy_that_receives_keeps_the_channel_while_it_handles_a_message(
        self, make_layer: Layers
    ) -> None:
        layer = make_layer(expiry=60)
        name = await layer.new_channel()
        copy = "".join(name)
        await layer.group_add("room", name)
        await layer.send(name, MESSAGE)
        assert await next_message(layer, copy) == MESSAGE
        await layer.send(name, MESSAGE)
        assert await next_message(layer, name) == MESSAGE
        del name
        gc.collect()
        for _ in range(3):
            server_of(layer).registry.sweep()  # no receive waits: it handles the message
        await layer.group_send("room", BARRIER)
        assert await next_message(layer, copy) == BARRIER

    async def test_not_before_expiry_has_passed(self, make_layer: Layers) -> None:
        layer = make_layer()
        copy = "".join(await layer.new_channel())
        gc.collect()
        await layer.group_add("room", copy)
        server_of(layer).registry.sweep()
        await layer.group_send("room", MESSAGE)
        assert await next_message(layer, copy) == MESSAGE

    async def test_group_expiry_ends_a_silent_channel_whoever_holds_it(
        self, make_layer: Layers, later: Later
    ) -> None:
        layer = make_layer()
        silent, waits = await layer.new_channel(), await layer.new_channel()
        waiting = await begin_receive(layer, waits)
        await layer.group_add("room", waits)
        await layer.group_add("room", silent)
        registry = server_of(layer).registry
        later(layer.config.group_expiry)
        registry.sweep()
        assert registry.mailbox(silent) is None
        await layer.group_send("room", MESSAGE)
        assert await waiting == MESSAGE

    async def test_a_receive_that_found_its_channel_just_before_it_was_forgotten(
        self, make_layer: Layers, later: Later
    ) -> None:
        here, there = make_layer(), make_layer()
        copy = "".join(await there.new_channel())
        gc.collect()
        registry = server_of(there).registry
        found = registry.mailbox
        orphan = found(copy)
        sweeps(there, later)
        assert not len(registry)
        registry.mailbox = lambda _: orphan
        waiting = asyncio.create_task(there.receive(copy))
        await asyncio.sleep(0)
        registry.mailbox = found
        await wait_until_async(lambda: found(copy) is not None, "it to come back")
        await here.send(copy, MESSAGE)
        assert await asyncio.wait_for(waiting, PATIENCE) == MESSAGE

    async def test_messages_of_a_forgotten_channel_are_counted(self, make_layer: Layers) -> None:
        make_layer.timings = Timings(upkeep=0.1)
        layer = make_layer(expiry=0.2)
        copy = "".join(await layer.new_channel())
        await layer.send(copy, MESSAGE)
        gc.collect()
        await wait_until_async(
            lambda: stats_of(layer)["dropped.closed"] == 1, "the upkeep to forget it"
        )
        await layer.send(copy, MESSAGE)
        assert stats_of(layer)["dropped.closed"] == 2

    async def test_a_channel_that_nobody_holds_never_blocks_the_others(
        self, make_layer: Layers
    ) -> None:
        # Who waits for it waits for longer than a message is waited for below.
        make_layer.timings = Timings(stalled=10 * PATIENCE, holding_up=10 * PATIENCE)
        here, there = make_layer(), make_layer(capacity=5)
        abandoned = "".join(await there.new_channel())
        alive = await there.new_channel()
        gc.collect()
        for channel in (abandoned, alive):
            await there.group_add("room", channel)
        for _ in range(5):
            await there.send(abandoned, MESSAGE)
        with pytest.raises(ChannelFull):
            await there.send(abandoned, MESSAGE)
        for number in range(100):
            await here.group_send("room", {"n": number})
            assert await next_message(there, alive) == {"n": number}
        assert stats_of(there)["dropped.closed"] == 100


def sweeps(layer: KafkaChannelLayer, later: Later) -> None:
    """Let the layer look for channels to forget again and again, past their expiry."""
    for _ in range(3):
        server_of(layer).registry.sweep()
        later(layer.config.expiry + 1)
