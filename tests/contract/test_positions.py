"""Positions from another time and another server: old ones, and those of a server that is ahead."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.messages import Message
from kafka_layer.wire.position_token import LogPosition
from kafka_layer.wire.topics import Topic
from tests.support.inspect import server_of
from tests.support.layers import Layers, let_pass, next_message, next_messages
from tests.support.waiting import wait_until_async

DEADLINE = 30.0


@pytest.fixture
def group() -> str:
    """A group that no other test uses."""
    return f"room-{secrets.token_hex(4)}"


async def tracked(layer: KafkaChannelLayer, group: str) -> str:
    channel = await layer.new_channel()
    layer.track(channel)
    await layer.group_add(group, channel)
    return channel


async def send(layer: KafkaChannelLayer, group: str, *values: object) -> None:
    """Send messages, and return when they are in the log."""
    for value in values:
        await layer.group_send(group, {"n": value})
    await asyncio.to_thread(server_of(layer).transport.settle, DEADLINE)


class TestTime:
    async def test_a_quiet_client_comes_back_after_four_minutes(
        self, make_layer: Layers, group: str
    ) -> None:
        """It never got a message, and what it missed is four times as old as ``expiry``."""
        here, there = make_layer(), make_layer()
        position = here.position(await tracked(here, group))
        await send(here, group, 1, 2)
        for layer in (here, there):
            # The server that starts now reads what it missed from the log.
            channel = await tracked(layer, group)
            let_pass(layer, 240)
            found = await layer.recover(channel, position)
            assert (found.recovered, found.reason) == (True, None)
            assert [each["n"] for each in found.messages] == [1, 2]
            assert found.seconds_away == pytest.approx(240, abs=DEADLINE)

    async def test_a_position_that_moved_in_the_quiet_is_as_young_as_its_last_move(
        self, make_layer: Layers, group: str
    ) -> None:
        layer = make_layer()
        channel = await tracked(layer, group)
        old = layer.position(channel)
        let_pass(layer, 200)
        young = layer.position(channel)
        let_pass(layer, 200)
        again = await tracked(layer, group)
        assert (await layer.recover(again, old)).reason == "expired"
        assert (await layer.recover(again, young)).recovered

    async def test_a_position_of_yesterday(self, make_layer: Layers, group: str) -> None:
        layer = make_layer()
        text = layer.position(await tracked(layer, group))
        position = LogPosition.read(text, layer.config.prefix)
        yesterday = replace(position, time=time.time() - 24 * 3600).sign()
        found = await layer.recover(await tracked(layer, group), yesterday)
        assert (found.reason, found.messages) == ("expired", [])
        assert found.seconds_away > 23 * 3600


class TestAhead:
    async def test_what_another_server_handed_over_does_not_come_again(
        self, make_layer: Layers, group: str
    ) -> None:
        ahead, behind = make_layer(), make_layer()
        first, second = await tracked(ahead, group), await tracked(behind, group)
        async with held(behind, ahead):
            await send(ahead, group, 1, 2, 3)
            *_, last = await next_messages(ahead, first, 2)
            assert isinstance(last, Message)
            found = await behind.recover(second, last.position)
            assert (found.recovered, found.messages) == (True, [])
        await send(ahead, group, 4)
        assert [each["n"] for each in await next_messages(behind, second, 2)] == [3, 4]

    async def test_a_second_loss_while_the_server_is_behind(
        self, make_layer: Layers, group: str
    ) -> None:
        """The position does not fall behind what the browser had, and so repeats nothing."""
        ahead, behind = make_layer(), make_layer()
        first, second = await tracked(ahead, group), await tracked(behind, group)
        async with held(behind, ahead):
            await send(ahead, group, 1, 2)
            message = await next_message(ahead, first)
            assert isinstance(message, Message)
            await behind.recover(second, message.position)
            position = behind.position(second)
        for layer in (behind, ahead):
            again = await tracked(layer, group)
            found = await layer.recover(again, position)
            # Where the server has not read it yet, it comes live.
            got = found.messages or [await next_message(layer, again)]
            assert [each["n"] for each in got] == [2]


@contextlib.asynccontextmanager
async def held(layer: KafkaChannelLayer, other: KafkaChannelLayer) -> AsyncIterator[None]:
    """Hold up the thread with which a layer reads messages; another one sends what it hangs on."""
    reached, released = threading.Event(), threading.Event()
    router, users = server_of(layer).router, server_of(layer).registry.users

    def hang(key: str) -> tuple[()]:
        reached.set()
        assert released.wait(DEADLINE), "nobody let the reading thread go on"
        return ()

    router.register(Topic.SEND_USER, hang)
    try:
        await other.user_send(f"user-{secrets.token_hex(4)}", {})
        await wait_until_async(reached.is_set, "the reading thread to hang")
        yield
    finally:
        router.register(Topic.SEND_USER, users.members)
        released.set()
