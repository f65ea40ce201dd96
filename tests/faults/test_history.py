"""The history where there never was a Kafka, and in a forked child."""

from __future__ import annotations

import asyncio
import multiprocessing

import pytest

from kafka_layer.config.timings import Timings
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.testing import EmbeddedBroker
from tests.faults.asking import DEADLINE, send, unavailable
from tests.support.patience import PatientLayer


class HastyLayer(KafkaChannelLayer):
    timings = Timings(start=1.0)


async def test_where_there_never_was_a_broker() -> None:
    config = {"bootstrap_servers": "127.0.0.1:1", "client_config": {"log_level": 0}}
    layer = HastyLayer(**config)
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
    layer = PatientLayer(**embedded.config(prefix=prefix))
    await send(layer, 1)
    await asyncio.to_thread(ask)
    for _ in range(2):
        child = multiprocessing.get_context("fork").Process(target=ask)
        child.start()
        await asyncio.to_thread(child.join, DEADLINE)
        assert child.exitcode == 0
    await asyncio.to_thread(ask)
    await layer.close()
