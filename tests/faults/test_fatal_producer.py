"""A producer that fails for good: librdkafka's own broker is told to answer so."""

from __future__ import annotations

import asyncio
import ctypes
import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError

from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.signals import produce_failed
from kafka_layer.testing import embedded as embedded_module
from kafka_layer.testing.embedded import EmbeddedBroker
from tests.faults.traffic import figure
from tests.support.inspect import server_of
from tests.support.layers import Layers, decoded, embedded_backend, next_messages, stats_of
from tests.support.waiting import PATIENCE, wait_until_async

PRODUCE = 0
INIT_PRODUCER_ID = 22
OUT_OF_ORDER = KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER
NOT_AUTHORIZED = KafkaError.CLUSTER_AUTHORIZATION_FAILED


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    """A broker for one test: answers that nobody fetched would hit the next one."""
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
def make_layer(broker: EmbeddedBroker) -> Iterator[Layers]:
    layers = Layers(embedded_backend(broker))
    yield layers
    layers.close()


@pytest.fixture
def failed() -> Iterator[list[dict[str, Any]]]:
    """What the signal ``produce_failed`` tells."""
    told: list[dict[str, Any]] = []

    def on_failed(**kwargs: Any) -> None:
        told.append(kwargs)

    produce_failed.connect(on_failed)
    yield told
    produce_failed.disconnect(on_failed)


def answer_with(broker: EmbeddedBroker, api: int, code: int, times: int = 1) -> None:
    """Let the next requests of a kind fail."""
    cluster: Any = broker._cluster
    push = embedded_module._load_librdkafka().rd_kafka_mock_push_request_errors_array
    push.restype = None
    push.argtypes = [ctypes.c_void_p, ctypes.c_int16, ctypes.c_size_t, ctypes.c_void_p]
    push(cluster._handle, api, times, (ctypes.c_int * times)(*[code] * times))


async def pair(make_layer: Layers) -> tuple[KafkaChannelLayer, KafkaChannelLayer, str]:
    here, there = make_layer(), make_layer()
    channel = await there.new_channel()
    await there.group_add("room", channel)
    await here.group_send("room", {"n": -1})
    await next_messages(there, channel, 1)
    return here, there, channel


async def test_the_next_send_goes_through_a_new_producer(
    broker: EmbeddedBroker, make_layer: Layers, failed: list[dict[str, Any]]
) -> None:
    here, there, channel = await pair(make_layer)
    answer_with(broker, PRODUCE, OUT_OF_ORDER)
    await here.group_send("room", {"n": 0})
    await wait_until_async(lambda: len(failed) == 1, "the failure to be signalled")
    for number in range(1, 101):
        await here.group_send("room", {"n": number})
    received = await next_messages(there, channel, 100)
    assert [each["n"] for each in received] == list(range(1, 101))
    assert stats_of(here)["producer.replaced"] == 1
    assert stats_of(here)["failed"] == len(failed) == 1
    assert stats_of(here)["sent"] == 102
    assert not stats_of(here)["errors.producer"]


async def test_an_idle_server_replaces_it_before_it_is_needed(
    broker: EmbeddedBroker, make_layer: Layers
) -> None:
    here, there, channel = await pair(make_layer)
    answer_with(broker, PRODUCE, OUT_OF_ORDER)
    await here.group_send("room", {"n": 0})
    await wait_until_async(
        lambda: stats_of(here)["producer.replaced"] == 1, "the producer to be replaced"
    )
    await here.group_send("room", {"n": 1})
    assert (await next_messages(there, channel, 1))[0] == {"n": 1}


async def test_who_asks_the_old_one_meanwhile_is_answered(
    broker: EmbeddedBroker, make_layer: Layers
) -> None:
    here, _, _ = await pair(make_layer)
    producer = server_of(here).transport._producer  # type: ignore[attr-defined]
    old = producer.client
    answer_with(broker, PRODUCE, OUT_OF_ORDER)
    await here.group_send("room", {"n": 0})
    await wait_until_async(
        lambda: producer.client is not old and not producer._client._retired,
        "the old one to be let go",
    )
    assert old.list_topics(timeout=PATIENCE).topics


