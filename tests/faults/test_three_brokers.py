"""Several brokers: the first use of a fresh prefix, and leaders that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
from collections.abc import Iterator

import pytest
from confluent_kafka import TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from kafka_layer.exceptions import ProduceFailed
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.messages import Recovery
from kafka_layer.wire.partitions import partition_of
from kafka_layer.wire.topics import Topic, topic_name
from tests.contract import test_recovery as contract
from tests.faults.asking import DEADLINE, IN_TIME
from tests.faults.conftest import LayersOn, delete_topics
from tests.faults.test_outages import assert_nothing_lost, streaming
from tests.faults.traffic import Inbox, figure
from tests.support import records
from tests.support.kafka import Node, RealCluster
from tests.support.layers import PARTITIONS, Layers, next_message, next_messages
from tests.support.topics import admin_of
from tests.support.waiting import wait_until

ROUNDS = 5


@pytest.fixture(scope="module")
def cluster(real_broker_tools: None) -> Iterator[RealCluster]:
    with RealCluster(3, heap_mb=256) as brokers:
        yield brokers


@pytest.fixture
def make_layer(cluster: RealCluster, layers_on: LayersOn) -> Layers:
    return layers_on(cluster.bootstrap_servers)


@pytest.fixture
def group() -> str:
    return f"room-{secrets.token_hex(4)}"


async def test_servers_start_on_fresh_topics_and_reach_each_other(
    cluster: RealCluster, make_layer: Layers
) -> None:
    """Some brokers learn of the topics later than the one that is asked."""
    for _ in range(ROUNDS):
        prefix = f"fresh-{secrets.token_hex(4)}"
        layers = [make_layer(prefix=prefix, default_partitions=2) for _ in range(2)]
        channels = await asyncio.gather(*(each.new_channel() for each in layers))
        for layer, channel in zip(layers, channels, strict=True):
            await layer.group_add("room", channel)
        await layers[0].group_send("room", {"n": 1})
        for layer, channel in zip(layers, channels, strict=True):
            assert await next_message(layer, channel) == {"n": 1}
        await asyncio.gather(*(each.close() for each in layers))
        # Three brokers have much to do for each of them.
        await asyncio.to_thread(delete_topics, cluster.bootstrap_servers)


class TestRecovery:
    async def test_what_lies_on_several_brokers(self, make_layer: Layers, prefix: str) -> None:
        here, late = make_layer(prefix), make_layer(prefix)
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

    async def test_a_leader_is_killed_in_the_middle(
        self, cluster: RealCluster, make_layer: Layers, prefix: str, group: str
    ) -> None:
        here, late = make_layer(prefix), make_layer(prefix)
        channel = await contract.tracked(here, group)
        position = here.position(channel)
        await contract.send(here, group, *range(100))
        assert contract.numbers(await next_messages(here, channel, 100)) == list(range(100))
        leader = await asyncio.to_thread(leader_of, cluster, here, group)
        channels = [await contract.tracked(late, group) for _ in range(10)]
        recoveries = [asyncio.create_task(late.recover(each, position)) for each in channels]
        await asyncio.to_thread(leader.kill)
        try:
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
        finally:
            await asyncio.to_thread(leader.start)


async def test_the_leader_of_a_streams_partition_is_killed_and_its_topic_made_anew(
    cluster: RealCluster, layers_on: LayersOn, prefix: str
) -> None:
    servers = cluster.bootstrap_servers
    await asyncio.to_thread(records.create_topic, servers, prefix, 1, 3)
    streams = {"orders": {"topic": prefix, "group": "all", "type": "order.changed"}}
    layer = layers_on(servers)(streams=streams, await_produce=True)
    channel = await layer.new_channel()
    await layer.group_add("all", channel)
    await layer.produce("orders", "first")
    assert (await next_message(layer, channel))["value"] == "first"
    receiving = asyncio.create_task(next_messages(layer, channel, 300))
    number = await asyncio.to_thread(records.leader_of, servers, prefix)
    assert number is not None
    leader = cluster.node(number)
    try:
        for part in range(3):
            values = [b"%d" % each for each in range(100 * part, 100 * part + 100)]
            await asyncio.to_thread(records.produce, servers, prefix, values)
            if part == 1:
                leader.kill()
        assert [each["value"] for each in await receiving] == list(range(300))
    finally:
        await asyncio.to_thread(leader.start)
    told = layer.stats().streams["orders"]
    assert (told["state"], told["errors"], told["records"]) == ("reading", {}, 301)
    # The election has raised the leader epoch. In the new topic it is lower, so that the clients
    # take what brokers tell of its leader for outdated.
    await layer.produce("orders", "old")
    assert (await next_message(layer, channel))["value"] == "old"
    led_by = await asyncio.to_thread(records.leader_of, servers, prefix)
    ids = [node.node_id for node in cluster.nodes]
    ids.sort(key=lambda each: each in (number, led_by))
    await asyncio.to_thread(make_anew, servers, prefix, ids)
    await asyncio.wait_for(until_produced(layer, "new"), DEADLINE)
    assert (await next_message(layer, channel, DEADLINE))["value"] == "new"


def make_anew(servers: str, topic: str, brokers: list[int]) -> None:
    """Delete a topic, and create it with one partition, which the first broker leads; blocks."""
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    admin.delete_topics([topic])[topic].result(DEADLINE)
    new = NewTopic(topic, 1, replica_assignment=[brokers])

    def is_created() -> bool:
        # A broker may still know the old one.
        return admin.create_topics([new])[topic].exception(DEADLINE) is None

    wait_until(is_created, f"{topic} to be created", DEADLINE, pause=0.1)


async def until_produced(layer: KafkaChannelLayer, value: str) -> None:
    """Write a record; what the producer's old client holds is reported as failed."""
    while True:
        with contextlib.suppress(ProduceFailed):
            await layer.produce("orders", value)
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


