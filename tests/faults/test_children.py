"""Children of multiprocessing, however Python makes them: nothing that they sent is lost."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from kafka_layer.config.librdkafka import Properties
from kafka_layer.kafka.clients import new_client
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.testing import EmbeddedBroker
from tests.support.layers import next_messages
from tests.support.patience import PatientLayer

METHODS = multiprocessing.get_all_start_methods()
CHILDREN = 2
SENDS = 200
DEADLINE = 60.0

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

layer: KafkaChannelLayer
"""The layer of this process, as ``get_channel_layer()`` keeps one."""


def send_from_a_layer_of_its_own(config: dict[str, Any], child: int) -> None:
    # Kept beyond the call: a layer that is dropped would close in the background.
    global layer
    layer = PatientLayer(**config)
    send(child)


def send(child: int) -> None:
    for number in range(SENDS):
        layer.group_send_sync("room", {"child": child, "n": number})


async def run(method: str, target: Any, arguments: list[Any]) -> None:
    context = multiprocessing.get_context(method)
    for each in arguments:
        process = context.Process(target=target, args=each)
        process.start()
        await asyncio.to_thread(process.join, DEADLINE)
        assert process.exitcode == 0


def expected(children: int = CHILDREN) -> list[dict[str, int]]:
    return [{"child": child, "n": n} for child in range(children) for n in range(SENDS)]


@pytest.mark.parametrize("method", METHODS)
async def test_a_layer_that_the_child_makes(
    method: str, embedded: EmbeddedBroker, prefix: str
) -> None:
    config = embedded.config(prefix=prefix, capacity=10_000)
    reader = PatientLayer(**config)
    channel = await reader.new_channel()
    await reader.group_add("room", channel)
    await run(method, send_from_a_layer_of_its_own, [(config, n) for n in range(CHILDREN)])
    assert await next_messages(reader, channel, CHILDREN * SENDS) == expected()
    await reader.close()


@pytest.mark.skipif("fork" not in METHODS, reason="this system cannot fork")
@pytest.mark.parametrize("used", [False, True], ids=["unused", "in use"])
async def test_a_layer_that_the_child_inherits(
    used: bool, embedded: EmbeddedBroker, prefix: str
) -> None:
    global layer
    config = embedded.config(prefix=prefix, capacity=10_000)
    reader, layer = PatientLayer(**config), PatientLayer(**config)
    channel = await reader.new_channel()
    await reader.group_add("room", channel)
    if used:
        await layer.group_send("another", {})
    await run("fork", send, [(n,) for n in range(CHILDREN)])
    assert await next_messages(reader, channel, CHILDREN * SENDS) == expected()
    await asyncio.gather(reader.close(), layer.close())


def used_consumer(properties: Properties, topic: str) -> Consumer:
    client = new_client(Consumer, Properties({**properties, "group.id": topic}), "consumer_config")
    where = TopicPartition(topic, 0, 0)
    client.assign([where])
    # Its threads have a fetch and a coordinator by then.
    client.get_watermark_offsets(where, DEADLINE)
    client.committed([where], DEADLINE)
    client.poll(0.2)
    return client


def used_admin(properties: Properties, topic: str) -> AdminClient:
    client = new_client(AdminClient, properties, "admin_config")
    client.list_topics(topic, DEADLINE)
    return client


@pytest.mark.skipif("fork" not in METHODS, reason="this system cannot fork")
@pytest.mark.parametrize("use", [used_consumer, used_admin])
async def test_a_client_that_the_parent_forgot(
    use: Callable[[Properties, str], object], embedded: EmbeddedBroker, prefix: str
) -> None:
    """A child whose garbage collector frees it aborts, or hangs: its threads are not there."""
    embedded.create_topic(prefix, partitions=1)
    properties = Properties({"bootstrap.servers": embedded.bootstrap_servers})
    client = use(properties, prefix)
    forgotten: list[Any] = [client]
    forgotten.append(forgotten)
    gc.disable()
    try:
        del client, forgotten
        await run("fork", gc.collect, [()])
    finally:
        gc.enable()


@pytest.mark.parametrize("method", METHODS)
async def test_the_workers_of_a_pool(method: str, embedded: EmbeddedBroker, prefix: str) -> None:
    config = embedded.config(prefix=prefix, capacity=10_000)
    reader = PatientLayer(**config)
    channel = await reader.new_channel()
    await reader.group_add("room", channel)
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        await asyncio.wrap_future(pool.submit(send_from_a_layer_of_its_own, config, 0))
    assert await next_messages(reader, channel, SENDS) == expected(1)
    await reader.close()


@pytest.mark.parametrize("method", METHODS)
async def test_the_workers_of_a_pool_that_is_terminated(
    method: str, embedded: EmbeddedBroker, prefix: str
) -> None:
    """As ``with Pool() as pool`` does at its end: by SIGTERM, which runs no finalizers."""
    config = embedded.config(prefix=prefix, capacity=10_000)
    # Nothing leaves the queue by itself before the process ends.
    waiting = {**config, "producer_config": {"linger.ms": 30_000}}
    reader = PatientLayer(**config)
    channel = await reader.new_channel()
    await reader.group_add("room", channel)

    def work() -> None:
        with multiprocessing.get_context(method).Pool(1) as pool:
            pool.apply(send_from_a_layer_of_its_own, (waiting, 0))

    await asyncio.wait_for(asyncio.to_thread(work), DEADLINE)
    assert await next_messages(reader, channel, SENDS) == expected(1)
    await reader.close()
