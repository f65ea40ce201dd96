"""A topic is deleted and created again while servers run: each reads the new one within seconds.

After a restart of the broker the new topic's leader epoch is lower than the one that clients know.
They take what brokers tell of it for outdated, and stay silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest
from confluent_kafka.admin import AdminClient

from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import GroupAckTimeout, LayerClosed, ProduceFailed
from kafka_layer.kafka.admin import TopicAdmin
from kafka_layer.kafka.specs import topic_specs
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.messages import Position
from kafka_layer.wire.topics import INBOX_TOPICS, Topic, WorkTopic, topic_name
from tests.faults.courses.messages import RECOVERED, assert_nothing_lost, first_after, streaming
from tests.faults.outage import Outage, calm
from tests.faults.traffic import answers_at, figure
from tests.support.inspect import server_of
from tests.support.kafka import RealBroker
from tests.support.layers import Layers, begin_receive, next_message, stats_of
from tests.support.streams import ForeignTopic
from tests.support.waiting import wait_until, wait_until_async

# Messages in each topic before it is deleted: positions that the new one does not reach at once.
BEFORE = 30
# Seconds for what takes two or three on a machine that is not busy.
LIMIT = 60.0

MESSAGES = (Topic.SEND_GROUP, Topic.SEND_USER, Topic.SEND_ALL, Topic.SEND_CONN)

Send = Callable[[int], Awaitable[Position | None]]


class Receiver:
    """A server with a channel that is in a group and a user's, and all numbers that came to it."""

    def __init__(self, layer: KafkaChannelLayer) -> None:
        self.layer = layer
        self.channel = ""
        self.numbers: list[int] = []
        self._receiving: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self.channel = await self.layer.new_channel()
        await self.layer.group_add("room", self.channel)
        await self.layer.user_add("1", self.channel)
        self._receiving = asyncio.create_task(self._receive())

    async def _receive(self) -> None:
        while True:
            self.numbers.append((await self.layer.receive(self.channel))["n"])

    def counted(self) -> int:
        counts = stats_of(self.layer)
        return counts["dropped.retention"] + counts["dropped.doubtful"]


def delete(layer: KafkaChannelLayer, *topics: Topic | WorkTopic) -> None:
    names = [topic_name(layer.config.prefix, each) for each in topics]
    admin = AdminClient({"bootstrap.servers": layer.config.bootstrap_servers, "log_level": 0})
    for deleted in admin.delete_topics(names).values():
        deleted.result(LIMIT)


def make(layer: KafkaChannelLayer, *topics: Topic | WorkTopic, **changes: int) -> None:
    """Do what an operator does who runs kafka_setup_topics as soon as the topics are gone.

    The servers must not create topics themselves: one that is quicker would leave nothing to do.

    Args:
        layer: Its settings say what is created.
        topics: Which ones have to be gone; all by default.
        changes: What is not as the settings say.
    """
    specs = {each.name: replace(each, **changes) for each in topic_specs(layer.config)}
    names = [topic_name(layer.config.prefix, each) for each in topics] or list(specs)
    with TopicAdmin(layer.config, LIMIT) as admin:
        wait_until(lambda: not admin.inspect(names), f"{names} to be gone", LIMIT)
        admin.create([specs[name] for name in names])
        wait_until(lambda: len(admin.inspect(names)) == len(names), f"{names} to be there", LIMIT)


def ways(
    here: KafkaChannelLayer, topic: Topic, receivers: Sequence[Receiver]
) -> list[tuple[Send, Sequence[Receiver]]]:
    """Return how to send through a topic, and who is to get that."""
    if topic is Topic.SEND_GROUP:
        return [(lambda n: here.group_send("room", {"n": n}), receivers)]
    if topic is Topic.SEND_USER:
        return [(lambda n: here.user_send("1", {"n": n}), receivers)]
    if topic is Topic.SEND_ALL:
        return [(lambda n: here.all_send({"n": n}), receivers)]
    return [(partial(send_to, here, each.channel), [each]) for each in receivers]


async def send_to(here: KafkaChannelLayer, channel: str, number: int) -> Position | None:
    return await here.send(channel, {"n": number})


@pytest.mark.parametrize("restarted", [False, True], ids=["", "broker restarted before"])
async def test_servers_and_workers_go_on_with_every_topic_that_was_made_anew(
    broker: RealBroker, make_layer: Layers, prefix: str, restarted: bool
) -> None:
    # One restart for all of them: it is what takes time.
    between = Outage(broker.halt, broker.start) if restarted else Outage(nothing, nothing)
    calm(make_layer)
    make_layer.timings = Timings(topics=0.5)
    await between.run(
        *(
            partial(every_server_reads_every_topic, make_layer, f"{prefix}-{number}", by_operator)
            for number, by_operator in enumerate((False, True))
        ),
        *(
            partial(a_worker_channel_goes_on, make_layer, f"{prefix}-{protocol}", protocol)
            for protocol in ("consumer", "classic")
        ),
        partial(a_worker_of_a_stream_goes_on, make_layer, f"{prefix}-stream"),
        *([partial(messages_wait_for_5_s, broker, make_layer)] if restarted else []),
    )


