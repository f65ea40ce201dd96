"""Courses: messages that flow while a broker is away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ormsgpack
from channels.exceptions import ChannelFull

from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import ProduceFailed
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.signals import produce_failed
from kafka_layer.wire.topics import Topic, topic_name
from tests.faults.outage import Course, Outage
from tests.faults.traffic import NO_BLOCKING, Inbox, Stream, Tally, answers_at, figure, send_large
from tests.support.kafka import RealBroker
from tests.support.layers import (
    Layers,
    decoded,
    next_message,
    next_messages,
    stats_of,
)
from tests.support.waiting import wait_until_async

RECOVERED = 30.0
"""Seconds from a broker's being ready to the first message: half a second on an idle machine, as
the figures show, and far less than the minute for which messages live."""

CLOSE_LIMIT = 15.0
"""Seconds: a close takes 5 at most, and librdkafka's own would last as long as the outage."""

DEADLINE = 60.0

EXPIRY = 6.0
"""Seconds for which messages live that are to expire: long enough to arrive where a broker serves
that is busy, and no longer than the outage lasts for other reasons."""


def while_killed(broker: RealBroker, make_layer: Layers, prefix: str) -> list[Course]:
    """Return the courses of a broker that is killed, and comes back after some seconds."""
    return [
        partial(what_expired_is_reported_and_the_rest_arrives, make_layer),
        partial(a_producer_is_not_replaced, make_layer),
        partial(what_waits_for_a_full_client_expires, make_layer),
        partial(calls_fail_once_their_message_expired, make_layer, prefix),
        partial(a_close_takes_no_longer_than_it_may, make_layer),
        partial(what_a_close_gives_up_is_reported, make_layer),
        # The last one, whose messages flow all the time, and with the layer's own pauses.
        partial(all_that_was_accepted_arrives, broker, partial(make_layer, client_config={})),
    ]


def while_frozen(make_layer: Layers) -> list[Course]:
    """Return the courses of a broker that stands still for longer than its session."""
    return [partial(all_arrives_though_it_tells_of_no_broker, make_layer)]


async def streaming(
    layers: Callable[[], KafkaChannelLayer], rate: float = 50
) -> tuple[Stream, list[Inbox]]:
    sender, *receivers = (layers() for _ in range(3))
    inboxes = [await Inbox.opened(each, "room") for each in receivers]
    stream = Stream(sender, "room", inboxes, rate)
    stream.start()
    await stream.goes_on(20)
    for inbox in inboxes:
        await inbox.has("direct", 0)
    return stream, inboxes


def is_connected_again(inbox: Inbox) -> bool:
    stats = inbox.layer.stats()
    return stats.state == "connected" and stats.reconnects >= 1


def assert_nothing_lost(stream: Stream, inboxes: list[Inbox]) -> None:
    sent = len(stream.accepted)
    assert stream.tallies(inboxes) == [Tally(sent, 0, 0, 0)] * 2 * len(inboxes)
    assert stream.refused == 0
    assert stream.longest < NO_BLOCKING
    for inbox in inboxes:
        assert not [name for name in stats_of(inbox.layer) if name.startswith("dropped")]
        assert not stats_of(inbox.layer)["errors.consumer"]


def first_after(inbox: Inbox, moment: float) -> float:
    """When the first message after a moment arrived."""
    return next(at for at, _ in inbox.arrived if at >= moment)


