"""Courses: the history, recoveries and worker channels, and what a broker keeps."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import channel_layers
from channels.testing import WebsocketCommunicator

from kafka_layer import health
from kafka_layer.config.timings import Timings
from kafka_layer.consumers import AsyncRecoveryConsumerMixin
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.messages import Message
from kafka_layer.wire.topics import Topic, topic_name
from tests.faults.asking import (
    DEADLINE,
    GROUP,
    IN_TIME,
    history,
    numbers,
    recovered,
    send,
    tracked,
    unavailable,
    until_decided,
)
from tests.faults.outage import Course, Outage
from tests.faults.traffic import Inbox, Stream, figure
from tests.support.kafka import RealBroker
from tests.support.layers import Layers, next_messages, stats_of
from tests.support.records import consume, create_topic, produce
from tests.support.waiting import wait_until_async

PROTOCOLS: dict[str, dict[str, Any]] = {
    "classic": {
        "worker_group_protocol": "classic",
        "consumer_config": {"session.timeout.ms": 3_000},
    },
    "consumer": {"worker_group_protocol": "consumer"},
}


def while_killed(broker: RealBroker, make_layer: Layers, prefix: str) -> list[Course]:
    """Return the courses of a broker that is killed, and comes back after some seconds."""
    return [
        *_whatever_happens(make_layer, prefix),
        *(
            partial(two_workers_go_on, make_layer, f"jobs-{name}", protocol)
            for name, protocol in PROTOCOLS.items()
        ),
        partial(a_position_at_an_end_that_was_lost, broker, make_layer, f"{prefix}-lost"),
        partial(port_and_data_outlive_it, broker, f"{prefix}-kept"),
    ]


def while_frozen(broker: RealBroker, make_layer: Layers, prefix: str) -> list[Course]:
    """Return the courses of a broker that stands still."""
    return [
        *_whatever_happens(make_layer, prefix),
        partial(it_goes_on_with_what_it_got, broker, f"{prefix}-got"),
    ]


def _whatever_happens(make_layer: Layers, prefix: str) -> list[Course]:
    ready = replace(Timings(), ready=0.5)
    asked = make_layer(f"{prefix}-asked", default_partitions=1, timings=ready)
    return [
        partial(the_history_says_so_and_comes_back, asked),
        partial(a_recovery_has_its_verdict_in_time, make_layer, prefix),
        partial(a_probe_tells_it, asked),
    ]


async def the_history_says_so_and_comes_back(layer: KafkaChannelLayer, outage: Outage) -> None:
    await send(layer, 1)
    assert await history(layer) == [{"n": 1}]
    await outage.begins()
    assert await unavailable(layer)
    assert await unavailable(layer)
    await outage.ends()
    assert await history(layer) == [{"n": 1}]
    await wait_until_async(lambda: layer.stats().state == "connected", "the layer to be connected")


async def a_recovery_has_its_verdict_in_time(
    make_layer: Layers, prefix: str, outage: Outage
) -> None:
    here = make_layer(prefix, default_partitions=1)
    channel = await tracked(here)
    position = await here.group_position(GROUP)
    await send(here, 1, 2)
    # It has read them.
    await next_messages(here, channel, 2)
    # One that kept what was missed needs no broker; one that started since has to ask.
    late = make_layer(prefix, default_partitions=1)
    await late.new_channel()
    await outage.begins()
    began = time.monotonic()
    found = await recovered(here, position)
    assert numbers(found) == [1, 2]
    verdict = await told_to_a_browser(late, position)
    assert verdict.pop("reason") in {"unavailable", "timeout"}
    assert verdict == {"recovered": False, "count": 0}
    assert time.monotonic() - began < 2 * IN_TIME
    await outage.ends()
    deadline = time.monotonic() + DEADLINE
    while not (found := await recovered(late, position)).recovered:
        assert time.monotonic() < deadline, f"still {found.reason}"
    assert numbers(found) == [1, 2]
    await send(here, 3)


async def a_probe_tells_it(layer: KafkaChannelLayer, outage: Outage) -> None:
    channel_layers.set("probed", layer)

    async def is_ready() -> bool:
        began = time.monotonic()
        answer = await health.aready("probed")
        # A second, on a machine that has nothing else to do.
        assert time.monotonic() - began < IN_TIME
        assert health.live("probed").ok
        return answer.ok

    async def becomes(ready: bool) -> None:
        deadline = time.monotonic() + DEADLINE
        while await is_ready() is not ready:
            assert time.monotonic() < deadline, f"it did not become {'' if ready else 'un'}ready"
            await asyncio.sleep(0.05)

    try:
        await becomes(True)
        await outage.begins()
        await becomes(False)
        await outage.ends()
        await becomes(True)
    finally:
        del channel_layers.backends["probed"]


async def told_to_a_browser(layer: KafkaChannelLayer, position: str) -> dict[str, Any]:
    """Return the verdict for a browser, and fail the test if there is none in time."""
    offers = ["kafka-layer.v1", f"kafka-layer.position.{position}"]
    channel_layers.set("default", layer)
    try:
        browser = WebsocketCommunicator(Room.as_asgi(), "/", subprotocols=offers)
        assert await browser.connect(IN_TIME) == (True, "kafka-layer.v1")
        frame = await browser.receive_json_from(IN_TIME)
        await browser.disconnect(timeout=IN_TIME)
    finally:
        del channel_layers.backends["default"]
    verdict: dict[str, Any] = frame["r"]
    return verdict


class Room(AsyncRecoveryConsumerMixin, AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    groups = (GROUP,)


async def two_workers_go_on(
    make_layer: Layers, channel: str, protocol: dict[str, Any], outage: Outage
) -> None:
    """As docs/worker-channels.md says."""
    layers = [make_layer(**protocol) for _ in range(2)]
    workers = [Inbox(layer, channel) for layer in layers]
    for worker in workers:
        worker.begin()
    stream = Stream(make_layer(), "nobody", workers[:1], rate=10)
    stream.start()
    await wait_until_async(
        lambda: all(len(worker.arrived) >= 5 for worker in workers),
        "both to have a share of the work",
        DEADLINE,
    )
    await outage.begins()
    await stream.goes_on(10)
    await outage.ends()
    before = [len(worker.arrived) for worker in workers]
    await stream.goes_on(10)
    await wait_until_async(
        lambda: all(
            len(worker.arrived) > number for worker, number in zip(workers, before, strict=True)
        ),
        "both to work again",
        DEADLINE,
    )
    await stream.stop()

    def doubtful() -> int:
        return sum(stats_of(layer)["dropped.doubtful"] for layer in layers)

    def done() -> list[int]:
        return [number for worker in workers for number in worker.numbers("direct")]

    await wait_until_async(
        lambda: len(done()) + doubtful() >= len(stream.accepted),
        f"{len(stream.accepted)} jobs to be done",
        DEADLINE,
        pause=0.1,
    )
    for worker in workers:
        await worker.close()
    figure(f"{len(stream.accepted)} jobs, {len(done())} done, {doubtful()} in doubt")
    assert len(done()) == len(set(done()))
    assert set(done()) <= set(stream.accepted)
    # Each worker has one receive, so each commit without an answer puts one job in doubt: that of
    # the outage, and where its session ended on a slow machine, perhaps another one.
    assert len(stream.accepted) - len(done()) <= doubtful() <= 2 * len(workers)


async def a_position_at_an_end_that_was_lost(
    broker: RealBroker, make_layer: Layers, prefix: str, outage: Outage
) -> None:
    """As after a power failure: other records stand where the position ends."""
    here = make_layer(prefix, default_partitions=1)
    channel = await tracked(here)
    await send(here, 1)
    segment = broker.segment(topic_name(prefix, Topic.SEND_GROUP), 0)
    size = segment.stat().st_size
    await send(here, 2, 3)
    *_, last = await next_messages(here, channel, 3)
    assert isinstance(last, Message)
    position = last.position
    await here.close()
    await outage.begins()
    os.truncate(segment, size)
    await outage.ends()
    late = make_layer(prefix, default_partitions=1)
    await send(late, 4, 5, 6)
    found = await until_decided(late, position)
    assert (found.reason, found.messages) == ("epoch", [])


async def port_and_data_outlive_it(broker: RealBroker, topic: str, outage: Outage) -> None:
    """What tests/support/kafka.py says of a broker that is killed."""
    servers = broker.bootstrap_servers
    await asyncio.to_thread(create_topic, servers, topic)
    await asyncio.to_thread(produce, servers, topic, [b"before"])
    await outage.begins()
    assert not broker.running
    host, port = servers.split(":")
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((host, int(port)))
    await outage.ends()
    assert broker.bootstrap_servers == servers
    await asyncio.to_thread(produce, servers, topic, [b"after"])
    records = await asyncio.to_thread(consume, servers, topic, 2)
    assert [record.value() for record in records] == [b"before", b"after"]


async def it_goes_on_with_what_it_got(broker: RealBroker, topic: str, outage: Outage) -> None:
    """What tests/support/kafka.py says of a broker that stands still."""
    servers = broker.bootstrap_servers
    await asyncio.to_thread(create_topic, servers, topic)
    await outage.begins()
    sending = asyncio.create_task(asyncio.to_thread(produce, servers, topic, [b"while frozen"]))
    await outage.ends()
    await sending
    (record,) = await asyncio.to_thread(consume, servers, topic, 1)
    assert record.value() == b"while frozen"
