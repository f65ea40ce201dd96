"""Several brokers: the first use of a fresh prefix, and leaders that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import pytest
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from kafka_layer.exceptions import ProduceFailed
from kafka_layer.kafka.topics import TopicWatch, read_answers
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.messages import Recovery
from kafka_layer.wire.partitions import partition_of
from kafka_layer.wire.topics import Topic, topic_name
from tests.contract import test_recovery as contract
from tests.faults.asking import DEADLINE, IN_TIME
from tests.faults.conftest import LayersOn, delete_topics
from tests.faults.courses.messages import assert_nothing_lost, streaming
from tests.faults.outage import Outage
from tests.faults.traffic import Inbox, Stream, figure
from tests.support import records
from tests.support.kafka import Node, RealCluster
from tests.support.layers import PARTITIONS, Layers, next_message, next_messages
from tests.support.patience import PATIENT
from tests.support.streams import wait_for_state
from tests.support.waiting import wait_until

RATE = 20
"""Turns a second: all six servers read all messages, and three brokers keep them."""

WATCHES = 8
"""Each asks one of three brokers: it is unlikely that none asks the one that is killed."""

FRESH = 3
"""Prefixes that are used for the first time, side by side."""


@pytest.fixture(scope="module")
def cluster(real_broker_tools: None) -> Iterator[RealCluster]:
    with RealCluster(3, heap_mb=256) as brokers:
        yield brokers


@pytest.fixture
def make_layer(cluster: RealCluster, layers_on: LayersOn) -> Layers:
    return layers_on(cluster.bootstrap_servers)


async def test_servers_start_on_fresh_topics_and_reach_each_other(
    cluster: RealCluster, make_layer: Layers
) -> None:
    """Some brokers learn of the topics later than the one that is asked."""
    await asyncio.gather(*(start_and_meet(make_layer) for _ in range(FRESH)))
    # Three brokers have much to do for each of them.
    await asyncio.to_thread(delete_topics, cluster.bootstrap_servers)


async def start_and_meet(make_layer: Layers) -> None:
    prefix = f"fresh-{secrets.token_hex(4)}"
    layers = [make_layer(prefix=prefix, default_partitions=2) for _ in range(2)]
    channels = await asyncio.gather(*(each.new_channel() for each in layers))
    for layer, channel in zip(layers, channels, strict=True):
        await layer.group_add("room", channel)
    await layers[0].group_send("room", {"n": 1})
    for layer, channel in zip(layers, channels, strict=True):
        assert await next_message(layer, channel) == {"n": 1}
    await asyncio.gather(*(each.close() for each in layers))


async def test_what_lies_on_several_brokers_is_recovered(make_layer: Layers) -> None:
    here, late = make_layer(), make_layer(timings=PATIENT)
    groups = [f"room-{number}" for number in range(2 * PARTITIONS)]
    channel = await contract.tracked(here, *groups, user=7)
    position = here.position(channel)
    for number, group in enumerate(groups):
        await contract.send(here, group, number)
    await here.user_send(7, {"n": "user"})
    await here.all_send({"n": "all"})
    live = [each["n"] for each in await next_messages(here, channel, len(groups) + 2)]
    found = await late.recover(await contract.tracked(late, *groups, user=7), position)
    missed = contract.numbers(found)
    assert sorted(missed, key=str) == sorted(live, key=str)
    for partition in range(PARTITIONS):
        ours = [
            each
            for each in missed
            if isinstance(each, int) and partition_of(groups[each], PARTITIONS) == partition
        ]
        assert ours == sorted(ours)


async def test_leaders_killed_one_after_another(
    cluster: RealCluster, make_layer: Layers, prefix: str
) -> None:
    """The first one leads what all courses are about; the second one is killed once it is back."""
    stream, inboxes = await streaming(make_layer, RATE)
    topic = topic_name(make_layer.prefix, Topic.SEND_GROUP)
    first = await asyncio.to_thread(leader_of, cluster, topic)

    def come_back() -> None:
        first.start()
        in_sync(cluster)

    await Outage(first.kill, come_back).run(
        partial(others_lead, cluster, topic, first, stream),
        partial(channels_recover, cluster, inboxes[0].layer, make_layer(), first),
        partial(a_stream_goes_on, cluster, make_layer, f"{prefix}-orders", first),
        partial(a_sender_goes_on, cluster, make_layer, prefix, first),
    )
    second = await asyncio.to_thread(leader_of, cluster, topic)
    watches = await asyncio.to_thread(watching, inboxes[0].layer, topic)
    second.kill()
    await asyncio.to_thread(await_other_leaders, cluster, topic, second)
    await asyncio.to_thread(await_answers, watches, topic)
    await stream.goes_on(25)
    await stream.settled(inboxes)
    assert_nothing_lost(stream, inboxes)
    gaps = [b - a for inbox in inboxes for (a, _), (b, _) in pairs(inbox)]
    killed = [first.node_id, second.node_id]
    figure(f"killed {killed}: {len(stream.accepted)} turns, silence <= {max(gaps):.2f} s")


def watching(layer: KafkaChannelLayer, topic: str) -> list[TopicWatch]:
    """Return watches, each with an answer, so that each has a broker to ask: any one; blocks."""
    watches = [TopicWatch(layer.config) for _ in range(WATCHES)]
    await_answers(watches, topic, close=False)
    return watches


def await_answers(watches: Sequence[TopicWatch], topic: str, *, close: bool = True) -> None:
    """Ask until each watch is answered, also one that asked the broker that is away; blocks."""

    def told(watch: TopicWatch) -> bool:
        return topic in read_answers(watch.ask([topic], 1.0), 2.0)[0]

    for watch in watches:
        wait_until(partial(told, watch), f"an answer about {topic}", DEADLINE)
        if close:
            watch.close()


async def others_lead(
    cluster: RealCluster, topic: str, leader: Node, stream: Stream, outage: Outage
) -> None:
    await outage.begins()
    await asyncio.to_thread(await_other_leaders, cluster, topic, leader)
    await stream.goes_on(25)
    await outage.ends()


async def channels_recover(
    cluster: RealCluster,
    here: KafkaChannelLayer,
    late: KafkaChannelLayer,
    leader: Node,
    outage: Outage,
) -> None:
    """Some begin when the leader of their group's partition is killed, others while it is away."""
    group = await asyncio.to_thread(group_led_by, cluster, here, leader)
    channel = await contract.tracked(here, group)
    position = here.position(channel)
    await contract.send(here, group, *range(100))
    assert contract.numbers(await next_messages(here, channel, 100)) == list(range(100))
    channels = [await contract.tracked(late, group) for _ in range(10)]
    recoveries: list[asyncio.Task[Recovery]] = []

    def begin() -> None:
        recoveries.extend(asyncio.create_task(late.recover(each, position)) for each in channels)

    await outage.begins(begin)
    for found in await asyncio.wait_for(asyncio.gather(*recoveries), IN_TIME):
        # All, or nothing and a reason.
        assert found.reason in {None, "unavailable", "timeout"}
        assert [each["n"] for each in found.messages] == list(range(100 * found.recovered))
    found = await until_recovered(late, group, position)
    assert contract.numbers(found) == list(range(100))
    # The new leader takes what comes, and a position from before it leads there.
    witness = await contract.tracked(late, group)
    await contract.send(here, group, 100)
    for layer, member in ((here, channel), (late, witness)):
        assert contract.numbers([await next_message(layer, member)]) == [100]
    found = await until_recovered(late, group, found.messages[-2].position)
    assert contract.numbers(found) == [99, 100]
    await outage.ends()


