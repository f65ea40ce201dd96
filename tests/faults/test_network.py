"""A network that is cut, stands still or is slow: a proxy between the servers and the broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from kafka_layer.config.timings import Timings
from kafka_layer.layer import KafkaChannelLayer
from tests.faults.conftest import LayersOn
from tests.faults.traffic import NO_BLOCKING, Inbox, Stream, Tally, figure
from tests.support.kafka import RealBroker
from tests.support.layers import stats_of
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until_async


@pytest.fixture
def proxy(broker: RealBroker, one_proxy: Proxy, layers_on: LayersOn) -> Iterator[Proxy]:
    """A proxy that its clients cannot pass by: the broker advertises its port to them."""
    one_proxy.target = int(broker.address("PROXIED").rsplit(":", 1)[1])
    yield one_proxy
    one_proxy.delay = 0.0
    one_proxy.mend()


@pytest.fixture
def make_layer(layers_on: LayersOn, proxy: Proxy) -> Callable[..., KafkaChannelLayer]:
    return layers_on(f"127.0.0.1:{proxy.port}")


async def streaming(make_layer: Callable[..., KafkaChannelLayer]) -> tuple[Stream, list[Inbox]]:
    sender, *receivers = (make_layer() for _ in range(3))
    inboxes = [await Inbox.opened(each, "room") for each in receivers]
    stream = Stream(sender, "room", inboxes)
    stream.start()
    await stream.goes_on(20)
    for inbox in inboxes:
        await inbox.has("direct", 0)
    return stream, inboxes


def assert_nothing_lost(stream: Stream, inboxes: list[Inbox]) -> None:
    assert stream.tallies(inboxes) == [Tally(len(stream.accepted), 0, 0, 0)] * 4
    assert stream.refused == 0
    assert stream.longest < NO_BLOCKING
    for inbox in inboxes:
        assert not [name for name in stats_of(inbox.layer) if name.startswith("dropped")]


async def test_cut_three_times(proxy: Proxy, make_layer: Callable[..., KafkaChannelLayer]) -> None:
    stream, inboxes = await streaming(partial(make_layer, timings=Timings(connection_doubt=0.3)))
    for _ in range(3):
        proxy.cut()
        await wait_until_async(
            lambda: all(i.layer.stats().state == "disconnected" for i in inboxes),
            "the servers to notice the cut",
        )
        await stream.goes_on(25)
        proxy.mend()
        await all_so_far_arrives(stream, inboxes)
        await wait_until_async(
            lambda: all(i.layer.stats().state == "connected" for i in inboxes),
            "the servers to notice that it is over",
        )
    await stream.settled(inboxes)
    assert_nothing_lost(stream, inboxes)
    for inbox in inboxes:
        assert inbox.layer.stats().reconnects >= 3


async def all_so_far_arrives(stream: Stream, inboxes: list[Inbox]) -> None:
    """Wait until everything that was accepted so far has arrived."""
    number = stream.accepted[-1]
    for inbox in inboxes:
        await inbox.has("direct", number)


async def test_nothing_passes_for_3_s_and_nothing_is_closed(
    proxy: Proxy, make_layer: Callable[..., KafkaChannelLayer]
) -> None:
    stream, inboxes = await streaming(make_layer)
    proxy.stall()
    await stream.goes_on(150)
    proxy.mend()
    await all_so_far_arrives(stream, inboxes)
    await stream.settled(inboxes)
    assert_nothing_lost(stream, inboxes)


async def test_connections_that_die_in_silence(
    proxy: Proxy, make_layer: Callable[..., KafkaChannelLayer]
) -> None:
    # It is the time in which such a connection is found out.
    timeout = {"socket.timeout.ms": 3_000}
    stream, inboxes = await streaming(partial(make_layer, client_config=timeout))
    proxy.strand()
    stranded = time.monotonic()
    number = stream.accepted[-1] + 10
    for inbox in inboxes:
        # Before librdkafka's own value, 60 s, would have told.
        await inbox.has("direct", number, 50)
    silence = time.monotonic() - stranded
    await stream.settled(inboxes)
    assert_nothing_lost(stream, inboxes)
    figure(f"connections dead without a word: messages again after {silence:.1f} s")


async def test_slow(proxy: Proxy, make_layer: Callable[..., KafkaChannelLayer]) -> None:
    stream, inboxes = await streaming(make_layer)
    proxy.delay = 0.05
    await stream.goes_on(75)
    await all_so_far_arrives(stream, inboxes)
    await stream.settled(inboxes)
    assert_nothing_lost(stream, inboxes)
    latency = inboxes[0].layer.stats().latency_p50
    assert latency is not None
    figure(f"0.1 s there and back: median latency {latency:.3f} s")
