"""Several layers, each a server of its own, receive from one worker channel."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from typing import Any, ClassVar

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from kafka_layer.config.timings import Timings
from kafka_layer.layer import KafkaChannelLayer
from tests.cluster.workers.clients import NotedConsumer, use, use_commits
from tests.cluster.workers.conftest import SESSION_MS, working
from tests.cluster.workers.groups import handed_out, members
from tests.support.inspect import server_of
from tests.support.layers import PARTITIONS, Layers, next_message, next_messages, stats_of
from tests.support.waiting import wait_until, wait_until_async

REBALANCED = SESSION_MS / 1000
"""Seconds in which a group has noticed who came or left."""


async def send(layer: KafkaChannelLayer, channel: str, numbers: range) -> None:
    for number in numbers:
        await layer.send(channel, {"n": number})


async def receive_until_cancelled(
    layer: KafkaChannelLayer, channel: str, got: Counter[int]
) -> None:
    while True:
        got[(await layer.receive(channel))["n"]] += 1


async def begin_work(layer: KafkaChannelLayer, channel: str) -> asyncio.Task[dict[str, Any]]:
    """Start a receive of one message; returns once it waits.

    Nothing around it: a ``wait_for`` that is cancelled may return what its receive has just taken.
    """
    task = asyncio.create_task(layer.receive(channel))

    def waits() -> bool:
        return task.done() or working(layer, channel)

    await wait_until_async(waits, f"a receive to wait on {channel}", pause=0.0)
    return task


def worker_of(layer: KafkaChannelLayer) -> Any:
    """The consumer of a layer's only worker channel."""
    [worker] = server_of(layer).transport._workers.values()  # type: ignore[attr-defined]
    return worker


async def pass_time(seconds: float) -> None:
    """Return when messages that are there now are so old."""
    until = time.monotonic() + seconds
    await wait_until_async(lambda: time.monotonic() > until, "time to pass")