async def a_stream_goes_on(
    cluster: RealCluster, make_layer: Layers, topic: str, leader: Node, outage: Outage
) -> None:
    """Its topic is created again when the leader is back."""
    servers = cluster.bootstrap_servers
    ids = [node.node_id for node in cluster.nodes]
    ids.sort(key=lambda each: each != leader.node_id)
    await asyncio.to_thread(make_led_by, servers, topic, ids)
    streams = {"orders": {"topic": topic, "group": "all", "type": "order.changed"}}
    layer = make_layer(streams=streams, await_produce=True, timings=PATIENT)
    channel = await layer.new_channel()
    await layer.group_add("all", channel)
    await layer.produce("orders", "first")
    assert (await next_message(layer, channel))["value"] == "first"
    # The other courses take their time until the leader is killed.
    receiving = asyncio.create_task(next_messages(layer, channel, 300, 3 * DEADLINE))
    assert await asyncio.to_thread(leader_of, cluster, topic) is leader
    for part in range(3):
        values = [b"%d" % each for each in range(100 * part, 100 * part + 100)]
        await asyncio.to_thread(records.produce, servers, topic, values)
        if part == 1:
            await outage.begins()
    assert [each["value"] for each in await receiving] == list(range(300))
    await outage.ends()
    await wait_for_state(layer, "orders", "reading", errors={}, records=301)
    # The election has raised the leader epoch. In the new topic it is lower, so that the clients
    # take what brokers tell of its leader for outdated.
    await layer.produce("orders", "old")
    assert (await next_message(layer, channel))["value"] == "old"
    led_by = await asyncio.to_thread(leader_of, cluster, topic)
    ids.sort(key=lambda each: each in (leader.node_id, led_by.node_id))
    # No round of its upkeep comes between its first record and the new topic.
    late = make_layer(streams=streams, await_produce=True, timings=replace(PATIENT, upkeep=3.0))
    await late.produce("orders", "old")
    assert (await next_message(layer, channel))["value"] == "old"
    await asyncio.to_thread(make_anew, servers, topic, ids)
    writers = (until_taken(partial(each.produce, "orders", "new")) for each in (layer, late))
    await asyncio.wait_for(asyncio.gather(*writers), DEADLINE)
    for message in await next_messages(layer, channel, 2, DEADLINE):
        assert message["value"] == "new"


