"""Receivers of signals can neither break nor delay what the layer does."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from django.db import connections
from django.db.backends.sqlite3.base import DatabaseWrapper
from django.dispatch import Signal

from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import LayerClosed, ProduceFailed
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.observe.counters import Stats
from kafka_layer.signals import messages_dropped, produce_failed
from tests.support.inspect import server_of
from tests.support.layers import Backend, Layers, backend_named, memory_backend, next_message
from tests.support.waiting import PATIENCE, wait_until, wait_until_async

GONE = "specific.77-deadbeef!x"
"""A channel of a server that is not there, on a partition that is not there either."""


@pytest.fixture
def backend() -> Backend:
    # A close that waits for what never comes takes longer than any other here. And all drops but
    # the first are told of by the close.
    return replace(memory_backend(), limits={"close": 2 * PATIENCE, "drop_summary": 3600.0})


@contextmanager
def connected(signal: Signal, *receivers: Callable[..., Any]) -> Iterator[None]:
    for receiver in receivers:
        signal.connect(receiver)
    try:
        yield
    finally:
        for receiver in receivers:
            signal.disconnect(receiver)


class Standing:
    """A receiver that stands still until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, **kwargs: Any) -> None:
        self.entered.set()
        assert self.go_on.wait(2 * PATIENCE)


async def expire_one(layer: KafkaChannelLayer, channel: str) -> None:
    """Put a message that has expired into a channel, and one behind it that receives can take."""
    await send_expired(layer, channel)
    await layer.send(channel, {"type": "arrives"})


async def send_expired(layer: KafkaChannelLayer, channel: str) -> None:
    """Put a message that has expired into a channel."""
    expiry = server_of(layer).expiry
    expiry.seconds = -1.0
    await layer.send(channel, {"type": "expires"})
    expiry.seconds = layer.config.expiry


async def coroutine(**kwargs: Any) -> None:
    await asyncio.sleep(0)


def raises(**kwargs: Any) -> None:
    raise ValueError("a receiver that fails")


@pytest.mark.parametrize("receiver", [coroutine, raises])
async def test_receive_returns_the_next_message_whatever_a_receiver_of_a_drop_is(
    make_layer: Layers, receiver: Callable[..., Any]
) -> None:
    layer = make_layer()
    channel = await layer.new_channel()
    causes: list[str] = []

    def note(cause: str, **kwargs: Any) -> None:
        causes.append(cause)

    with connected(messages_dropped, receiver, note):
        await expire_one(layer, channel)
        assert await next_message(layer, channel) == {"type": "arrives"}
        await wait_until_async(lambda: causes == ["expired"], "the drop to be told")


async def test_receivers_run_in_a_thread_of_their_own(make_layer: Layers) -> None:
    layer = make_layer()
    channel = await layer.new_channel()
    threads: list[str] = []

    def note(**kwargs: Any) -> None:
        threads.append(threading.current_thread().name)

    with connected(messages_dropped, note):
        await expire_one(layer, channel)
        await next_message(layer, channel)
        await wait_until_async(lambda: threads, "the receiver to be called")
    assert threads == ["kafka-layer-signals"]


async def test_a_receiver_that_stands_still_delays_no_receive_and_no_send(
    make_layer: Layers,
) -> None:
    layer = make_layer()
    channel, standing = await layer.new_channel(), Standing()
    with connected(messages_dropped, standing):
        await expire_one(layer, channel)
        assert await next_message(layer, channel, 5) == {"type": "arrives"}
        assert await asyncio.to_thread(standing.entered.wait, 5)
        for number in range(10):
            await layer.send(channel, {"type": "next", "number": number})
            assert (await next_message(layer, channel, 5))["number"] == number
        standing.go_on.set()


async def test_a_receiver_that_calls_the_layer_gets_its_answers(make_layer: Layers) -> None:
    layer = make_layer()
    channel, told = await layer.new_channel(), []

    def calls(cause: str, **kwargs: Any) -> None:
        layer.send_sync(channel, {"type": "told", "cause": cause})
        told.append(layer.stats().dropped)

    with connected(messages_dropped, calls):
        await send_expired(layer, channel)
        receive = asyncio.create_task(next_message(layer, channel, 5))
        assert await receive == {"type": "told", "cause": "expired"}
        await wait_until_async(lambda: told, "the receiver's second answer")
    assert told == [{"expired": 1}]


async def test_a_receiver_that_closes_the_layer_does_not_wait_for_itself(
    make_layer: Layers,
) -> None:
    layer = make_layer()
    channel, took = await layer.new_channel(), []

    def closes(**kwargs: Any) -> None:
        began = time.monotonic()
        layer.close_sync()
        took.append(time.monotonic() - began)

    with connected(messages_dropped, closes):
        await expire_one(layer, channel)
        with suppress(LayerClosed):  # of a receive that close() is faster than
            await next_message(layer, channel)
        await wait_until_async(lambda: took, "the receiver to close the layer")
    assert took[0] < layer.timings.close / 2


def test_close_waits_until_receivers_were_told_of_every_drop(make_layer: Layers) -> None:
    layer = make_layer()
    layer.group_send_sync("room", {"type": "x"})
    numbers: list[int] = []

    def slow(number: int, **kwargs: Any) -> None:
        time.sleep(0.05)
        numbers.append(number)

    stats = server_of(layer).stats
    with connected(messages_dropped, slow):
        stats.dropped("full", "told at once")
        stats.dropped("full", "not told yet", 4)
        layer.close_sync()
    assert numbers == [1, 4]


