"""The history while Kafka is away, and in a forked child: an answer or an error in time."""

from __future__ import annotations

import asyncio
import multiprocessing
import time

import pytest

from kafka_layer.exceptions import HistoryUnavailable
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.testing import EmbeddedBroker
from tests.support.inspect import server_of
from tests.support.kafka import RealBroker
from tests.support.layers import Layers
from tests.support.waiting import wait_until_async

IN_TIME = 8.0
"""Seconds: the layer gives up after 5, on a machine that is busy with brokers."""

DEADLINE = 30.0


async def unavailable(layer: KafkaChannelLayer) -> bool:
    """Ask, and fail the test if there is neither an answer nor the error in time."""
    began = time.monotonic()
    try:
        await layer.group_history("room")
    except HistoryUnavailable:
        return True
    finally:
        assert time.monotonic() - began < IN_TIME
    return False


async def says_so_and_comes_back(layer: KafkaChannelLayer, broker: RealBroker, how: str) -> None:
    await layer.group_send("room", {"n": 1})
    await asyncio.to_thread(server_of(layer).transport.settle, DEADLINE)
    assert (await layer.group_history("room")).messages == [{"n": 1}]
    getattr(broker, how)()
    assert await unavailable(layer)
    assert await unavailable(layer)
    await asyncio.to_thread(broker.thaw if how == "freeze" else broker.start)

    async def is_back() -> bool:
        return not await unavailable(layer)

    deadline = time.monotonic() + DEADLINE
    while not await is_back():
        assert time.monotonic() < deadline, "the history did not come back"
    assert (await layer.group_history("room")).messages == [{"n": 1}]


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_while_the_broker_is_away(
    broker: RealBroker, make_layer: Layers, prefix: str, how: str
) -> None:
    layer = make_layer(prefix)
    await says_so_and_comes_back(layer, broker, how)
    await wait_until_async(lambda: layer.stats().state == "connected", "the layer to be connected")


async def test_where_there_never_was_a_broker() -> None:
    config = {"bootstrap_servers": "127.0.0.1:1", "client_config": {"log_level": 0}}
    layer = KafkaChannelLayer(**config)
    assert await unavailable(layer)
    await layer.close()


layer: KafkaChannelLayer


def ask() -> None:
    assert layer.group_history_sync("room").messages == [{"n": 1}]


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork"
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_child_asks_by_itself(embedded: EmbeddedBroker, prefix: str) -> None:
    global layer
    layer = KafkaChannelLayer(**embedded.config(prefix=prefix))
    await layer.group_send("room", {"n": 1})
    await asyncio.to_thread(server_of(layer).transport.settle, DEADLINE)
    await asyncio.to_thread(ask)
    for _ in range(2):
        child = multiprocessing.get_context("fork").Process(target=ask)
        child.start()
        await asyncio.to_thread(child.join, DEADLINE)
        assert child.exitcode == 0
    await asyncio.to_thread(ask)
    await layer.close()