async def a_sender_goes_on(
    cluster: RealCluster, make_layer: Layers, prefix: str, leader: Node, outage: Outage
) -> None:
    """It has no client that looks at topics all the time."""
    servers, topic = cluster.bootstrap_servers, topic_name(prefix, Topic.SEND_GROUP)
    ids = [node.node_id for node in cluster.nodes]
    ids.sort(key=lambda each: each != leader.node_id)
    await asyncio.to_thread(make_led_by, servers, topic, ids)
    first = make_layer(prefix=prefix, default_partitions=1)
    await first.group_send("room", {"n": 0})
    await first.close()
    often = replace(PATIENT, upkeep=0.5, topics=0.5, refresh=0.5)
    # It creates no topic itself: if it is quicker, its topic may have the same leader.
    layer = make_layer(prefix=prefix, auto_create_topics=False, await_produce=True, timings=often)
    await layer.group_send("room", {"n": 1})
    await outage.begins()
    await outage.ends()
    await layer.group_send("room", {"n": 2})
    led_by = await asyncio.to_thread(leader_of, cluster, topic)
    ids.sort(key=lambda each: each in (leader.node_id, led_by.node_id))
    await asyncio.to_thread(make_anew, servers, topic, ids)
    await asyncio.wait_for(until_taken(partial(layer.group_send, "room", {"n": 3})), DEADLINE)


def make_anew(servers: str, topic: str, brokers: list[int]) -> None:
    """Delete a topic, and create it with another leader; blocks."""
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    admin.delete_topics([topic])[topic].result(DEADLINE)
    make_led_by(servers, topic, brokers)


def make_led_by(servers: str, topic: str, brokers: list[int]) -> None:
    """Create a topic with one partition, which the first of these brokers leads; blocks."""
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    new = NewTopic(topic, 1, replica_assignment=[brokers])

    def is_created() -> bool:
        # A broker may still know the old one.
        return admin.create_topics([new])[topic].exception(DEADLINE) is None

    wait_until(is_created, f"{topic} to be created", DEADLINE, pause=0.1)


async def until_taken(send: Callable[[], Awaitable[object]]) -> None:
    """Write a record; what the producer's old client holds is reported as failed."""
    while True:
        with contextlib.suppress(ProduceFailed):
            await send()
            return


async def until_recovered(layer: KafkaChannelLayer, group: str, position: str) -> Recovery:
    """Recover new channels until one is; each gets a verdict in time."""
    deadline = asyncio.get_running_loop().time() + DEADLINE
    while True:
        channel = await contract.tracked(layer, group)
        found = await asyncio.wait_for(layer.recover(channel, position), IN_TIME)
        if found.recovered:
            return found
        assert asyncio.get_running_loop().time() < deadline, f"still {found.reason}"


def leader_of(cluster: RealCluster, topic: str, partition: int = 0) -> Node:
    """Return the broker that leads a partition, once there is one; blocks."""
    led_by = partial(records.leader_of, cluster.bootstrap_servers, topic, partition)
    number = wait_until(led_by, f"a leader of {topic}[{partition}]", DEADLINE)
    assert number is not None
    return cluster.node(number)


def group_led_by(cluster: RealCluster, layer: KafkaChannelLayer, leader: Node) -> str:
    """Return a group whose partition a broker leads; blocks."""
    topic = topic_name(layer.config.prefix, Topic.SEND_GROUP)
    groups = (f"room-{number}" for number in itertools.count())
    led = {n for n in range(PARTITIONS) if leader_of(cluster, topic, n) is leader}
    assert led
    return next(group for group in groups if partition_of(group, PARTITIONS) in led)


def await_other_leaders(cluster: RealCluster, topic: str, killed: Node) -> None:
    """Wait until each partition of a topic is led, and not by a broker that was killed."""
    servers = next(node for node in cluster.nodes if node.running).bootstrap_servers
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})

    def led() -> bool:
        partitions = admin.list_topics(topic, timeout=DEADLINE).topics[topic].partitions.values()
        leaders = {each.leader for each in partitions}
        return len(partitions) == PARTITIONS and not leaders & {-1, killed.node_id}

    wait_until(led, f"leaders of {topic} but {killed}", DEADLINE, pause=0.1)


def in_sync(cluster: RealCluster) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0})

    def complete() -> bool:
        topics = admin.list_topics(timeout=DEADLINE).topics.values()
        return all(len(p.isrs) == 3 for topic in topics for p in topic.partitions.values())

    wait_until(complete, "all replicas to be in sync", DEADLINE, pause=0.1)


def pairs(inbox: Inbox) -> Iterator[tuple[tuple[float, object], tuple[float, object]]]:
    return zip(inbox.arrived, inbox.arrived[1:], strict=False)
