"""The streams of a server: who waits for their starts, on the layer in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from kafka_layer.config.timings import Timings
from kafka_layer.delivery.tickets import Ticket
from kafka_layer.testing.streams import InMemoryStream
from tests.support.layers import Layers, memory_backend
from tests.support.waiting import PATIENCE, wait_until_async


@pytest.fixture
def make_layer() -> Iterator[Layers]:
    layers = Layers(memory_backend())
    yield layers
    layers.close()


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Ticket[None]]:
    """The tickets of the starts of streams; the test resolves them."""
    begun: list[Ticket[None]] = []

    def begin(stream: InMemoryStream, start: Any) -> Ticket[None]:
        begun.append(Ticket())
        return begun[-1]

    monkeypatch.setattr(InMemoryStream, "begin", begin)
    return begun


STREAMS = {"orders": {"topic": "shop.orders", "group": "all", "type": "order.changed"}}


async def test_each_channel_that_is_opened_meanwhile_waits_for_the_start(
    make_layer: Layers, starts: list[Ticket[None]]
) -> None:
    """What is written when ``new_channel`` has returned reaches the channel: also the second."""
    layer = make_layer(streams=STREAMS, timings=Timings(stream_start=3600.0))
    channels = [asyncio.create_task(layer.new_channel())]
    await wait_until_async(lambda: starts, "the stream to begin")
    channels += [asyncio.create_task(layer.new_channel()) for _ in range(2)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(each.done() for each in channels)
    starts[0].resolve(None)
    await asyncio.wait_for(asyncio.gather(*channels), PATIENCE)
    assert len(starts) == 1


async def test_a_start_that_takes_too_long_holds_up_no_further_channel(
    make_layer: Layers, starts: list[Ticket[None]]
) -> None:
    layer = make_layer(streams=STREAMS, timings=Timings(stream_start=0.05))
    await asyncio.wait_for(layer.new_channel(), PATIENCE)
    (start,) = starts
    assert start.done
