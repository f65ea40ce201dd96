"""Brokers that die and come back while messages flow."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient

from kafka_layer.wire.topics import Topic, topic_name
from tests.faults.conftest import LayersOn
from tests.faults.traffic import NO_BLOCKING, Inbox, Stream, Tally, answers_at, figure
from tests.support.kafka import RealBroker, RealCluster
from tests.support.layers import Layers, next_messages, stats_of
from tests.support.records import create_topic, leader_of, produce
from tests.support.waiting import wait_until, wait_until_async

RECOVERED = 5.0
"""Seconds from a broker's being ready to the first message, on such a machine; see the figures."""


@pytest.fixture(scope="module")
def cluster(real_broker_tools: None) -> Iterator[RealCluster]:
    with RealCluster(3) as cluster:
        yield cluster


async def streaming(layers: Layers, rate: float = 100) -> tuple[Stream, list[Inbox]]:
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


class TestOneBroker:
    async def test_killed_and_restarted_after_5_s(
        self, broker: RealBroker, make_layer: Layers
    ) -> None:
        stream, inboxes = await streaming(make_layer)
        broker.kill()
        await stream.goes_on(500)  # 5 s
        lost_at = max(inbox.arrived[-1][0] for inbox in inboxes)
        with answers_at(broker.bootstrap_servers) as answered:
            await asyncio.to_thread(broker.start)
            ready = time.monotonic()
            await stream.goes_on(100)
            await stream.settled(inboxes)
        assert_nothing_lost(stream, inboxes)
        back = [next(at for at, _ in inbox.arrived if at > lost_at) for inbox in inboxes]
        for inbox in inboxes:
            connected = functools.partial(is_connected_again, inbox)
            await wait_until_async(connected, "a server to see that the broker is back")
        figure(
            f"port answered, broker ready after {ready - answered[0]:.2f} s, messages after "
            f"{max(back) - answered[0]:.2f} s; {len(stream.accepted)} turns, the longest call "
            f"took {stream.longest * 1000:.1f} ms"
        )
        # A killed broker serves once its old session ended (1.5 s here).
        assert max(back) < max(ready, answered[0]) + RECOVERED

    async def test_stopped_for_30_s(self, broker: RealBroker, make_layer: Layers) -> None:
        stream, inboxes = await streaming(make_layer, rate=50)
        await asyncio.to_thread(broker.halt)
        stopped = time.monotonic()
        await stream.goes_on(1500)  # 30 s
        away = time.monotonic() - stopped
        with answers_at(broker.bootstrap_servers) as answered:
            await asyncio.to_thread(broker.start)
            await stream.goes_on(50)
            await stream.settled(inboxes)
        assert_nothing_lost(stream, inboxes)
        back = max(first_after(inbox, answered[0]) for inbox in inboxes) - answered[0]
        figure(f"stopped for {away:.0f} s: messages {back:.2f} s after the port answered")
        assert away >= 29
        assert back < RECOVERED

    async def test_it_stands_still_until_its_session_ends(
        self, broker: RealBroker, make_layer: Layers
    ) -> None:
        # Once it goes on it tells clients for a moment that there is no broker.
        stream, inboxes = await streaming(make_layer)
        for _ in range(2):
            broker.freeze()
            await stream.goes_on(300)  # 3 s; the session is 1.5 s
            broker.thaw()
            thawed = time.monotonic()
            number = stream.accepted[-1]
            for inbox in inboxes:
                await inbox.has("direct", number)
            figure(f"it went on; all was there {time.monotonic() - thawed:.2f} s later")
        await stream.settled(inboxes)
        assert_nothing_lost(stream, inboxes)

    async def test_what_expired_meanwhile_is_reported_and_the_rest_arrives(
        self, broker: RealBroker, make_layer: Layers
    ) -> None:
        sender, receiver = make_layer(expiry=3), make_layer(expiry=3)
        inbox = await Inbox.opened(receiver, "room")
        for number in range(10):
            await sender.group_send("room", {"kind": "group", "n": number})
        await inbox.has("group", 9)
        broker.kill()
        for number in range(10, 20):
            await sender.group_send("room", {"kind": "group", "n": number})
        failed = functools.partial(lambda: stats_of(sender)["dropped.produce"] == 10)
        await wait_until_async(failed, "10 records to be given up after 3 s", 20)
        for number in range(20, 30):
            await sender.group_send("room", {"kind": "group", "n": number})
        await asyncio.to_thread(broker.start)
        await sender.group_send("room", {"kind": "group", "n": 30})
        await inbox.has("group", 30)
        numbers = inbox.numbers("group")
        given_up = stats_of(sender)["dropped.produce"]
        assert stats_of(sender)["failed"] == given_up
        assert len(numbers) + given_up == 31
        assert numbers == [*range(10), *range(31 - len(numbers) + 10, 31)]