def nothing() -> None:
    pass


async def messages_wait_for_5_s(broker: RealBroker, make_layer: Layers, restart: Outage) -> None:
    """All that was accepted meanwhile arrives; no topic of theirs is deleted."""
    config = {"socket.timeout.ms": 3_000}
    stream, inboxes = await streaming(partial(make_layer, timings=Timings(), client_config=config))
    await restart.begins()
    stopped = time.monotonic()
    await stream.goes_on(250)  # 5 s: longer than a request may stay unanswered
    away = time.monotonic() - stopped
    with answers_at(broker.bootstrap_servers) as answered:
        await restart.ends()
        await stream.goes_on(50)
        await stream.settled(inboxes)
    assert_nothing_lost(stream, inboxes)
    back = max(first_after(inbox, answered[0]) for inbox in inboxes) - answered[0]
    figure(f"stopped for {away:.0f} s: messages {back:.2f} s after the port answered")
    assert away >= 4.5
    assert back < RECOVERED
    for inbox in inboxes:
        await inbox.close()


async def every_server_reads_every_topic(
    make_layer: Layers, prefix: str, by_operator: bool, restart: Outage
) -> None:
    config = {"auto_create_topics": not by_operator, "default_partitions": 2}
    here = make_layer(prefix, await_produce=True, ack_timeout=1, **config)
    receivers = [Receiver(make_layer(prefix, **config)) for _ in range(2)]
    if by_operator:
        await asyncio.to_thread(make, here)
    await here.new_channel()
    for each in receivers:
        await each.open()
    numbers = itertools.count()
    await send_through_all(here, receivers, numbers)
    await restart.begins()
    await restart.ends()
    for topic in (*MESSAGES, Topic.GROUP_MGMT, Topic.ACK):
        await asyncio.to_thread(delete, here, topic)
        if by_operator:
            await asyncio.to_thread(make, here, topic)
        began = time.monotonic()
        if topic in MESSAGES:
            await all_go_on(here, topic, receivers, numbers)
        else:
            await all_join(here, receivers)
        figure(f"{topic.value} {by_operator=}: {time.monotonic() - began:.1f} s")
    for each in receivers:
        assert len(set(each.numbers)) == len(each.numbers), "none came twice"


async def a_worker_channel_goes_on(
    make_layer: Layers, prefix: str, protocol: str, restart: Outage
) -> None:
    config = {
        "worker_channels": {"jobs": {}},
        "await_produce": True,
        "auto_create_topics": False,
        "default_partitions": 2,
    }
    here = make_layer(prefix, **config)
    # The broker waits for the members that it remembers until their sessions end.
    session = {"session.timeout.ms": 3_000} if protocol == "classic" else {}
    there = make_layer(prefix, worker_group_protocol=protocol, consumer_config=session, **config)
    await asyncio.to_thread(make, here)
    numbers: list[int] = []

    async def receive() -> None:
        while True:
            numbers.append((await there.receive("jobs"))["n"])

    receiving = asyncio.create_task(receive())
    for number in range(BEFORE):
        await here.send("jobs", {"n": number})
    await wait_until_async(lambda: len(numbers) == BEFORE, "the jobs of the first topic")
    await restart.begins()
    await restart.ends()
    await asyncio.to_thread(delete, here, WorkTopic("jobs"))
    await asyncio.to_thread(make, here, WorkTopic("jobs"))
    taken: list[int] = []
    deadline = time.monotonic() + LIMIT
    for number in itertools.count(BEFORE):
        # The producer may not know the new topic at once.
        with contextlib.suppress(ProduceFailed):
            await here.send("jobs", {"n": number})
            taken.append(number)
        if len(taken) == BEFORE:
            break
        assert time.monotonic() < deadline, stats_of(here)
    await wait_until_async(lambda: set(taken) <= set(numbers), "the jobs of the new topic", LIMIT)
    assert len(set(numbers)) == len(numbers), "none came twice"
    receiving.cancel()


