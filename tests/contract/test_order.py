"""Order within one process: calls take effect in the order in which they were made."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

import pytest

from kafka_layer.layer import KafkaChannelLayer
from tests.support.layers import Servers, next_message, next_messages
from tests.support.waiting import wait_until_async

ROUNDS = 40
BARRIER = {"type": "barrier"}


class Kind:
    """Groups and users, which are to behave the same."""

    def __init__(self, name: str, sync: bool) -> None:
        self._name = name
        self._sync = sync

    async def _call(self, layer: KafkaChannelLayer, what: str, *arguments: object) -> None:
        method = f"{self._name}_{what}"
        if self._sync:
            await asyncio.to_thread(getattr(layer, f"{method}_sync"), *arguments)
        else:
            await getattr(layer, method)(*arguments)

    async def send(self, layer: KafkaChannelLayer, to: str, message: dict[str, object]) -> None:
        await self._call(layer, "send", to, message)

    async def add(self, layer: KafkaChannelLayer, to: str, channel: str) -> None:
        await self._call(layer, "add", to, channel)

    async def discard(self, layer: KafkaChannelLayer, to: str, channel: str) -> None:
        await self._call(layer, "discard", to, channel)


@pytest.fixture(
    params=[(name, sync) for name in ("group", "user") for sync in (False, True)],
    ids=["group", "group_sync", "user", "user_sync"],
)
def kind(request: pytest.FixtureRequest) -> Kind:
    return Kind(*request.param)


@pytest.fixture
def fresh() -> Callable[[], str]:
    """Makes names that no other test uses."""
    return lambda: f"order-{secrets.token_hex(6)}"


async def test_a_joiner_gets_nothing_that_was_sent_before(
    servers: Servers, kind: Kind, fresh: Callable[[], str]
) -> None:
    layer = servers[0]
    channels = [await layer.new_channel() for _ in range(ROUNDS)]
    for channel in channels:
        name = fresh()
        await kind.send(layer, name, {"sent": "before"})
        await kind.add(layer, name, channel)
        await kind.send(layer, name, {"sent": "after"})
    received = [await next_message(layer, channel) for channel in channels]
    assert received == [{"sent": "after"}] * ROUNDS


async def test_a_leaver_gets_what_was_sent_before(
    servers: Servers, kind: Kind, fresh: Callable[[], str]
) -> None:
    layer = servers[0]
    channels = [await layer.new_channel() for _ in range(ROUNDS)]
    for channel in channels:
        name = fresh()
        await kind.add(layer, name, channel)
        await kind.send(layer, name, {"sent": "before"})
        await kind.discard(layer, name, channel)
        await kind.send(layer, name, {"sent": "after"})
        await layer.send(channel, BARRIER)
    for channel in channels:
        assert await next_messages(layer, channel, 2) == [{"sent": "before"}, BARRIER]


async def test_many_at_the_same_time(servers: Servers, fresh: Callable[[], str]) -> None:
    layer = servers[0]
    channels = [await layer.new_channel() for _ in range(ROUNDS)]
    room = fresh()

    async def comes_and_goes(channel: str) -> list[object]:
        name = fresh()
        await layer.group_send(name, {"sent": "before"})
        await asyncio.gather(layer.group_add(name, channel), layer.group_add(room, channel))
        await layer.group_send(name, {"sent": "within"})
        await layer.group_send(room, {"room": channel})
        await layer.group_discard(name, channel)
        await layer.group_send(name, {"sent": "after"})
        return [await next_message(layer, channel) for _ in range(1)]

    await asyncio.gather(*(comes_and_goes(channel) for channel in channels))
    for channel in channels:
        await layer.group_discard(room, channel)
        await layer.send(channel, BARRIER)
        left = []
        while (message := await next_message(layer, channel)) != BARRIER:
            left.append(message)
        assert {"sent": "before"} not in left
        assert {"sent": "after"} not in left


async def test_a_join_writes_nothing_where_nothing_was_sent(
    servers: Servers, kind: Kind, fresh: Callable[[], str]
) -> None:
    layer = servers[0]
    channel, busy = await layer.new_channel(), fresh()
    await kind.send(layer, busy, {})
    before = sent(layer)
    for _ in range(10):
        name = fresh()
        await kind.add(layer, name, channel)
        await kind.discard(layer, name, channel)
    assert sent(layer) == before
    # And once it was read back, nothing more for that one.
    await kind.add(layer, busy, channel)
    await kind.discard(layer, busy, channel)
    assert sent(layer) == before + 1


def sent(layer: KafkaChannelLayer) -> int:
    """Return how many records a server sent; but for commands, which it sends itself each 30 s."""
    return sum(count for kind, count in layer.stats().sent_by_kind.items() if kind != "command")


async def test_other_servers_ignore_the_marks(servers: Servers, fresh: Callable[[], str]) -> None:
    here, there, _ = servers
    name, channel = fresh(), await there.new_channel()
    await there.group_add(name, channel)
    mine = await here.new_channel()
    for number in range(5):
        await here.group_send(name, {"n": number})
        await here.group_add(name, mine)
        await here.group_discard(name, mine)
    assert await next_messages(there, channel, 5) == [{"n": number} for number in range(5)]
    await there.send(channel, BARRIER)
    assert await next_message(there, channel) == BARRIER
    counted = there.stats()
    await wait_until_async(lambda: there.stats().delivered == counted.delivered, "no more of it")
    assert not counted.dropped
    assert not counted.errors