class Reports:
    """What produce_failed told of the messages of one kind: their numbers, and when."""

    def __init__(self, kind: str) -> None:
        self.numbers: list[int] = []
        self.times: list[float] = []
        self._kind = kind

    def __enter__(self) -> Reports:  # noqa: PYI034 (Self is new in 3.11)
        produce_failed.connect(self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        produce_failed.disconnect(self._note)

    def _note(self, value: bytes, **kwargs: object) -> None:
        with contextlib.suppress(ormsgpack.MsgpackDecodeError):  # a command
            message = ormsgpack.unpackb(value)
            if message.get("kind") == self._kind:
                self.numbers.append(message["n"])
                self.times.append(time.monotonic())


async def all_that_was_accepted_arrives(
    broker: RealBroker, make_layer: Layers, outage: Outage
) -> None:
    stream, inboxes = await streaming(make_layer)
    await outage.begins()
    await stream.goes_on(250)  # 5 s
    lost_at = max(inbox.arrived[-1][0] for inbox in inboxes)
    with answers_at(broker.bootstrap_servers) as answered:
        await outage.ends()
        ready = time.monotonic()
        await stream.goes_on(50)
        await stream.settled(inboxes)
    assert_nothing_lost(stream, inboxes)
    back = [next(at for at, _ in inbox.arrived if at > lost_at) for inbox in inboxes]
    for inbox in inboxes:
        connected = partial(is_connected_again, inbox)
        await wait_until_async(connected, "a server to see that the broker is back")
    figure(
        f"port answered, broker ready after {ready - answered[0]:.2f} s, messages after "
        f"{max(back) - answered[0]:.2f} s; {len(stream.accepted)} turns, the longest call "
        f"took {stream.longest * 1000:.1f} ms"
    )
    # A killed broker serves once its old session ended (3 s here).
    assert max(back) < max(ready, answered[0]) + RECOVERED
    for inbox in inboxes:
        await inbox.close()


async def what_expired_is_reported_and_the_rest_arrives(make_layer: Layers, outage: Outage) -> None:
    sender, receiver = make_layer(expiry=EXPIRY), make_layer(expiry=EXPIRY)
    inbox = await Inbox.opened(receiver, "expiring")

    async def send(numbers: range) -> None:
        for number in numbers:
            await sender.group_send("expiring", {"kind": "group", "n": number})

    await send(range(10))
    await inbox.has("group", 9)
    await outage.begins()
    await send(range(10, 20))
    failed = partial(lambda: stats_of(sender)["dropped.produce"] == 10)
    await wait_until_async(failed, "10 records to be given up when they expired")
    await outage.ends()
    end = 20
    deadline = time.monotonic() + DEADLINE
    while inbox.numbers("group")[-1] < 20:
        assert time.monotonic() < deadline
        await send(range(end, end + 10))
        end += 10
        await asyncio.sleep(0.5)  # the pace of the messages: the first ones may expire, too
    await inbox.has("group", end - 1)
    numbers = inbox.numbers("group")
    given_up = stats_of(sender)["dropped.produce"]
    assert stats_of(sender)["failed"] == given_up
    assert len(numbers) + given_up == end
    assert numbers == [*range(10), *range(end - len(numbers) + 10, end)]
    await inbox.close()


async def a_producer_is_not_replaced(make_layer: Layers, outage: Outage) -> None:
    inbox = await Inbox.opened(make_layer(), "waiting")
    sender = make_layer(timings=Timings(upkeep=0.05, request=0.2))
    await sender.group_send("waiting", {"kind": "group", "n": 0})
    await inbox.has("group", 0)
    await outage.begins()
    await sender.group_send("waiting", {"kind": "group", "n": 1})
    # Longer than two judgements: six requests, then another client's.
    await asyncio.sleep(6)
    await outage.ends()
    await inbox.has("group", 1)
    assert not stats_of(sender)["producer.replaced"]
    assert not stats_of(sender)["failed"]
    await inbox.close()


async def what_waits_for_a_full_client_expires(make_layer: Layers, outage: Outage) -> None:
    small = {"queue.buffering.max.kbytes": 1024}
    here = make_layer(producer_config=small, expiry=EXPIRY)
    there = make_layer(capacity=2000, expiry=EXPIRY)
    channel = await there.new_channel()
    await here.send(channel, {"n": -1})
    await next_messages(there, channel, 1)
    await outage.begins()
    with Reports("large") as reports:
        began = time.monotonic()
        accepted = await send_large(here, channel, 600)
        took = time.monotonic() - began
        await wait_until_async(
            lambda: len(reports.numbers) == len(accepted), "all of them to be given up"
        )
    await outage.ends()
    assert sorted(reports.numbers) == accepted
    # More than the client's mebibyte holds.
    assert len(accepted) > 350
    # Those that the client took when the others expired would be given up so long after these.
    # It takes some where the last ones were sent a second after the first, on a machine that is
    # busy.
    assert max(reports.times) - min(reports.times) < EXPIRY or took > 0.5
    receiving = asyncio.create_task(next_message(there, channel, DEADLINE))
    while not receiving.done():
        # Again: the first ones may expire, too.
        await here.send(channel, {"n": 600})
        await asyncio.wait([receiving], timeout=0.5)
    assert await receiving == {"n": 600}


async def calls_fail_once_their_message_expired(
    make_layer: Layers, prefix: str, outage: Outage
) -> None:
    config = {"expiry": EXPIRY, "ack_timeout": DEADLINE, "default_partitions": 2}
    awaiting, other = (
        make_layer(prefix, **config, await_produce=await_produce) for await_produce in (True, False)
    )
    channel = await other.new_channel()
    await other.group_add("room", channel)
    await awaiting.group_add("room", channel)
    await awaiting.group_send("room", {"n": 0})
    assert await next_message(other, channel) == {"n": 0}
    await outage.begins()
    said: list[dict[str, Any]] = []
    topic = topic_name(prefix, Topic.SEND_GROUP)

    def note(**arguments: Any) -> None:
        # A record without a value is a mark that its own server looks for.
        if arguments["topic"] == topic and arguments["value"] != b"":
            said.append(arguments)

    produce_failed.connect(note)
    try:
        await all_fail(awaiting, other, channel)
        await wait_until_async(lambda: len(said) == 3, "3 signals")
    finally:
        produce_failed.disconnect(note)
    by_value = {json.dumps(decoded(other, each["value"])): each for each in said}
    assert set(by_value) == {json.dumps({"n": number}) for number in range(3)}
    for each in said:
        assert isinstance(each["error"], ProduceFailed)
        assert each["key"] == b"room"
    assert by_value['{"n": 1}']["headers"] == [("exclude", b"somebody")]
    assert stats_of(other)["dropped.produce"] == 2
    await asyncio.gather(awaiting.close(), other.close())
    await outage.ends()


async def all_fail(awaiting: KafkaChannelLayer, other: KafkaChannelLayer, channel: str) -> None:
    started = time.monotonic()
    assert await other.group_send("room", {"n": 1}, exclude=["somebody"]) is None
    assert await asyncio.to_thread(other.group_send_sync, "room", {"n": 2}) is None
    assert time.monotonic() - started < NO_BLOCKING
    results = await asyncio.gather(
        awaiting.group_send("room", {"n": 0}),
        awaiting.send(channel, {"n": 0}),
        awaiting.all_send({"n": 0}),
        awaiting.group_add("room", channel),
        asyncio.to_thread(awaiting.user_send_sync, "ann", {"n": 0}),
        asyncio.to_thread(awaiting.group_discard_sync, "room", channel),
        return_exceptions=True,
    )
    took = time.monotonic() - started
    assert [type(each) for each in results] == [ProduceFailed] * 6
    assert all("no broker took it before it expired" in str(each) for each in results)
    assert EXPIRY - 1 < took < DEADLINE


async def a_close_takes_no_longer_than_it_may(make_layer: Layers, outage: Outage) -> None:
    here, there = make_layer(), make_layer()
    channel = await there.new_channel()
    await there.group_add("closing", channel)
    await here.group_send("closing", {"n": 1})
    assert await next_message(there, channel) == {"n": 1}
    await outage.begins()
    for _ in range(100):
        await here.group_send("closing", {"n": 2})
    waiting = asyncio.create_task(there.receive(channel))
    for layer in (here, there):
        started = time.monotonic()
        await layer.close()
        assert time.monotonic() - started < CLOSE_LIMIT
    waiting.cancel()
    await outage.ends()


async def what_a_close_gives_up_is_reported(make_layer: Layers, outage: Outage) -> None:
    # The client takes about 340 of them; others are held back before it, none of them once
    # the producer's thread has found the client full.
    layer = make_layer(producer_config={"queue.buffering.max.kbytes": 1024})
    await layer.group_send("given-up", {"n": -1})
    await outage.begins()
    accepted = []
    with Reports("given-up") as reports:
        try:
            with contextlib.suppress(ChannelFull):
                for number in range(600):
                    message = {"kind": "given-up", "n": number, "padding": b"x" * 3000}
                    await layer.group_send("given-up", message)
                    accepted.append(number)
            assert layer.stats().queued >= 340
        finally:
            await layer.close()
        # A close waits for receivers of signals for half a second.
        await wait_until_async(
            lambda: len(reports.numbers) >= len(accepted), "all of them to be reported"
        )
    assert sorted(set(reports.numbers)) == accepted
    assert len(reports.numbers) == len(set(reports.numbers))
    await outage.ends()


async def all_arrives_though_it_tells_of_no_broker(make_layer: Layers, outage: Outage) -> None:
    """It does so for a moment, once it goes on."""
    stream, inboxes = await streaming(make_layer)
    await outage.begins()
    await stream.goes_on(225)  # 4.5 s; the session is 3 s
    await outage.ends()
    thawed = time.monotonic()
    number = stream.accepted[-1]
    for inbox in inboxes:
        await inbox.has("direct", number)
    figure(f"it went on; all was there {time.monotonic() - thawed:.2f} s later")
    await stream.settled(inboxes)
    assert_nothing_lost(stream, inboxes)
