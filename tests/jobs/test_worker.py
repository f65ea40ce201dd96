"""The worker of ``runworker`` tells the layer how each job ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.exceptions import StopConsumer
from channels.layers import InMemoryChannelLayer, channel_layers

from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.testing import InMemoryKafkaChannelLayer
from kafka_layer.worker import OneAtATimeWorker
from tests.support.layers import Backend, Layers, memory_backend, stats_of, unhurried
from tests.support.waiting import PATIENCE, wait_until_async

DEADLINE = PATIENCE


@pytest.fixture(scope="session")
def backend() -> Backend:
    return unhurried(memory_backend())


@pytest.fixture
def layer(make_layer: Layers) -> KafkaChannelLayer:
    return make_layer(prefix="worker")


class Consumer(AsyncConsumer):  # type: ignore[misc]
    async def good(self, message: dict[str, Any]) -> None:
        pass

    async def slow(self, message: dict[str, Any]) -> None:
        await asyncio.sleep(0.005)

    async def bad(self, message: dict[str, Any]) -> None:
        raise RuntimeError("fails on purpose")

    async def last(self, message: dict[str, Any]) -> None:
        raise StopConsumer


class BlockingConsumer(SyncConsumer):  # type: ignore[misc]
    def good(self, message: dict[str, Any]) -> None:
        pass

    def bad(self, message: dict[str, Any]) -> None:
        raise RuntimeError("fails on purpose")


@contextlib.asynccontextmanager
async def working(layer: Any, application: Any) -> AsyncIterator[OneAtATimeWorker]:
    worker = OneAtATimeWorker(application, ["jobs"], layer)
    task = asyncio.create_task(worker.handle())
    yield worker
    task.cancel()
    await asyncio.wait([task])


def ended(layer: KafkaChannelLayer) -> tuple[int, int]:
    """How many jobs were reported as done, and as failed."""
    counted = stats_of(layer)
    return counted["jobs.done"], counted["jobs.failed"]


@pytest.mark.parametrize("consumer", [Consumer, BlockingConsumer])
async def test_a_handler_that_returned_is_done_and_one_that_raised_failed(
    layer: KafkaChannelLayer, consumer: Any
) -> None:
    for kind in ("good", "bad", "good", "unheard-of", "good"):
        await layer.send("jobs", {"type": kind})
    async with working(layer, consumer.as_asgi()):
        await wait_until_async(lambda: ended(layer) == (3, 2), "five jobs to end")


async def test_a_consumer_that_stops_has_done_its_job(layer: KafkaChannelLayer) -> None:
    for kind in ("last", "good", "last"):
        await layer.send("jobs", {"type": kind})
    async with working(layer, Consumer.as_asgi()):
        await wait_until_async(lambda: ended(layer) == (3, 0), "three jobs to end")


async def test_a_message_without_type_failed(layer: KafkaChannelLayer) -> None:
    await layer.send("jobs", {"n": 1})
    await layer.send("jobs", {"type": "good"})
    async with working(layer, Consumer.as_asgi()):
        await wait_until_async(lambda: ended(layer) == (1, 1), "two jobs to end")


async def test_a_job_that_the_application_did_not_even_receive_failed(
    layer: KafkaChannelLayer,
) -> None:
    async def application(scope: object, receive: object, send: object) -> None:
        pass

    await layer.send("jobs", {"type": "good"})
    async with working(layer, application):
        await wait_until_async(lambda: ended(layer) == (0, 1), "the job to end")


async def test_a_job_is_not_done_before_its_handler_returned(layer: KafkaChannelLayer) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def application(scope: object, receive: Any, send: object) -> None:
        await receive()
        begun.set()
        await go_on.wait()

    await layer.send("jobs", {"type": "good"})
    async with working(layer, application):
        await asyncio.wait_for(begun.wait(), PATIENCE)
        assert ended(layer) == (0, 0)
        go_on.set()
        await wait_until_async(lambda: ended(layer) == (1, 0), "the job to end")


async def test_a_layer_of_another_package_is_served_without_reports() -> None:
    done: list[Any] = []

    async def application(scope: object, receive: Any, send: object) -> None:
        while True:
            done.append(await receive())

    other = InMemoryChannelLayer()
    await other.send("jobs", {"type": "good"})
    async with working(other, application):
        await wait_until_async(lambda: done == [{"type": "good"}], "the job to arrive")


async def test_consumers_of_a_worker_are_no_audience_of_messages_to_all(
    layer: KafkaChannelLayer, settings: Any
) -> None:
    # A consumer without a handler for them raised, and the job in hand was lost.
    listener = layer
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "kafka_layer.testing.InMemoryKafkaChannelLayer",
            "CONFIG": {"prefix": layer.config.prefix},
        }
    }
    own = channel_layers["default"]
    channel = await listener.new_channel()
    async with working(own, Consumer.as_asgi()):
        await listener.send("jobs", {"type": "good"})
        await wait_until_async(lambda: sum(ended(own)) == 1, "the consumer to have its channel")
        for _ in range(20):
            await listener.send("jobs", {"type": "slow"})
            await listener.all_send({"type": "news"})
        await wait_until_async(lambda: sum(ended(own)) == 21, "21 jobs to end")
        for _ in range(20):
            assert (await listener.receive(channel))["type"] == "news"
        assert ended(own) == (21, 0)
        assert own.stats().channels == 1
    await own.close()


async def test_a_worker_stays_no_audience_after_a_close(layer: KafkaChannelLayer) -> None:
    layer.leave_audience()
    await layer.close()
    channel = await layer.new_channel()
    await layer.all_send({"type": "news"})
    await layer.send(channel, {"type": "direct"})
    await layer.send("jobs", {"type": "job"})
    assert await layer.receive(channel) == {"type": "direct"}
    assert stats_of(layer)["delivered"] == 1


async def test_a_worker_that_leaves_while_another_thread_starts_anew_is_no_audience() -> None:
    class LeavesAtTheLastMoment(InMemoryKafkaChannelLayer):
        """A layer that leaves when its second server is made, and not in use yet."""

        def __setattr__(self, name: str, value: object) -> None:
            if name == "_server" and hasattr(self, "_server"):
                self.leave_audience()
            super().__setattr__(name, value)

    layer = LeavesAtTheLastMoment(prefix="leaves")
    await layer.new_channel()
    await layer.close()
    channel = await layer.new_channel()
    await layer.all_send({"type": "news"})
    await layer.send(channel, {"type": "direct"})
    await layer.send("jobs", {"type": "job"})
    assert await layer.receive(channel) == {"type": "direct"}
    assert stats_of(layer)["delivered"] == 1
    await layer.close()


class Choosy:
    """A serializer that cannot read every job."""

    def dumps(self, message: dict[str, Any]) -> bytes:
        return json.dumps(message).encode()

    def loads(self, data: bytes) -> Any:
        message = json.loads(data)
        if message["type"] == "unreadable":
            raise ValueError("no such type")
        return message


@pytest.mark.parametrize("receive", ["receive", "receive_job"])
async def test_a_job_that_cannot_be_read_is_done(make_layer: Layers, receive: str) -> None:
    layer = make_layer(prefix=f"choosy-{receive}", serializer=Choosy())
    waiting = asyncio.create_task(getattr(layer, receive)("jobs"))
    await layer.send("jobs", {"type": "unreadable"})
    await wait_until_async(lambda: ended(layer) == (1, 0), "the job to be done")
    await layer.send("jobs", {"type": "good"})
    await asyncio.wait_for(waiting, DEADLINE)
