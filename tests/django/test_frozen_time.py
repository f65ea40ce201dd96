"""Tests of projects that freeze or move the time: layers work in them."""

from __future__ import annotations

import asyncio
import datetime
import secrets
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from channels.consumer import AsyncConsumer
from channels.testing import ApplicationCommunicator
from freezegun import freeze_time

from kafka_layer.config.timings import Timings
from kafka_layer.kafka.admin import TopicAdmin
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.testing import InMemoryKafkaChannelLayer
from kafka_layer.wire.topics import Topic, topic_name
from tests.support.layers import Layers, next_message
from tests.support.waiting import PATIENCE, wait_until_async

MOMENT = datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc)
DEADLINE = PATIENCE


@pytest.fixture
def prefix() -> str:
    return f"frozen-{secrets.token_hex(4)}"


@pytest.mark.parametrize("tick", [False, True], ids=["frozen", "ticking"])
@pytest.mark.parametrize("made_before", [False, True], ids=["made within", "made before"])
async def test_messages_arrive_however_the_time_is_moved(
    prefix: str, tick: bool, made_before: bool
) -> None:
    async def joined() -> tuple[InMemoryKafkaChannelLayer, str]:
        layer = InMemoryKafkaChannelLayer(prefix=prefix)
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        return layer, channel

    if made_before:
        layer, channel = await joined()
    with freeze_time(MOMENT, tick=tick) as frozen:
        if not made_before:
            layer, channel = await joined()
        for seconds in (0, 30, 61, 4000, -100_000):
            frozen.move_to(MOMENT + datetime.timedelta(seconds=seconds))
            await layer.group_send("room", {"at": seconds})
            await layer.send(channel, {"at": seconds})
            assert await received(layer, channel) == [{"at": seconds}] * 2
            await layer.send("jobs", {"at": seconds})
            assert await received(layer, "jobs", 1) == [{"at": seconds}]
            assert (await layer.group_history("room")).messages[-1] == {"at": seconds}
    assert layer.stats().dropped == {}
    await layer.close()


async def received(layer: InMemoryKafkaChannelLayer, channel: str, count: int = 2) -> list[Any]:
    """Receive without a time-out: the loop's own clock stands still."""
    return [await layer.receive(channel) for _ in range(count)]


@pytest.mark.parametrize("tick", [False, True], ids=["frozen", "ticking"])
async def test_a_consumer_works_as_with_channels_layer(
    prefix: str, tick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = InMemoryKafkaChannelLayer(prefix=prefix)
    monkeypatch.setattr("channels.consumer.get_channel_layer", lambda alias: layer)

    class Echo(AsyncConsumer):  # type: ignore[misc]
        async def test_start(self, message: Any) -> None:
            await self.channel_layer.group_add("room", self.channel_name)
            await self.send({"type": "test.started"})

        async def chat_message(self, message: Any) -> None:
            await self.send({"type": "test.echo", "text": message["text"]})

    with freeze_time(MOMENT, tick=tick, real_asyncio=True) as frozen:
        consumer = ApplicationCommunicator(Echo(), {"type": "test"})
        await consumer.send_input({"type": "test.start"})
        assert await consumer.receive_output(DEADLINE) == {"type": "test.started"}
        frozen.move_to(MOMENT + datetime.timedelta(hours=2))
        await layer.group_send("room", {"type": "chat.message", "text": "hello"})
        output = await consumer.receive_output(DEADLINE)
        assert output == {"type": "test.echo", "text": "hello"}
        consumer.future.cancel()
        await asyncio.wait([consumer.future])
    await layer.close()


@pytest.mark.parametrize("tick", [False, True], ids=["frozen", "ticking"])
async def test_a_layer_on_a_broker_works_however_the_time_is_moved(
    make_layer: Layers, prefix: str, tick: bool
) -> None:
    make_layer.timings = Timings(topics=0.05)
    with freeze_time(MOMENT, tick=tick, real_asyncio=True) as frozen:
        layer = make_layer(prefix)
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        for number, seconds in enumerate((0, 30, 61, 4000, -100_000)):
            frozen.move_to(MOMENT + datetime.timedelta(seconds=seconds))
            await layer.group_send("room", {"at": seconds})
            assert await next_message(layer, channel) == {"at": seconds}
            # Each one makes a topic, which the broker shows only a moment later.
            await layer.send(f"jobs-{number}", {"at": seconds})
            assert await next_message(layer, f"jobs-{number}") == {"at": seconds}
            await looks_at_the_topics(layer, prefix)
            assert len((await layer.group_history("room")).messages) == number + 1
        await layer.close()


async def looks_at_the_topics(layer: KafkaChannelLayer, prefix: str) -> None:
    """Let the server notice a partition that is added now, and no clock but the real one runs."""
    name = topic_name(prefix, Topic.SEND_ALL)
    partitions = layer._server.transport.partitions(Topic.SEND_ALL) + 1

    def add() -> None:
        with TopicAdmin(layer.config, DEADLINE) as admin:
            admin.add_partitions({name: partitions})

    await asyncio.to_thread(add)
    await wait_until_async(
        lambda: layer._server.transport.partitions(Topic.SEND_ALL) == partitions,
        "the new partition",
    )


@pytest.mark.slow
def test_a_layer_that_is_imported_while_the_time_is_frozen() -> None:
    code = """
        import asyncio
        from freezegun import freeze_time

        async def main():
            from kafka_layer.testing import InMemoryKafkaChannelLayer
            layer = InMemoryKafkaChannelLayer(prefix="frozen")
            channel = await layer.new_channel()
            await layer.send(channel, {"n": 1})
            assert await layer.receive(channel) == {"n": 1}
            await layer.close()

        with freeze_time("2030-01-01"):
            asyncio.run(main())
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=250)