def leader_of(cluster: RealCluster, layer: KafkaChannelLayer, group: str) -> Node:
    """Return the broker that leads the partition of a group; blocks."""
    name = topic_name(layer.config.prefix, Topic.SEND_GROUP)
    admin = admin_of(layer)
    described = admin.describe_topics(TopicCollection([name]))[name].result(DEADLINE)
    return cluster.node(described.partitions[partition_of(group, PARTITIONS)].leader.id)


async def test_leaders_killed_one_after_another(cluster: RealCluster, make_layer: Layers) -> None:
    stream, inboxes = await streaming(make_layer)
    topic = topic_name(make_layer.prefix, Topic.SEND_GROUP)
    killed = []
    while len(killed) < 2:
        leader = await asyncio.to_thread(records.leader_of, cluster.bootstrap_servers, topic)
        assert leader is not None
        killed.append(leader)
        node = cluster.node(leader)
        node.kill()
        others = functools.partial(led_by_another, cluster, topic, leader)
        await asyncio.to_thread(wait_until, others, f"leaders of {topic} but {leader}", 30)
        await stream.goes_on(25)
        if len(killed) < 2:
            await asyncio.to_thread(node.start)
            await asyncio.to_thread(in_sync, cluster)
    await stream.settled(inboxes)
    assert_nothing_lost(stream, inboxes)
    gaps = [b - a for inbox in inboxes for (a, _), (b, _) in pairs(inbox)]
    figure(f"killed {killed}: {len(stream.accepted)} turns, silence <= {max(gaps):.2f} s")


def led_by_another(cluster: RealCluster, topic: str, killed: int) -> bool:
    servers = next(node for node in cluster.nodes if node.running).bootstrap_servers
    leaders = [records.leader_of(servers, topic, number) for number in range(4)]
    return None not in leaders and killed not in leaders


def in_sync(cluster: RealCluster) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0})

    def complete() -> bool:
        topics = admin.list_topics(timeout=10).topics.values()
        return all(len(p.isrs) == 3 for topic in topics for p in topic.partitions.values())

    wait_until(complete, "all replicas to be in sync", 30, pause=0.1)


def pairs(inbox: Inbox) -> Iterator[tuple[tuple[float, object], tuple[float, object]]]:
    return zip(inbox.arrived, inbox.arrived[1:], strict=False)
