"""The first use of a fresh prefix on several brokers, of which some learn of its topics later."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import pytest

from tests.faults.conftest import LayersOn
from tests.support.kafka import RealCluster
from tests.support.layers import next_message


@pytest.fixture(scope="module")
def cluster(real_broker_tools: None) -> Iterator[RealCluster]:
    with RealCluster(3, heap_mb=256) as brokers:
        yield brokers


async def test_servers_start_on_fresh_topics_and_reach_each_other(
    cluster: RealCluster, layers_on: LayersOn
) -> None:
    make_layer = layers_on(cluster.bootstrap_servers)
    for _ in range(12):
        prefix = f"fresh-{secrets.token_hex(4)}"
        layers = [make_layer(prefix=prefix) for _ in range(2)]
        channels = await asyncio.gather(*(each.new_channel() for each in layers))
        for layer, channel in zip(layers, channels, strict=True):
            await layer.group_add("room", channel)
        await layers[0].group_send("room", {"n": 1})
        for layer, channel in zip(layers, channels, strict=True):
            assert await next_message(layer, channel) == {"n": 1}
        await asyncio.gather(*(each.close() for each in layers))