async def stop(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class TestOneReceiver:
    async def test_messages_wait_while_nobody_receives_and_come_in_order(
        self, make_layer: Layers, channel: str
    ) -> None:
        one_partition = {"worker_channels": {channel: {"partitions": 1}}}
        sender = make_layer(**one_partition)
        await send(sender, channel, range(200))
        await sender.close()
        got = await next_messages(make_layer(**one_partition), channel, 200)
        assert [message["n"] for message in got] == list(range(200))

    async def test_the_first_message_comes_soon_after_the_first_receive(
        self, make_layer: Layers, channel: str, protocol: dict[str, Any]
    ) -> None:
        sender, receiver = make_layer(), make_layer(**protocol)
        await send(sender, channel, range(1))
        await receiver.new_channel()
        started = time.monotonic()
        await next_message(receiver, channel)
        # 0.2 s on a quiet machine; a group that waits for its time-outs takes 6 s and more.
        assert time.monotonic() - started < 5.5

    async def test_a_message_is_handed_out_only_when_its_position_is_committed(
        self, make_layer: Layers, channel: str, protocol: dict[str, Any]
    ) -> None:
        layer = make_layer(**protocol)
        await send(layer, channel, range(8))
        for count in range(1, 6):
            await next_message(layer, channel)
            # No more than that either: the rest belongs to whoever receives next.
            assert handed_out(layer, channel) == count

    async def test_a_backlog_that_expired_is_dropped_counted_and_skipped_quickly(
        self, make_layer: Layers, channel: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        count = 3_000
        consumers = use_commits(monkeypatch, None)
        expiring = {"worker_channels": {channel: {"expiry": 0.5}}}
        layer = make_layer(**expiring)
        await send(layer, channel, range(count))
        await layer.close()
        await pass_time(0.6)
        layer = make_layer(**expiring)
        first = await begin_work(layer, channel)
        await wait_until_async(
            lambda: stats_of(layer)["dropped.expired"] == count, "all of them to be dropped"
        )
        # A commit for each takes longer.
        assert len(consumers.committed_positions) < count / 10
        sent = 0
        while not first.done():
            # Again: on a slow machine one expires on its way.
            await layer.send(channel, {"n": "fresh"})
            sent += 1
            assert sent < 100
            await asyncio.wait([first], timeout=0.3)
        assert await first == {"n": "fresh"}
        assert stats_of(layer)["dropped.expired"] <= count + sent - 1

    async def test_a_wrong_clock_of_the_worker_drops_nothing(
        self, make_layer: Layers, channel: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sender, worker = make_layer(), make_layer()
        await send(sender, channel, range(3))
        right = time.time
        monkeypatch.setattr(time, "time", lambda: right() + 3600)
        got = await next_messages(worker, channel, 3)
        assert {message["n"] for message in got} == {0, 1, 2}
        assert stats_of(worker)["dropped.expired"] == 0

    async def test_each_channel_has_its_own_expiry(self, make_layer: Layers, channel: str) -> None:
        brief = f"brief.{channel}"
        config = {"expiry": 60, "worker_channels": {"brief.*": {"expiry": 0.3}}}
        sender = make_layer(**config)
        await send(sender, channel, range(5))
        await send(sender, brief, range(5))
        await sender.close()
        await pass_time(0.4)
        layer = make_layer(**config)
        waiting = asyncio.ensure_future(layer.receive(brief))
        await wait_until_async(
            lambda: stats_of(layer)["dropped.expired"] == 5, "the brief ones to expire"
        )
        assert len(await next_messages(layer, channel, 5)) == 5
        waiting.cancel()


class TestSharing:
    async def test_two_servers_share_the_messages_and_each_is_handed_out_once(
        self, make_layer: Layers, channel: str, protocol: dict[str, Any]
    ) -> None:
        layers = [make_layer(**protocol), make_layer(**protocol)]
        got: list[Counter[int]] = [Counter(), Counter()]
        tasks = [
            asyncio.create_task(receive_until_cancelled(layer, channel, each))
            for layer, each in zip(layers, got, strict=True)
        ]
        sender = make_layer()
        sent = 0

        def shared() -> bool:
            return all(len(each) > 50 for each in got)

        deadline = time.monotonic() + 60
        while not shared() and time.monotonic() < deadline:
            await send(sender, channel, range(sent, sent + 50))
            sent += 50
            await wait_until_async(
                lambda: sum(map(len, got)) == sent,  # noqa: B023
                f"{sent} to be received",
            )
        assert shared(), [len(each) for each in got]
        assert got[0] + got[1] == Counter(range(sent))
        await stop(*tasks)

    async def test_a_server_that_does_not_receive_leaves_the_rest_to_others(
        self, make_layer: Layers, channel: str, protocol: dict[str, Any]
    ) -> None:
        layer = make_layer(**protocol)
        await send(layer, channel, range(100))
        await next_message(layer, channel)
        assert stats_of(layer)["delivered"] == 1
        assert handed_out(layer, channel) == 1

    async def test_one_that_received_once_delays_the_others_by_a_few_seconds_at_most(
        self, make_layer: Layers, channel: str, protocol: dict[str, Any]
    ) -> None:
        make_layer.timings = timings = Timings(worker_idle=1.0)
        idle, working = make_layer(**protocol), make_layer(**protocol)
        await send(idle, channel, range(1))
        await next_message(idle, channel)
        started = time.monotonic()
        await send(idle, channel, range(1, 101))
        got = await next_messages(working, channel, 100)
        took = time.monotonic() - started
        assert {message["n"] for message in got} == set(range(1, 101))
        # And what a slow machine adds; without it they would have none at all.
        assert took < timings.worker_idle + 2 * REBALANCED + 10

    async def test_the_last_one_stays_in_the_group_and_gives_way_to_a_new_one_at_once(
        self, make_layer: Layers, channel: str, protocol: dict[str, Any]
    ) -> None:
        # Joining a group that is empty costs the broker's group.initial.rebalance.delay.ms.
        make_layer.timings = Timings(worker_idle=0.2)
        first = make_layer(**protocol)
        await send(first, channel, range(1))
        await next_message(first, channel)
        worker = worker_of(first)
        await pass_time(1.0)
        assert worker.is_member
        second = make_layer(**protocol)
        await send(first, channel, range(40))
        assert len(await next_messages(second, channel, 40)) == 40
        await wait_until_async(lambda: not worker.is_member, "the first to leave the group")

    async def test_it_comes_back_when_it_receives_again(
        self, make_layer: Layers, channel: str, protocol: dict[str, Any]
    ) -> None:
        make_layer.timings = Timings(worker_idle=0.2)
        # One partition: it cannot know that it is the last one, so it leaves.
        layer = make_layer(**protocol, worker_channels={channel: {"partitions": 1}})
        await send(layer, channel, range(3))
        for number in range(3):
            assert await next_message(layer, channel) == {"n": number}
            worker = worker_of(layer)
            await wait_until_async(lambda: not worker.is_member, "it to leave the group")  # noqa: B023


class ObservedConsumer(NotedConsumer):
    """Notes whether it is closing, and the partitions that are revoked meanwhile."""

    closed = 0
    revoked_while_closing: ClassVar[list[Any]] = []
    # What happens before its first poll, and within its requests for metadata.
    before_it_serves: ClassVar[Any] = None
    when_it_counts_partitions: ClassVar[Any] = None

    def poll(self, timeout: float = -1) -> Any:
        before, type(self).before_it_serves = self.before_it_serves, None
        if before is not None:
            before()
        return super().poll(timeout)

    def list_topics(self, *arguments: Any, **keywords: Any) -> Any:
        metadata = super().list_topics(*arguments, **keywords)
        if self.when_it_counts_partitions is not None:
            type(self).when_it_counts_partitions(metadata)
        return metadata

    def subscribe(self, topics: Any, on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        def noted(callback: Any) -> Any:
            def revoke(client: Any, partitions: Any) -> None:
                if self._closing:
                    self.revoked_while_closing.extend(partitions)
                callback(client, partitions)

            return revoke

        self._closing = False
        super().subscribe(
            topics, on_assign=on_assign, on_revoke=noted(on_revoke), on_lost=noted(on_lost)
        )

    def close(self) -> None:
        self._closing = True
        super().close()
        type(self).closed += 1


class TestLeaving:
    """A client that closes may never answer its second revocation, nor does its process then."""

    @pytest.fixture
    def observed(self, monkeypatch: pytest.MonkeyPatch) -> type[ObservedConsumer]:
        kind = use(ObservedConsumer, monkeypatch)
        kind.revoked_while_closing = []
        return kind

    async def test_nothing_is_left_to_revoke_when_the_client_closes(
        self,
        make_layer: Layers,
        channel: str,
        protocol: dict[str, Any],
        observed: type[ObservedConsumer],
    ) -> None:
        layer = make_layer(**protocol)
        await send(layer, channel, range(1))
        await next_message(layer, channel)
        await layer.close()
        assert observed.closed == 1
        assert observed.revoked_while_closing == []

    async def test_nothing_is_left_to_revoke_where_it_has_not_taken_its_share_yet(
        self,
        make_layer: Layers,
        channel: str,
        protocol: dict[str, Any],
        observed: type[ObservedConsumer],
    ) -> None:
        go_on = threading.Event()

        def wait_and_leave() -> None:
            assert go_on.wait(30)
            raise RuntimeError("leaves before it serves, as the test wants it")

        observed.before_it_serves = staticmethod(wait_and_leave)
        layer = make_layer(**protocol)
        await send(layer, channel, range(1))
        job = asyncio.create_task(next_message(layer, channel, 30))
        await wait_until_async(
            lambda: members(layer, channel) == 1, "the worker to join", pause=0.1
        )
        await pass_time(REBALANCED / 2)
        go_on.set()
        assert await job == {"n": 0}
        assert observed.closed == 1
        assert observed.revoked_while_closing == []

    async def test_nothing_is_left_to_revoke_where_another_worker_has_just_come(
        self,
        make_layer: Layers,
        channel: str,
        protocol: dict[str, Any],
        observed: type[ObservedConsumer],
    ) -> None:
        make_layer.timings = Timings(worker_idle=0.2, worker_look=1e9)
        first, second = make_layer(**protocol), make_layer(**protocol)
        await send(first, channel, range(1))
        # From then on it answers nothing, so what the other one asks for waits in its client.
        silent, go_on = threading.Event(), threading.Event()

        def say_nothing_and_leave(metadata: Any) -> None:
            silent.set()
            assert go_on.wait(30)
            # It learns that it is not alone, so it leaves.
            [topic] = metadata.topics.values()
            topic.partitions = dict.fromkeys(range(99))

        # It is idle from here on.
        await next_message(first, channel)
        observed.when_it_counts_partitions = staticmethod(say_nothing_and_leave)
        assert await asyncio.to_thread(silent.wait, 30)
        job = asyncio.create_task(next_message(second, channel, 30))
        await wait_until_async(lambda: members(first, channel) == 2, "the other to join", pause=0.1)
        await pass_time(REBALANCED / 2)
        go_on.set()
        await wait_until_async(lambda: observed.closed, "the first to leave")
        assert observed.revoked_while_closing == []
        await send(second, channel, range(1, 2))
        assert await job == {"n": 1}


class CutOffConsumer(NotedConsumer):
    """Is not answered any more, as librdkafka's where it was told of no broker.

    Attributes:
        cut_off: The client to which that happened.
        go_on: Ends the commit in which it waits.
    """

    cut_off: ClassVar[Any] = None
    go_on: ClassVar[threading.Event]

    def list_topics(self, *arguments: Any) -> Any:
        if self is CutOffConsumer.cut_off:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return super().list_topics(*arguments)

    def committed(self, *arguments: Any) -> Any:
        if self is CutOffConsumer.cut_off:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return super().committed(*arguments)

    def commit(self, **arguments: Any) -> Any:
        if self is CutOffConsumer.cut_off:
            assert self.go_on.wait(30)
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return super().commit(**arguments)


class MuteConsumer(CutOffConsumer):
    """Is not given messages any more, either."""

    def poll(self, timeout: float = -1) -> Any:
        if self is CutOffConsumer.cut_off:
            time.sleep(max(0, timeout))
            return None
        return super().poll(timeout)

    def consume(self, *arguments: Any) -> Any:
        return [] if self is CutOffConsumer.cut_off else super().consume(*arguments)


class TestClientsThatAreCutOff:
    @pytest.fixture(autouse=True)
    def impatient(self, make_layer: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
        make_layer.timings = Timings(worker_look=0.5, worker_stuck=1.5)
        monkeypatch.setattr(CutOffConsumer, "cut_off", None)
        monkeypatch.setattr(CutOffConsumer, "go_on", threading.Event(), raising=False)

    @pytest.mark.parametrize("kind", [CutOffConsumer, MuteConsumer])
    async def test_another_one_goes_on_and_no_job_comes_twice(
        self,
        make_layer: Layers,
        channel: str,
        protocol: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
        kind: type[CutOffConsumer],
    ) -> None:
        consumers = use(kind, monkeypatch)
        layer = make_layer(**protocol)
        await send(layer, channel, range(1))
        await next_message(layer, channel)
        CutOffConsumer.cut_off = consumers.made[-1]
        await send(layer, channel, range(1, 6))
        jobs = asyncio.create_task(next_messages(layer, channel, 5, 60))
        await wait_until_async(lambda: stats_of(layer)["consumer.replaced"], "another one to go on")
        # Its group is rid of it, as of one that cannot send heartbeats.
        CutOffConsumer.go_on.set()
        assert sorted(each["n"] for each in await jobs) == [1, 2, 3, 4, 5]
        counted = stats_of(layer)
        assert counted["consumer.replaced"] == 1
        assert counted["dropped.doubtful"] == (kind is CutOffConsumer)

    async def test_where_no_other_is_answered_it_stays(
        self, make_layer: Layers, channel: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Any] = []

        def nobody_answers(consumer: Any, *arguments: Any, **keywords: Any) -> Any:
            asked.append(consumer)
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))

        consumers = use(NotedConsumer, monkeypatch)
        monkeypatch.setattr(consumers, "committed", nobody_answers)
        monkeypatch.setattr(consumers, "list_topics", nobody_answers)
        layer = make_layer()
        await send(layer, channel, range(1))
        await next_message(layer, channel)
        job = asyncio.create_task(next_message(layer, channel, 30))
        await wait_until_async(lambda: len(set(map(id, asked))) > 1, "another one to be tried")
        await send(layer, channel, range(1, 2))
        assert await job == {"n": 1}
        assert stats_of(layer)["consumer.replaced"] == 0


class AskingConsumer(NotedConsumer):
    """Notes each look at its positions.

    Attributes:
        looks: The numbers of the partitions that were asked for, at each look.
        set_back: By how much the positions that it tells are too low: to the layer, the log holds
            records that no client can read.
    """

    looks: ClassVar[list[list[int]]]
    set_back = 0

    def committed(self, partitions: Any, *arguments: Any) -> Any:
        self.looks.append([each.partition for each in partitions])
        told = super().committed(partitions, *arguments)
        for each in told:
            if each.offset > 0:
                each.offset -= self.set_back
        return told


class TestClientsThatAreSilent:
    """librdkafka's consumer may read nothing more after an outage, while brokers answer it."""

    @pytest.fixture(autouse=True)
    def impatient(self, make_layer: Layers) -> None:
        make_layer.timings = Timings(worker_look=0.3)

    @pytest.fixture
    def consumers(self, monkeypatch: pytest.MonkeyPatch) -> type[AskingConsumer]:
        """The consumers of this test."""
        kind = use(AskingConsumer, monkeypatch)
        kind.looks = []
        return kind

    @pytest.mark.parametrize("silent", [PARTITIONS, 1])
    async def test_another_one_goes_on_and_every_job_is_done_once(
        self,
        make_layer: Layers,
        channel: str,
        protocol: dict[str, Any],
        consumers: type[AskingConsumer],
        silent: int,
    ) -> None:
        layer = make_layer(**protocol)
        await send(layer, channel, range(20))
        await next_messages(layer, channel, 20)
        await consumers.made[-1].mute(silent)
        await send(layer, channel, range(20, 60))
        jobs = await next_messages(layer, channel, 40)
        assert sorted(each["n"] for each in jobs) == list(range(20, 60))
        counted = stats_of(layer)
        # A slow machine may make the next one look silent, too.
        assert counted["consumer.replaced"] >= 1
        assert not [name for name in counted if name.startswith("dropped")]

    async def test_one_that_has_nothing_to_read_stays(
        self, make_layer: Layers, channel: str, consumers: type[AskingConsumer]
    ) -> None:
        layer = make_layer()
        await send(layer, channel, range(8))
        await next_messages(layer, channel, 8)
        job = asyncio.create_task(next_message(layer, channel, 30))
        await wait_until_async(lambda: len(consumers.looks) >= 4, "four looks")
        await send(layer, channel, range(8, 9))
        assert await job == {"n": 8}
        assert stats_of(layer)["consumer.replaced"] == 0

    async def test_one_whose_jobs_take_long_stays(
        self, make_layer: Layers, channel: str, protocol: dict[str, Any]
    ) -> None:
        layer = make_layer(**protocol)
        await send(layer, channel, range(6))
        for _ in range(6):
            await next_message(layer, channel)
            await pass_time(0.4)
        assert stats_of(layer)["consumer.replaced"] == 0

    async def test_where_another_one_gets_nothing_either_that_one_stays(
        self, make_layer: Layers, channel: str, consumers: type[AskingConsumer]
    ) -> None:
        layer = make_layer()
        await send(layer, channel, range(1))
        await next_message(layer, channel)
        consumers.set_back = 1
        job = asyncio.create_task(next_message(layer, channel, 30))
        await wait_until_async(
            lambda: stats_of(layer)["consumer.replaced"], "it to be replaced once"
        )
        looks = len(consumers.looks)
        await wait_until_async(lambda: len(consumers.looks) >= looks + 6, "six looks")
        await send(layer, channel, range(1, 2))
        assert await job == {"n": 1}
        assert stats_of(layer)["consumer.replaced"] == 1


class PollingConsumer(NotedConsumer):
    """Counts the messages that it returned."""

    messages = 0

    def poll(self, timeout: float = -1) -> Any:
        message = super().poll(timeout)
        if message is not None:
            type(self).messages += 1
        return message


class TestFlush:
    async def test_what_a_worker_had_fetched_before_is_gone(
        self,
        make_layer: Layers,
        channel: str,
        protocol: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        consumers = use(PollingConsumer, monkeypatch)
        here, worker = make_layer(), make_layer(**protocol)
        await worker.new_channel()  # a server that reads what is sent to all
        await send(here, channel, range(50))
        await next_message(worker, channel)
        server: Any = server_of(worker)
        await wait_until_async(
            lambda: consumers.messages > 1, "it to hold what no receive waits for"
        )
        await here.flush()
        await wait_until_async(
            lambda: server.jobs._channels[channel]._expiry.flushed_until > 0,
            "the worker to read of the flush",
        )
        await here.send(channel, {"n": "fresh"})
        assert await next_message(worker, channel) == {"n": "fresh"}
        assert stats_of(worker)["dropped.expired"] == 0


class TestNewPartitions:
    async def test_senders_use_them_and_the_workers_that_run_read_them(
        self, make_layer: Layers, channel: str, protocol: dict[str, Any]
    ) -> None:
        make_layer.timings = Timings(refresh=0.1, topics=0.1)
        settings = {"worker_channels": {channel: {"partitions": 1}}, "await_produce": True}
        sender, worker = make_layer(**settings), make_layer(**settings, **protocol)
        first = await sender.send(channel, {})
        assert first is not None
        await next_message(worker, channel)
        admin = AdminClient({"bootstrap.servers": sender.config.bootstrap_servers})
        for raised in admin.create_partitions([NewPartitions(first.topic, 4)]).values():
            raised.result(60)
        waiting: Counter[int] = Counter()
        deadline = time.monotonic() + 60
        while len(waiting) < 4 and time.monotonic() < deadline:
            position = await sender.send(channel, {})
            assert position is not None
            waiting[position.partition] += 1
        assert waiting.keys() == {0, 1, 2, 3}
        await next_messages(worker, channel, waiting.total())


class TestPrefetch:
    """``prefetch_count``: one commit for several messages."""

    COUNT = 5

    def settings(self, channel: str) -> dict[str, Any]:
        return {"worker_channels": {channel: {"partitions": 1, "prefetch_count": self.COUNT}}}

    async def test_one_commit_takes_that_many_and_they_come_in_order(
        self, make_layer: Layers, channel: str, protocol: dict[str, Any]
    ) -> None:
        layer = make_layer(**protocol, **self.settings(channel))
        await send(layer, channel, range(20))
        got = await next_messages(layer, channel, 20)
        assert [message["n"] for message in got] == list(range(20))
        assert handed_out(layer, channel) == 20

    async def test_what_no_receive_takes_is_uncommitted_and_nothing_comes_twice(
        self, make_layer: Layers, channel: str, protocol: dict[str, Any]
    ) -> None:
        layer = make_layer(**protocol, **self.settings(channel))
        await send(layer, channel, range(20))
        await next_message(layer, channel)
        await wait_until_async(
            lambda: handed_out(layer, channel) == 1, "the rest to be given back", pause=0.1
        )
        assert stats_of(layer)["delivered"] == 1
        got = await next_messages(layer, channel, 19)
        assert [message["n"] for message in got] == list(range(1, 20))
        assert handed_out(layer, channel) == 20

    async def test_a_layer_that_closes_leaves_the_rest_to_the_next(
        self, make_layer: Layers, channel: str, protocol: dict[str, Any]
    ) -> None:
        make_layer.timings = Timings(job_unclaimed=1e9)
        settings = {**protocol, **self.settings(channel)}
        first = make_layer(**settings)
        await send(first, channel, range(20))
        await next_message(first, channel)
        assert handed_out(first, channel) == self.COUNT
        await first.close()
        got = await next_messages(make_layer(**settings), channel, 19)
        assert [message["n"] for message in got] == list(range(1, 20))

    async def test_a_commit_back_that_fails_costs_nothing(
        self, make_layer: Layers, channel: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failed: list[object] = []

        def fail_to_go_back(positions: dict[int, int], commit: Any) -> KafkaError | None:
            if 1 in positions.values() and len(failed) < 3:
                failed.append(positions)
                return KafkaError(KafkaError._TIMED_OUT)
            commit()
            return None

        use_commits(monkeypatch, fail_to_go_back)
        layer = make_layer(**self.settings(channel))
        await send(layer, channel, range(20))
        await next_message(layer, channel)
        await wait_until_async(lambda: failed, "a commit that fails")
        got = await next_messages(layer, channel, 9)
        assert [message["n"] for message in got] == list(range(1, 10))
        await layer.close()
        rest = await next_messages(make_layer(**self.settings(channel)), channel, 10)
        assert [message["n"] for message in rest] == list(range(10, 20))


class TestNothingIsLost:
    """What is cancelled, closed and moved while messages stream."""

    COUNT = 700

    async def test_cancelled_receives_lose_none_and_none_comes_twice(
        self, make_layer: Layers, channel: str, protocol: dict[str, Any]
    ) -> None:
        chance = random.Random(7)
        layers = [make_layer(**protocol), make_layer(**protocol)]
        got: Counter[int] = Counter()

        async def receive_and_lose_patience(layer: KafkaChannelLayer) -> None:
            while True:
                receive = asyncio.ensure_future(layer.receive(channel))
                await asyncio.wait([receive], timeout=chance.choice([0, 0.001, 0.003, 0.03]))
                receive.cancel()
                await asyncio.wait([receive])
                if not receive.cancelled():
                    got[receive.result()["n"]] += 1

        tasks = [asyncio.create_task(receive_and_lose_patience(layer)) for layer in layers * 3]
        sender = make_layer()
        await send(sender, channel, range(self.COUNT))
        await wait_until_async(
            lambda: len(got) == self.COUNT, f"{self.COUNT} messages to be received", 60
        )
        await stop(*tasks)
        assert set(got.values()) == {1}

    async def test_a_cancelled_receive_leaves_its_message_to_other_servers(
        self, make_layer: Layers, channel: str, protocol: dict[str, Any]
    ) -> None:
        first = make_layer(**protocol)
        await send(first, channel, range(30))
        await next_message(first, channel)
        receive = await begin_work(first, channel)
        # This blocks the loop, so the receive cannot take what it is given.
        wait_until(lambda: stats_of(first)["delivered"] == 2, "a message to be handed out")
        receive.cancel()
        await asyncio.wait([receive])
        assert receive.cancelled()
        # At once, not only when it closes: it might be killed.
        await wait_until_async(
            lambda: handed_out(first, channel) == 1, "it to be given back", pause=0.1
        )
        await first.close()
        second = make_layer(**protocol)
        got = await next_messages(second, channel, 29)
        assert len({message["n"] for message in got}) == 29

    async def test_layers_that_close_in_the_middle_lose_none(
        self, make_layer: Layers, channel: str, protocol: dict[str, Any]
    ) -> None:
        chance = random.Random(11)
        got: Counter[int] = Counter()
        rounds = 0

        async def come_and_go() -> None:
            nonlocal rounds
            while len(got) < self.COUNT:
                layer = make_layer(**protocol)
                tasks = [
                    asyncio.create_task(receive_until_cancelled(layer, channel, got))
                    for _ in range(3)
                ]
                here = len(got) + chance.randrange(25, 100)
                with contextlib.suppress(TimeoutError):
                    await wait_until_async(
                        lambda: len(got) >= min(here, self.COUNT),  # noqa: B023
                        "some messages",
                        chance.uniform(2, 4),
                    )
                await stop(*tasks)
                await layer.close()
                rounds += 1

        sender = make_layer()
        await send(sender, channel, range(self.COUNT))
        await asyncio.wait_for(asyncio.gather(come_and_go(), come_and_go()), 100)
        assert set(got.values()) == {1}
        assert len(got) == self.COUNT
        assert rounds > 4

    async def test_a_commit_whose_answer_is_lost_costs_nothing(
        self, make_layer: Layers, channel: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = iter([KafkaError(KafkaError._TRANSPORT), KafkaError(KafkaError._TIMED_OUT)] * 5)

        def commit_and_lose_the_answer(positions: object, commit: Any) -> KafkaError | None:
            commit()
            return next(answers, None)

        use_commits(monkeypatch, commit_and_lose_the_answer)
        layer = make_layer()
        await send(layer, channel, range(20))
        got = await next_messages(layer, channel, 20)
        assert {message["n"] for message in got} == set(range(20))
        assert stats_of(layer)["delivered"] == 20

    async def test_a_message_whose_commit_is_in_doubt_is_given_back(
        self, make_layer: Layers, channel: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def commit_and_lose_the_answer(positions: object, commit: Any) -> KafkaError:
            commit()
            return KafkaError(KafkaError._TIMED_OUT)

        consumers = use_commits(monkeypatch, None)
        layer = make_layer()
        await send(layer, channel, range(5))
        await next_message(layer, channel)
        committed = len(consumers.committed_positions)
        consumers.outcome = staticmethod(commit_and_lose_the_answer)
        receive = await begin_work(layer, channel)
        await wait_until_async(lambda: len(consumers.committed_positions) > committed, "a commit")
        receive.cancel()
        await asyncio.wait([receive])
        consumers.outcome = None
        await layer.close()
        assert len(await next_messages(make_layer(), channel, 4)) == 4