async def a_worker_of_a_stream_goes_on(make_layer: Layers, prefix: str, restart: Outage) -> None:
    """It gets all records of the new topic, though its group begins at the end of a topic."""
    channel = f"{prefix}-jobs"
    topic = ForeignTopic(make_layer(prefix, default_partitions=2), prefix)
    await asyncio.to_thread(topic.create)
    stream = {"topic": topic.name, "type": "order", "worker_channel": channel, "start": "latest"}
    layer = make_layer(prefix, default_partitions=2, streams={"orders": stream})
    numbers: list[int] = []

    async def receive() -> None:
        while True:
            numbers.append((await layer.receive(channel))["value"])

    async def write(*values: int) -> None:
        await asyncio.to_thread(topic.write, *(b"%d" % each for each in values))
        # A worker whose session ended meanwhile joins its group anew.
        await wait_until_async(lambda: set(values) <= set(numbers), f"{values}", LIMIT)

    receiving = asyncio.create_task(receive())
    await wait_until_async(
        lambda: server_of(layer).jobs.mailbox(channel) is not None, "the group to form", LIMIT
    )
    await write(*range(BEFORE - 1))
    await restart.begins()
    await restart.ends()
    # Only a coordinator that has loaded the group deletes its positions with the topic.
    await write(BEFORE - 1)
    await asyncio.to_thread(topic.delete)
    await asyncio.to_thread(topic.create)
    began = time.monotonic()
    # As many as before: the old position is the end of the new log.
    await write(*range(BEFORE, 2 * BEFORE))
    figure(f"worker of a stream: {time.monotonic() - began:.1f} s")
    assert numbers == list(range(2 * BEFORE)), "none came twice"
    receiving.cancel()


async def test_a_server_whose_inbox_partition_is_gone_gives_way_to_another(
    broker: RealBroker, make_layer: Layers, prefix: str
) -> None:
    make_layer.timings = Timings(topics=0.5)
    # A server that makes its topics itself makes them with as many partitions as before.
    here, there = (make_layer(prefix, auto_create_topics=False) for _ in range(2))
    await asyncio.to_thread(make, there)
    channel = await there.new_channel()
    # A server of partition 0 stays reachable.
    while channel.startswith("specific.0-"):
        await there.close()
        channel = await there.new_channel()
    waiting = await begin_receive(there, channel)
    await asyncio.to_thread(delete, there, *INBOX_TOPICS)
    await asyncio.to_thread(make, there, *INBOX_TOPICS, partitions=1)
    with pytest.raises(LayerClosed):
        await waiting
    channel = await there.new_channel()
    assert channel.startswith("specific.0-")
    await here.group_add("room", channel)
    await here.send(channel, {"n": 1})
    assert await next_message(there, channel) == {"n": 1}


async def send_through_all(
    here: KafkaChannelLayer, receivers: Sequence[Receiver], numbers: itertools.count[int]
) -> None:
    for topic in MESSAGES:
        for send, _ in ways(here, topic, receivers):
            for _ in range(BEFORE):
                await send(next(numbers))


async def all_go_on(
    here: KafkaChannelLayer,
    topic: Topic,
    receivers: Sequence[Receiver],
    numbers: itertools.count[int],
) -> None:
    sent_before = BEFORE
    for send, to in ways(here, topic, receivers):
        await goes_on(send, to, numbers, sent_before)
        # The topic is the new one by now, whatever the offsets are.
        sent_before = sys.maxsize


async def goes_on(
    send: Send, to: Sequence[Receiver], numbers: itertools.count[int], sent_before: int
) -> None:
    """Send until all got five; nothing that the new topic took may be missing and not counted.

    Args:
        send: Sends one.
        to: Those who are to get it.
        numbers: The numbers of the messages.
        sent_before: Offsets from this one on are those of the old topic, up to the first lower.
    """
    taken: list[int] = []
    deadline = time.monotonic() + LIMIT
    while not all(len(set(each.numbers) & set(taken)) >= 5 for each in to):
        assert time.monotonic() < deadline, [stats_of(each.layer) for each in to]
        number = next(numbers)
        with contextlib.suppress(ProduceFailed):
            position = await send(number)
            assert position is not None
            if taken or position.offset < sent_before:
                taken.append(number)
        await asyncio.sleep(0.05)  # the pace of the messages
    for each in to:
        await wait_until_async(
            lambda each=each: taken[-1] in each.numbers,  # type: ignore[misc]
            "the last one to arrive",
            LIMIT,
        )
        missing = set(taken) - set(each.numbers)
        assert len(missing) <= each.counted(), (sorted(missing), stats_of(each.layer))


async def all_join(here: KafkaChannelLayer, receivers: Sequence[Receiver]) -> None:
    deadline = time.monotonic() + LIMIT
    left = [each.channel for each in receivers]
    while left:
        try:
            await here.group_add("another", left[0])
        except (GroupAckTimeout, ProduceFailed):
            assert time.monotonic() < deadline, stats_of(here)
        else:
            left.pop(0)