async def test_in_the_middle_of_a_burst_every_message_arrives_or_is_reported(
    broker: EmbeddedBroker, make_layer: Layers, failed: list[dict[str, Any]]
) -> None:
    here, there, channel = await pair(make_layer)
    numbers: list[int] = []

    async def receive() -> None:
        while True:
            numbers.append((await there.receive(channel))["n"])

    receiving = asyncio.create_task(receive())
    for number in range(2000):
        if number == 500:
            answer_with(broker, PRODUCE, OUT_OF_ORDER)
        await here.group_send("room", {"n": number})
        if not number % 50:
            await asyncio.sleep(0)
    await wait_until_async(
        lambda: len(numbers) + len(failed) >= 2000 and stats_of(here)["producer.replaced"],
        "each message, or a report on it, and the next producer",
    )
    receiving.cancel()
    lost = sorted(decoded(here, each["value"])["n"] for each in failed)
    assert sorted(numbers + lost) == list(range(2000))
    assert len(set(numbers)) == len(numbers)
    assert lost
    assert stats_of(here)["failed"] == stats_of(here)["dropped.produce"] == len(lost)
    assert stats_of(here)["producer.replaced"] == 1
    figure(f"a fatal error in a burst of 2000: {len(lost)} reported as failed, the rest arrived")


async def test_a_server_that_gets_no_producer_id_at_first(
    broker: EmbeddedBroker, make_layer: Layers, failed: list[dict[str, Any]]
) -> None:
    _, there, channel = await pair(make_layer)
    answer_with(broker, INIT_PRODUCER_ID, NOT_AUTHORIZED)
    here = make_layer()
    for number in range(10):
        await here.group_send("room", {"n": number})
    await wait_until_async(
        lambda: stats_of(here)["producer.replaced"] == 1, "the producer to be replaced"
    )
    await here.group_send("room", {"n": 10})
    numbers: list[int] = []
    while not numbers or numbers[-1] < 10:
        numbers += [each["n"] for each in await next_messages(there, channel, 1)]
    await wait_until_async(lambda: len(numbers) + len(failed) >= 11, "the losses to be signalled")
    lost = [decoded(here, each["value"])["n"] for each in failed]
    assert sorted(numbers + lost) == list(range(11))
    assert numbers == sorted(numbers)


async def test_an_awaited_send_raises(broker: EmbeddedBroker, make_layer: Layers) -> None:
    here = make_layer(await_produce=True)
    await here.group_send("room", {"n": 0})
    answer_with(broker, PRODUCE, OUT_OF_ORDER)
    with pytest.raises(Exception, match="out of order"):
        await asyncio.wait_for(here.group_send("room", {"n": 1}), PATIENCE)
    position = await asyncio.wait_for(here.group_send("room", {"n": 2}), PATIENCE)
    assert position is not None


async def test_one_that_fails_again_and_again_is_replaced_once_a_second(
    broker: EmbeddedBroker, make_layer: Layers, failed: list[dict[str, Any]]
) -> None:
    here, there, channel = await pair(make_layer)
    answer_with(broker, INIT_PRODUCER_ID, NOT_AUTHORIZED, times=2)
    answer_with(broker, PRODUCE, OUT_OF_ORDER)
    number = 0

    async def one_more() -> bool:
        nonlocal number
        await here.group_send("room", {"n": number})
        number += 1
        return stats_of(here)["producer.replaced"] >= 3

    deadline = time.monotonic() + PATIENCE
    while not await one_more():
        assert time.monotonic() < deadline, stats_of(here)
        await asyncio.sleep(0.002)
    await here.group_send("room", {"n": number})
    numbers = []
    while not numbers or numbers[-1] < number:
        numbers += [each["n"] for each in await next_messages(there, channel, 1)]
    await wait_until_async(
        lambda: len(numbers) + len(failed) > number, "the losses to be signalled"
    )
    lost = [decoded(here, each["value"])["n"] for each in failed]
    assert sorted(numbers + lost) == list(range(number + 1))
    assert numbers == sorted(numbers)
    assert stats_of(here)["producer.replaced"] == 3


async def test_closing_with_a_failed_producer_returns(
    broker: EmbeddedBroker, make_layer: Layers, failed: list[dict[str, Any]]
) -> None:
    here, *_ = await pair(make_layer)
    answer_with(broker, PRODUCE, OUT_OF_ORDER)
    await here.group_send("room", {"n": 0})
    # It may take 5 s.
    await asyncio.wait_for(here.close(), 15)
    await wait_until_async(lambda: len(failed) == 1, "the failure to be signalled")