class TestThreeBrokers:
    async def test_leaders_killed_one_after_another(
        self, cluster: RealCluster, layers_on: LayersOn
    ) -> None:
        layers = layers_on(cluster.bootstrap_servers)
        stream, inboxes = await streaming(layers)
        topic = topic_name(layers.prefix, Topic.SEND_GROUP)
        killed = []
        while len(killed) < 2:
            leader = await asyncio.to_thread(leader_of, cluster.bootstrap_servers, topic)
            assert leader is not None
            killed.append(leader)
            node = cluster.node(leader)
            node.kill()
            others = functools.partial(self.led_by_another, cluster, topic, leader)
            await asyncio.to_thread(wait_until, others, f"leaders of {topic} but {leader}", 30)
            await stream.goes_on(50)
            if len(killed) < 2:
                await asyncio.to_thread(node.start)
                await asyncio.to_thread(self.in_sync, cluster)
        await stream.settled(inboxes)
        assert_nothing_lost(stream, inboxes)
        gaps = [b - a for inbox in inboxes for (a, _), (b, _) in self.pairs(inbox)]
        figure(f"killed {killed}: {len(stream.accepted)} turns, silence <= {max(gaps):.2f} s")

    async def test_the_leader_of_a_streams_partition_is_killed(
        self, cluster: RealCluster, layers_on: LayersOn, prefix: str
    ) -> None:
        servers = cluster.bootstrap_servers
        await asyncio.to_thread(self.all_run, cluster)
        await asyncio.to_thread(create_topic, servers, prefix, 1, 3)
        streams = {"orders": {"topic": prefix, "group": "all", "type": "order.changed"}}
        layer = layers_on(servers)(streams=streams)
        channel = await layer.new_channel()
        await layer.group_add("all", channel)
        receiving = asyncio.create_task(next_messages(layer, channel, 300))
        for part in range(3):
            values = [b"%d" % number for number in range(100 * part, 100 * part + 100)]
            await asyncio.to_thread(produce, servers, prefix, values)
            if part == 1:
                leader = await asyncio.to_thread(leader_of, servers, prefix)
                assert leader is not None
                cluster.node(leader).kill()
        assert [each["value"] for each in await receiving] == list(range(300))
        told = layer.stats().streams["orders"]
        assert (told["state"], told["errors"], told["records"]) == ("reading", {}, 300)

    def all_run(self, cluster: RealCluster) -> None:
        for node in cluster.nodes:
            if not node.running:
                node.start()
        self.in_sync(cluster)

    def led_by_another(self, cluster: RealCluster, topic: str, killed: int) -> bool:
        servers = next(node for node in cluster.nodes if node.running).bootstrap_servers
        leaders = [leader_of(servers, topic, number) for number in range(4)]
        return None not in leaders and killed not in leaders

    def in_sync(self, cluster: RealCluster) -> None:
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers, "log_level": 0})

        def complete() -> bool:
            topics = admin.list_topics(timeout=10).topics.values()
            return all(len(p.isrs) == 3 for topic in topics for p in topic.partitions.values())

        wait_until(complete, "all replicas to be in sync", 30, pause=0.1)

    def pairs(self, inbox: Inbox) -> Iterator[tuple[tuple[float, object], tuple[float, object]]]:
        return zip(inbox.arrived, inbox.arrived[1:], strict=False)
