"""What holds on every backplane: in memory, on the embedded broker and on a real Kafka."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.testing.embedded import EmbeddedBroker
from tests.cluster.workers.conftest import working
from tests.support.layers import (
    Backend,
    Layers,
    backend_named,
    next_message,
    next_messages,
    stats_of,
)
from tests.support.waiting import wait_until, wait_until_async

MakeWorkers = Callable[..., list[KafkaChannelLayer]]


@pytest.fixture(scope="module", params=["memory", "embedded", "kafka"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_named(request.param, request)


@pytest.fixture
def make_workers(
    request: pytest.FixtureRequest, backend: Backend, make_layer: Layers, channel: str
) -> MakeWorkers:
    """Makes layers that share ``channel``."""
    if backend.name == "embedded":
        # It can create no topics on request.
        embedded: EmbeddedBroker = request.getfixturevalue("embedded")
        embedded.config(prefix=make_layer.prefix, worker_channels={channel: {}})

    def make(count: int, **config: object) -> list[KafkaChannelLayer]:
        # The embedded broker shares groups with this protocol only.
        keywords = {"worker_group_protocol": "consumer", **config}
        return [make_layer(**keywords) for _ in range(count)]

    return make


async def test_each_message_is_handed_to_one_receiver(
    make_workers: MakeWorkers, channel: str
) -> None:
    sender, *layers = make_workers(3)
    got: Counter[int] = Counter()

    async def receive(layer: KafkaChannelLayer) -> None:
        while True:
            got[(await layer.receive(channel))["n"]] += 1

    tasks = [asyncio.create_task(receive(layer)) for layer in layers]
    for number in range(200):
        await sender.send(channel, {"n": number})
    await wait_until_async(lambda: len(got) == 200, "200 messages", 60)
    assert set(got.values()) == {1}
    for task in tasks:
        task.cancel()


async def test_messages_wait_for_a_receiver(make_workers: MakeWorkers, channel: str) -> None:
    sender, receiver = make_workers(2)
    for number in range(20):
        await sender.send(channel, {"n": number})
    await sender.close()
    got = await next_messages(receiver, channel, 20)
    assert {message["n"] for message in got} == set(range(20))


async def test_a_cancelled_receive_and_a_close_lose_nothing(
    make_workers: MakeWorkers, channel: str
) -> None:
    first, second = make_workers(2)
    for number in range(10):
        await first.send(channel, {"n": number})
    await next_message(first, channel)
    receive = asyncio.create_task(first.receive(channel))
    await wait_until_async(lambda: working(first, channel), "a receive to wait", pause=0.0)
    # This blocks the loop, so the receive cannot take what it is given.
    wait_until(lambda: stats_of(first)["delivered"] == 2, "a message to be handed out")
    receive.cancel()
    await asyncio.wait([receive])
    assert receive.cancelled()
    await first.close()
    assert len(await next_messages(second, channel, 9)) == 9


async def test_what_expired_is_dropped_and_counted(make_workers: MakeWorkers, channel: str) -> None:
    sender, receiver = make_workers(2, worker_channels={channel: {"expiry": 0.2}})
    await sender.send(channel, {"n": 1})
    await sender.close()
    until = asyncio.get_running_loop().time() + 0.3
    await wait_until_async(lambda: asyncio.get_running_loop().time() > until, "time to pass")
    receive = asyncio.create_task(next_message(receiver, channel))
    await wait_until_async(lambda: stats_of(receiver)["dropped.expired"] == 1, "a drop")
    while not receive.done():
        # Again: on a slow machine one expires on its way.
        await receiver.send(channel, {"n": 2})
        await asyncio.wait([receive], timeout=0.2)
    assert await receive == {"n": 2}


async def test_a_worker_channel_can_be_in_no_group(make_workers: MakeWorkers, channel: str) -> None:
    [layer] = make_workers(1)
    with pytest.raises(ValueError, match="is a worker channel"):
        await layer.group_add("group", channel)


async def test_every_receiver_gets_its_own_copy_of_what_was_sent(
    make_workers: MakeWorkers, channel: str
) -> None:
    [layer] = make_workers(1, symmetric_encryption_keys=["key"])
    message = {"type": "job", "data": [1, {"a": b"b"}]}
    await layer.send(channel, message)
    got = await next_message(layer, channel)
    assert got == message
    assert got is not message
