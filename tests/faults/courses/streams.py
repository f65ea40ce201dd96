"""Courses: streams of a broker that is killed while records are written, and comes back."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial

from kafka_layer.layer import KafkaChannelLayer
from tests.faults.flows import LIMIT, Flow, Viewer, stream
from tests.faults.outage import PAUSES, Course, Outage
from tests.faults.traffic import NO_BLOCKING, Inbox, Stream, Tally, tally
from tests.support.layers import Layers, stats_of
from tests.support.streams import SOON, ForeignTopic, state_of, wait_for_state
from tests.support.waiting import wait_until_async


async def while_killed(make_layer: Layers, near: Layers, prefix: str) -> list[Course]:
    """Return the courses, each for a topic of its own.

    Args:
        make_layer: Makes layers on the broker that is killed.
        near: Makes layers on another one.
        prefix: Part of the topics' names.
    """
    # One layer reads the topics of all courses: each client looks for the broker all the time.
    outside = make_layer()
    orders, missing, anew, far, shared = (ForeignTopic(outside, prefix) for _ in range(5))
    channel = f"orders-to-db-{secrets.token_hex(4)}"
    streams = {
        "orders": stream(orders.name, "orders"),
        "missing": stream(missing.name, "missing"),
        "anew": stream(anew.name, "anew"),
        "shared": stream(shared.name, None, worker_channel=channel),
    }
    layer = make_layer(streams=streams, timings=SOON)
    await asyncio.to_thread(orders.create, 2)
    for topic in (anew, far, shared):
        await asyncio.to_thread(topic.create)
    return [
        partial(records_of_two_partitions, layer, orders),
        partial(of_a_topic_that_does_not_exist_yet, layer, missing),
        partial(of_a_topic_that_is_made_anew, layer, anew),
        partial(of_another_cluster, near, far),
        partial(what_a_worker_gets, layer, shared, channel),
    ]


async def records_of_two_partitions(
    layer: KafkaChannelLayer, topic: ForeignTopic, outage: Outage
) -> None:
    viewer = await Viewer.opened(layer, "orders")
    flow = Flow(topic, 2).start()
    await flow.goes_on(50)
    await outage.begins()
    await flow.piles_up(100)
    await outage.ends()
    await flow.goes_on(100)
    await flow.stop()
    await viewer.has_each_once_in_order(flow.written)
    await wait_for_state(layer, "orders", "reading", errors={}, delivered=flow.count)
    await viewer.close()


async def of_a_topic_that_does_not_exist_yet(
    layer: KafkaChannelLayer, topic: ForeignTopic, outage: Outage
) -> None:
    viewer = await Viewer.opened(layer, "missing")
    await wait_for_state(layer, "missing", "waiting")
    await outage.begins()
    await wait_until_async(lambda: layer.stats().state == "disconnected", "the outage")
    await outage.ends()
    await asyncio.to_thread(topic.create)
    flow = Flow(topic).start()
    await flow.goes_on(50)
    await flow.stop()
    await viewer.has_each_once_in_order(flow.written)
    await viewer.close()


async def of_a_topic_that_is_made_anew(
    layer: KafkaChannelLayer, topic: ForeignTopic, outage: Outage
) -> None:
    """With the lower leader epoch of a topic that saw no start of a broker."""
    viewer = await Viewer.opened(layer, "anew")
    old = Flow(topic, name="old").start()
    await old.goes_on(50)
    await outage.begins()
    await outage.ends()
    await old.goes_on(50)
    await old.stop()
    await viewer.has_each_once_in_order(old.written)
    await asyncio.to_thread(topic.delete)
    await wait_until_async(lambda: state_of(layer, "anew")["topics"] == 0, "it to be gone", LIMIT)
    await asyncio.to_thread(topic.create)
    new = Flow(topic, name="new").start()
    await new.goes_on(50)
    await new.stop()
    await viewer.has_each_once_in_order(old.written, new.written)
    await viewer.close()


async def of_another_cluster(near: Layers, topic: ForeignTopic, outage: Outage) -> None:
    far = stream(topic.name, "all", bootstrap_servers=topic.servers, client_config=PAUSES)
    streams = {"far": far}
    layer = near(streams=streams)
    viewer = await Viewer.opened(layer, "all")
    inbox = await Inbox.opened(layer, "room")
    own = Stream(layer, "room", [inbox])
    own.start()
    await layer.produce("far", {"p": "django", "n": 0})
    flow = Flow(topic).start()
    await flow.goes_on(50)
    await outage.begins()
    await flow.piles_up(100)
    # It waits for the other cluster alone.
    await layer.produce("far", {"p": "django", "n": 1})
    late = near(streams=streams)
    late_viewer = await Viewer.opened(late, "all")
    await wait_for_state(late, "far", "waiting")
    await own.goes_on(100)
    for each in (layer, late):
        assert (each.stats().state, each.stats().reconnects) == ("connected", 0)
    await outage.ends()
    await flow.goes_on(100)
    await flow.stop()
    for each in (viewer, late_viewer):
        await each.has_each_once_in_order(flow.written, {"django": [0, 1]})
        await each.close()
    await own.settled([inbox])
    assert own.tallies([inbox]) == [Tally(len(own.accepted), 0, 0, 0)] * 2
    assert own.longest < NO_BLOCKING
    await inbox.close()


async def what_a_worker_gets(
    layer: KafkaChannelLayer, topic: ForeignTopic, channel: str, outage: Outage
) -> None:
    """At most once: what a commit without an answer puts in doubt is counted."""
    worker = Viewer(layer, channel)
    flow = Flow(topic).start()
    await wait_until_async(lambda: len(worker.numbers["0"]) >= 20, "the first ones", LIMIT)
    await outage.begins()
    await flow.piles_up(50)
    await outage.ends()
    await flow.goes_on(100)
    await flow.stop()

    def done() -> list[int]:
        worker.check()
        return worker.numbers["0"]

    def doubtful() -> int:
        return stats_of(layer)["dropped.doubtful"]

    await wait_until_async(
        lambda: len(set(done())) + doubtful() >= flow.count,
        f"{flow.count} records to be done",
        LIMIT,
        pause=0.1,
    )
    # It has one receive, so a commit without an answer puts one record in doubt: that of the
    # outage, and where its session ended on a slow machine, perhaps another one.
    told = tally(flow.written["0"], done())
    assert told.lost <= doubtful() <= 2
    assert (told.twice, told.disordered) == (0, 0)
    await worker.close()
