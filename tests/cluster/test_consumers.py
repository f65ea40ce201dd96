"""Channels' own consumers on the layer: long handlers, and many that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Sized
from typing import Any

from channels.consumer import AsyncConsumer

from kafka_layer.delivery.registry import Registry
from kafka_layer.layer import KafkaChannelLayer
from tests.support.inspect import server_of
from tests.support.layers import Layers, begin_receive, is_empty_after_sweep
from tests.support.waiting import wait_until_async

CONSUMERS = 1_200
AT_ONCE = 150


class Room(AsyncConsumer):
    """Joins a group, receives from it until it is told to go."""

    channel_layer_alias = "default"
    connected = 0
    received = 0

    async def websocket_connect(self, message: dict[str, Any]) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        Room.connected += 1

    async def room_message(self, message: dict[str, Any]) -> None:
        Room.received += 1

    async def room_slow(self, message: dict[str, Any]) -> None:
        Room.received += 1
        await asyncio.sleep(message["seconds"])

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        await self.channel_layer.group_discard("room", self.channel_name)


class Connection:
    """What daphne does for one websocket: a consumer, its queue of events, its task."""

    def __init__(self, layer: KafkaChannelLayer) -> None:
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._events.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.create_task(self._serve(layer))

    async def _serve(self, layer: KafkaChannelLayer) -> None:
        consumer = Room()
        with of_alias(layer):
            await consumer({"type": "websocket"}, self._events.get, ignore)

    def end(self, *, politely: bool) -> None:
        if politely:
            self._events.put_nowait({"type": "websocket.disconnect"})
        self.task.cancel()


async def ignore(message: dict[str, Any]) -> None:
    pass


@contextlib.contextmanager
def of_alias(layer: KafkaChannelLayer) -> Any:
    from channels import layers

    layers.channel_layers.set("default", layer)
    yield


async def test_a_handler_that_runs_longer_than_expiry_keeps_its_groups(make_layer: Layers) -> None:
    here, there = make_layer(), make_layer(expiry=0.3)
    Room.connected = Room.received = 0
    connection = Connection(there)
    await wait_until_async(lambda: Room.connected == 1, "the consumer to connect")

    def starts() -> bool:
        # Again: on a slow machine one expires on its way.
        here.group_send_sync("room", {"type": "room.slow", "seconds": 2})
        return Room.received > 0

    await wait_until_async(starts, "the slow handler to start", pause=0.3)
    started = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - started < 1.5:
        gc.collect()
        server_of(there).registry.sweep()
        await asyncio.sleep(0.1)
    assert there.stats().groups == 1
    received = Room.received
    await wait_until_async(
        lambda: _sent(here) and Room.received > received, "it to receive again", pause=0.1
    )
    connection.end(politely=False)
    await asyncio.wait([connection.task])


def sizes_of(registry: Registry) -> dict[tuple[str, str], int]:
    """Return how much each field of a registry and its memberships holds."""
    parts = {"": registry, "groups": registry.groups, "users": registry.users}
    return {
        (part, name): len(value)
        for part, holder in parts.items()
        for name, value in vars(holder).items()
        if isinstance(value, Sized)
    }


async def test_consumers_that_come_and_go_leave_nothing_behind(make_layer: Layers) -> None:
    here, there = make_layer(), make_layer(expiry=0.3, capacity=100)
    Room.connected = Room.received = 0
    registry = server_of(there).registry
    threads = objects = 0
    for generation in range(CONSUMERS // AT_ONCE):
        if generation == 3:  # warm by now
            gc.collect()
            await wait_until_async(lambda: is_empty_after_sweep(registry), "a clean start")
            threads, objects = threading.active_count(), len(gc.get_objects())
        connections = [Connection(there) for _ in range(AT_ONCE)]
        expected = (generation + 1) * AT_ONCE
        await wait_until_async(
            lambda expected=expected: Room.connected == expected, f"{expected} to connect"
        )
        await here.group_send("room", {"type": "room.message"})
        for number, connection in enumerate(connections):
            connection.end(politely=number % 2 == 0)
        await asyncio.wait([connection.task for connection in connections])
        del connection, connections
    gc.collect()
    await wait_until_async(
        # The layer's own thread may be at a channel that is gone from the registry already.
        lambda: is_empty_after_sweep(registry) and not registry.groups and not registry.users,
        "the registry to be empty",
    )
    await wait_until_async(lambda: threading.active_count() <= threads, "threads to end")

    def new_objects() -> int:
        # Not the size of the process, which depends on what ran before.
        gc.collect()
        return len(gc.get_objects()) - objects

    await wait_until_async(lambda: new_objects() < 100, "the objects to go", pause=0.2)
    assert sizes_of(registry) == sizes_of(Registry(there.config))
    # and the layer works
    channel = await there.new_channel()
    await there.group_add("room", channel)
    receiving = await begin_receive(there, channel)
    await wait_until_async(lambda: _sent(here) and receiving.done(), "a message", pause=0.1)
    assert await receiving == {"type": "room.message"}


def _sent(layer: KafkaChannelLayer) -> bool:
    layer.group_send_sync("room", {"type": "room.message"})
    return True