@pytest.mark.parametrize("is_coroutine", [False, True])
def test_close_does_not_wait_for_a_receiver_that_uses_the_layer(
    make_layer: Layers, is_coroutine: bool
) -> None:
    layer = make_layer()
    told: list[Any] = []

    async def sends(**kwargs: Any) -> None:
        with suppress(LayerClosed):
            await layer.group_send("admins", {"type": "dropped"})
            told.append("sent")
        told.append(kwargs["number"])

    def sends_sync(**kwargs: Any) -> None:
        with suppress(LayerClosed):
            layer.group_send_sync("admins", {"type": "dropped"})
            told.append("sent")
        told.append(kwargs["number"])

    with connected(messages_dropped, sends if is_coroutine else sends_sync):
        layer.send_sync("specific!of-another-layer", {})
        wait_until(lambda: told == ["sent", 1], "the first drop to be told")
        for _ in range(2):
            # The close tells of these together.
            layer.send_sync("specific!of-another-layer", {})
        began = time.monotonic()
        layer.close_sync()
        assert time.monotonic() - began < layer.timings.close / 2
    assert told == ["sent", 1, 2]


def test_a_signal_handler_that_interrupts_a_close_gets_an_error(make_layer: Layers) -> None:
    layer = make_layer()
    told: list[str] = []
    handled = threading.Event()

    def send(number: int, frame: object) -> None:
        try:
            layer.group_send_sync("admins", {"type": "ends"})
        except LayerClosed:
            told.append("closed")
        handled.set()

    def interrupt(**kwargs: Any) -> None:
        if kwargs["number"] == 2:
            # The close, in the main thread, tells of these two and waits for this receiver. One
            # signal may come just before the wait, and does not interrupt it; the next one does.
            deadline = time.monotonic() + PATIENCE
            while not handled.wait(0.05) and time.monotonic() < deadline:
                signal.pthread_kill(main, signal.SIGUSR1)

    main = threading.get_ident()
    before = signal.signal(signal.SIGUSR1, send)
    try:
        with connected(messages_dropped, interrupt):
            layer.group_send_sync("room", {"type": "starts it"})
            for _ in range(3):
                layer.send_sync("specific!of-another-layer", {})
            layer.close_sync()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert set(told) == {"closed"}


def test_close_takes_no_longer_for_a_receiver_that_stands_still(make_layer: Layers) -> None:
    make_layer.timings = replace(make_layer.timings, close=0.5)
    layer, standing = make_layer(), Standing()
    layer.group_send_sync("room", {"type": "x"})
    with connected(messages_dropped, standing):
        server_of(layer).stats.dropped("full", "x")
        assert standing.entered.wait(PATIENCE)
        began = time.monotonic()
        layer.close_sync()
        assert time.monotonic() - began < PATIENCE
        standing.go_on.set()


def test_database_connections_of_receivers_are_let_go_of() -> None:
    """Once the server closed one, a receiver would fail for ever: nobody else ends the thread's."""
    stats, used = Stats("channels", Timings(signals_linger=60)), []

    class Connection(DatabaseWrapper):
        closed = 0

        def close_if_unusable_or_obsolete(self) -> None:
            self.closed += 1

        def close(self) -> None:
            self.closed += 10

    def uses_the_database(**kwargs: Any) -> None:
        connection = Connection(connections.settings["default"])
        connections["default"] = connection
        used.append(connection)

    with connected(messages_dropped, uses_the_database):
        stats.dropped("full", "x")
        wait_until(lambda: used and used[0].closed == 1, "Django to look at the connection")
        stats.close(5)
    wait_until(lambda: used[0].closed > 10, "the connection to be closed with its thread")
    assert len(used) == 1


@pytest.mark.broker
class TestDeliveryReports:
    @pytest.fixture
    def backend(self, request: pytest.FixtureRequest) -> Backend:
        return backend_named("embedded", request)

    @pytest.mark.parametrize("signal", [messages_dropped, produce_failed])
    @pytest.mark.parametrize("receiver", [coroutine, raises])
    async def test_a_send_that_waits_gets_its_error_whatever_a_receiver_is(
        self, make_layer: Layers, signal: Signal, receiver: Callable[..., Any]
    ) -> None:
        layer = make_layer(await_produce=True, timings=Timings(unknown_partition=0.3))
        topics: list[str] = []

        def note(topic: str, **kwargs: Any) -> None:
            topics.append(topic)

        with connected(signal, receiver), connected(produce_failed, note):
            with pytest.raises(ProduceFailed):
                await asyncio.wait_for(layer.send(GONE, {"type": "x"}), PATIENCE)
            await wait_until_async(lambda: topics, "produce_failed to be sent")

    async def test_a_receiver_that_stands_still_delays_no_report(self, make_layer: Layers) -> None:
        # The producer gives such a record up soon.
        timings = Timings(unknown_partition=0.3)
        layer, standing = make_layer(await_produce=True, timings=timings), Standing()
        with connected(produce_failed, standing):
            for _ in range(3):
                with pytest.raises(ProduceFailed):
                    await asyncio.wait_for(layer.send(GONE, {"type": "x"}), PATIENCE)
            assert standing.entered.is_set()
            position = await asyncio.wait_for(layer.group_send("room", {"type": "x"}), PATIENCE)
            assert position is not None
            standing.go_on.set()


async def test_servers_tell_how_many_of_their_clients_were_replaced(make_layer: Layers) -> None:
    asker, other = make_layer(), make_layer()
    await other.new_channel()
    server_of(other).stats.count("consumer.replaced")
    server_of(other).stats.count("producer.replaced", 2)
    assert other.stats().replaced == {"consumer": 1, "producer": 2}
    name = other.stats().server
    told: dict[str, Any] = {}
    while name not in told:
        # It may take a server longer to answer.
        answers = await asyncio.to_thread(asker.servers_sync, 0.5)
        told = {each["server"]: each["replaced"] for each in answers}
    assert told[name] == 3
