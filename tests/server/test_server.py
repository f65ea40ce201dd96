"""One running layer: how it starts, ends and begins anew, and what it does not promise twice."""

from __future__ import annotations

import asyncio
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from channels.exceptions import MessageTooLarge

from kafka_layer.config.timings import Timings
from kafka_layer.delivery.tickets import Ticket
from kafka_layer.exceptions import BrokerUnavailable, LayerClosed
from kafka_layer.jobs.channel import WorkChannel
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.messages import Position
from kafka_layer.observe.counters import Stats
from kafka_layer.server import process, upkeep
from kafka_layer.server.lifecycle import State
from kafka_layer.signals import messages_dropped
from kafka_layer.testing import InMemoryBackplane, InMemoryKafkaChannelLayer
from kafka_layer.transport import Backplane, RecordSink
from kafka_layer.wire.codec import Codec
from kafka_layer.wire.records import ProducerRecord
from tests.support.inspect import server_of
from tests.support.layers import begin_receive, next_message
from tests.support.messages import FakeMessage
from tests.support.patience import START
from tests.support.waiting import PATIENCE, wait_until, wait_until_async

DEADLINE = PATIENCE


class Controlled(InMemoryBackplane):
    """A transport in memory that a test holds up.

    Attributes:
        opening: Set once ``open_receiver`` is called.
        closing: Set once ``close`` is called.
        may_close: ``close`` waits for it.
        may_open: ``open_receiver`` waits for it.
        open_error: What ``open_receiver`` raises.
        on_work: Called with each worker channel once it is open.
        on_closed: Called at the end of ``close``.
        before_produce: Called before each record is taken.
        settles: What ``settle`` returns.
        answers: Whether the outcomes of records are told.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.opening, self.closing = threading.Event(), threading.Event()
        self.may_close, self.may_open = threading.Event(), threading.Event()
        self.may_close.set()
        self.may_open.set()
        self.open_error: Exception | None = None
        self.before_produce: Callable[[], None] = lambda: None
        self.on_work: Callable[[WorkChannel], None] = lambda _: None
        self.on_closed: Callable[[], None] = lambda: None
        self.settles = self.answers = True

    def open_receiver(self, data: RecordSink, control: RecordSink, timeout: float) -> int:
        self.opening.set()
        assert self.may_open.wait(DEADLINE)
        if self.open_error is not None:
            raise self.open_error
        return super().open_receiver(data, control, timeout)

    def produce(
        self,
        record: ProducerRecord,
        ticket: Ticket[Position] | None = None,
        waited: bool = False,
    ) -> None:
        self.before_produce()
        super().produce(record, ticket if self.answers else None, waited)

    def settle(self, timeout: float) -> bool:
        return self.settles

    def open_work_channel(self, channel: Any, timeout: float) -> None:
        super().open_work_channel(channel, timeout)
        self.on_work(channel)

    def close(self, timeout: float) -> None:
        self.closing.set()
        assert self.may_close.wait(DEADLINE)
        super().close(timeout)
        self.on_closed()


class ControlledLayer(InMemoryKafkaChannelLayer):
    """A layer whose transports a test holds up: ``transports``, the latest last."""

    # Far longer than a close takes that waits for nothing.
    timings = Timings(start=START, close=2 * PATIENCE)

    def __init__(self, **config: Any) -> None:
        self.transports: list[Controlled] = []
        super().__init__(**{"prefix": f"server-{secrets.token_hex(4)}", **config})

    @property
    def _backplane_class(self) -> type[InMemoryBackplane]:
        return Controlled

    def _make_backplane(self, stats: Stats) -> Backplane:
        transport = super()._make_backplane(stats)
        assert isinstance(transport, Controlled)
        self.transports.append(transport)
        return transport

    @property
    def transport(self) -> Controlled:
        return self.transports[-1]


@pytest.fixture
def layer() -> Iterator[ControlledLayer]:
    made = ControlledLayer()
    yield made
    made.close_sync()


class TestCloseEndsReceives:
    async def test_one_that_waits_on_a_channel(self, layer: ControlledLayer) -> None:
        receive = await begin_receive(layer, await layer.new_channel())
        await layer.close()
        with pytest.raises(LayerClosed):
            await asyncio.wait_for(receive, DEADLINE)

    async def test_one_that_waits_for_a_job(self, layer: ControlledLayer) -> None:
        receive = asyncio.create_task(layer.receive("jobs"))
        server = server_of(layer)
        await wait_until_async(
            lambda: (box := server.jobs.mailbox("jobs")) is not None and box.receiving, "a receive"
        )
        await layer.close()
        with pytest.raises(LayerClosed):
            await asyncio.wait_for(receive, DEADLINE)

    async def test_before_what_is_queued_was_written(self, layer: ControlledLayer) -> None:
        """A websocket closes at once, so that its browser connects to another process."""
        receive = await begin_receive(layer, await layer.new_channel())
        layer.transport.may_close.clear()
        closing = asyncio.create_task(layer.close())
        with pytest.raises(LayerClosed):
            await asyncio.wait_for(receive, DEADLINE)
        assert not closing.done()
        layer.transport.may_close.set()
        await closing

    async def test_each_gets_an_error_of_its_own(self, layer: ControlledLayer) -> None:
        receives = [await begin_receive(layer, await layer.new_channel()) for _ in range(3)]
        await layer.close()
        errors = await asyncio.gather(*receives, return_exceptions=True)
        assert len(set(map(id, errors))) == 3

    async def test_a_channel_of_a_layer_that_was_closed(self, layer: ControlledLayer) -> None:
        channel = await layer.new_channel()
        await layer.close()
        with pytest.raises(ValueError, match="of server"):
            await asyncio.wait_for(layer.receive(channel), DEADLINE)
        assert len(layer.transports) == 1, "it started anew for that"


class TestClose:
    async def test_it_makes_no_second_server(self, layer: ControlledLayer) -> None:
        await layer.group_send("room", {})
        await layer.close()
        await layer.close()
        assert layer.stats().state == "idle"
        assert len(layer.transports) == 1
        await layer.group_send("room", {})
        assert len(layer.transports) == 2

    async def test_one_that_was_never_used_goes_on(self, layer: ControlledLayer) -> None:
        await layer.close()
        assert server_of(layer).lifecycle.state is State.NEW
        await layer.group_send("room", {})
        assert len(layer.transports) == 1

    @pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
    async def test_a_send_beside_it_goes_to_the_next_server_in_its_order(
        self, layer: ControlledLayer, sync: bool
    ) -> None:
        other = InMemoryKafkaChannelLayer(prefix=layer.config.prefix)
        channel = await other.new_channel()
        await other.group_add("room", channel)
        await layer.group_send("room", {"n": 1})
        first = layer.transport
        first.may_close.clear()
        closing = asyncio.create_task(layer.close())
        await wait_until_async(first.closing.is_set, "close() to be on its way")
        send = (
            asyncio.to_thread(layer.group_send_sync, "room", {"n": 2})
            if sync
            else layer.group_send("room", {"n": 2})
        )
        sending = asyncio.create_task(send)
        # The first server still writes what is queued: nothing may pass that.
        await asyncio.wait([sending], timeout=0.1)
        assert len(layer.transports) == 1
        assert not sending.done()
        first.may_close.set()
        await asyncio.gather(closing, sending)
        assert [await next_message(other, channel) for _ in range(2)] == [{"n": 1}, {"n": 2}]
        await other.close()

    @pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
    async def test_a_send_that_it_overtakes_at_the_last_moment_is_not_refused(
        self, layer: ControlledLayer, sync: bool
    ) -> None:
        """As between the look whether the layer is open and the hand-over to the producer."""
        await layer.group_send("room", {})
        first = layer.transport
        overtaken = threading.Event()

        def close_now() -> None:
            if not overtaken.is_set():
                overtaken.set()
                thread = threading.Thread(target=layer.close_sync)
                thread.start()
                thread.join(DEADLINE)

        first.before_produce = close_now
        if sync:
            await asyncio.to_thread(layer.group_send_sync, "room", {})
        else:
            await layer.group_send("room", {})
        assert overtaken.is_set()
        assert layer.stats().sent == 1
        assert len(layer.transports) == 2

    async def test_a_start_that_it_overtakes_is_undone(self, layer: ControlledLayer) -> None:
        first = layer.transport
        first.may_open.clear()
        starting = asyncio.create_task(layer.new_channel())
        await wait_until_async(first.opening.is_set, "the start to open its readers")
        await layer.close()
        first.closing.clear()
        first.may_open.set()
        channel = await asyncio.wait_for(starting, DEADLINE)
        assert first.closing.is_set(), "what was opened after close() stays open"
        assert len(layer.transports) == 2
        await layer.send(channel, {"n": 1})
        assert await next_message(layer, channel) == {"n": 1}

    async def test_a_second_one_waits_for_the_first(self, layer: ControlledLayer) -> None:
        await layer.group_send("room", {})
        layer.transport.may_close.clear()
        closing = [asyncio.create_task(layer.close()) for _ in range(2)]
        await asyncio.wait(closing, timeout=0.1)
        assert not any(each.done() for each in closing)
        layer.transport.may_close.set()
        await asyncio.gather(*closing)

    async def test_a_signal_handler_that_closes_it_too_does_not_wait_for_what_it_interrupts(
        self, layer: ControlledLayer
    ) -> None:
        await layer.group_send("room", {})
        # A handler runs in the thread that it interrupts.
        layer.transport.on_closed = layer.close_sync
        began = time.monotonic()
        layer.close_sync()
        assert time.monotonic() - began < layer.config.timings.close / 2

    @pytest.mark.parametrize("asynchronous", [False, True], ids=["function", "coroutine"])
    async def test_a_receiver_that_closes_it_too_does_not_wait_for_what_waits_for_it(
        self, layer: ControlledLayer, asynchronous: bool
    ) -> None:
        await layer.group_send("room", {})
        took: list[float] = []
        server = server_of(layer)

        def receive(**kwargs: Any) -> None:
            wait_until(lambda: server.lifecycle.ended, "close() to begin")
            began = time.monotonic()
            layer.close_sync()
            took.append(time.monotonic() - began)

        async def receive_async(**kwargs: Any) -> None:
            await wait_until_async(lambda: server.lifecycle.ended, "close() to begin")
            began = time.monotonic()
            await layer.close()
            took.append(time.monotonic() - began)

        receiver = receive_async if asynchronous else receive
        messages_dropped.connect(receiver)
        try:
            server.stats.dropped("full", "one")
            await layer.close()
        finally:
            messages_dropped.disconnect(receiver)
        assert took[0] < layer.config.timings.close / 2

    async def test_it_needs_no_thread_of_the_event_loops(self, layer: ControlledLayer) -> None:
        """Blocked calls of the application may hold all of the loop's default executor."""
        loop, go_on = asyncio.get_running_loop(), threading.Event()
        with ThreadPoolExecutor(1) as executor:
            loop.set_default_executor(executor)
            blocked = loop.run_in_executor(None, go_on.wait, 4 * DEADLINE)
            try:
                await asyncio.wait_for(layer.new_channel(), DEADLINE)
                await asyncio.wait_for(layer.flush(), DEADLINE)
                await asyncio.wait_for(layer.close(), DEADLINE)
            finally:
                go_on.set()
                await blocked


class TestAfterClose:
    """What a websocket does that ends after its process closed the layer."""

    @pytest.fixture
    def layer(self) -> Iterator[ControlledLayer]:
        # Who asks another server waits for longer than these tests do.
        made = ControlledLayer(ack_timeout=10 * DEADLINE)
        yield made
        made.close_sync()

    async def test_leaving_starts_nothing(self, layer: ControlledLayer) -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.close()
        await asyncio.wait_for(layer.group_discard("room", channel), DEADLINE)
        await asyncio.wait_for(layer.user_discard("me", channel), DEADLINE)
        await asyncio.to_thread(layer.group_discard_sync, "room", channel)
        assert len(layer.transports) == 1

    async def test_leaving_is_at_once_also_once_the_layer_was_started_anew(
        self, layer: ControlledLayer
    ) -> None:
        channel = await layer.new_channel()
        await layer.close()
        await layer.new_channel()
        await asyncio.wait_for(layer.group_discard("room", channel), DEADLINE)
        await asyncio.wait_for(layer.send(channel, {}), DEADLINE)
        assert layer.stats().dropped == {"closed": 1}


class TestWorkerChannels:
    """They end with their server, and the next use opens them on the next one."""

    @staticmethod
    async def receive(layer: ControlledLayer, number: int, jobs: bool) -> None:
        await layer.send("jobs", {"n": number})
        if jobs:
            message, job = await asyncio.wait_for(layer.receive_job("jobs"), DEADLINE)
            job.done()
        else:
            message = await next_message(layer, "jobs")
        assert message == {"n": number}

    @pytest.mark.parametrize("jobs", [False, True], ids=["receive", "receive_job"])
    async def test_the_next_receive_after_close_starts_anew(
        self, layer: ControlledLayer, jobs: bool
    ) -> None:
        await self.receive(layer, 1, jobs)
        await layer.close()
        receiving = asyncio.create_task(
            asyncio.wait_for(layer.receive_job("jobs") if jobs else layer.receive("jobs"), DEADLINE)
        )
        await wait_until_async(
            lambda: receiving.done() or len(layer.transports) == 2, "the receive to start a server"
        )
        await layer.send("jobs", {"n": 2})
        await receiving
        await self.receive(layer, 3, jobs)

    async def test_close_at_the_last_moment_of_their_start(self, layer: ControlledLayer) -> None:
        server = server_of(layer)
        layer.transport.on_work = lambda _: layer.close_sync()
        with pytest.raises(LayerClosed):
            await asyncio.wait_for(layer.receive("jobs"), DEADLINE)
        assert server.jobs.mailbox("jobs") is None
        await self.receive(layer, 1, jobs=False)
        assert len(layer.transports) == 2

    async def test_a_forked_child_has_none_of_its_parent(self, layer: ControlledLayer) -> None:
        await self.receive(layer, 1, jobs=False)
        parent = server_of(layer)
        try:
            parent.abandon()  # as in a child
            assert parent.jobs.mailbox("jobs") is None
            await self.receive(layer, 2, jobs=False)
            assert len(layer.transports) == 2
        finally:
            parent.transport.close(DEADLINE)

    async def test_jobs_that_nobody_took_are_counted(self, layer: ControlledLayer) -> None:
        opened: list[WorkChannel] = []
        transport, server = layer.transport, server_of(layer)
        transport.on_work = opened.append
        await self.receive(layer, 1, jobs=False)

        def assign_late() -> None:
            (channel,) = opened
            place = (channel.topic, 0, 1, server.clock.now())
            value = Codec("msgpack").encode({"n": 2})
            job = channel.accept(FakeMessage(None, 1, value=value), place, self)
            assert job is not None
            channel.assign([job])

        transport.on_closed = assign_late
        await layer.close()
        assert server.stats.snapshot()["dropped.closed"] == 1


class TestCloseBesideAStart:
    async def test_in_the_turn_in_which_the_start_ends(self, layer: ControlledLayer) -> None:
        """The coroutine that waited for the start goes on after the close."""
        first, server = layer.transport, server_of(layer)
        first.may_open.clear()
        opening = asyncio.create_task(layer.new_channel())
        await wait_until_async(lambda: server.lifecycle.started, "the start to begin")
        first.may_open.set()
        # Nothing runs in this loop from here to the end of close_sync().
        wait_until(lambda: server.start_receiving().done, "the start to end")
        layer.close_sync()
        channel = await asyncio.wait_for(opening, DEADLINE)
        assert len(layer.transports) == 2, "the channel is on the server that is closed"
        await layer.group_add("room", channel)
        await layer.group_send("room", {"n": 1})
        assert await next_message(layer, channel) == {"n": 1}


class TestCloseEndsCommands:
    @pytest.fixture
    def layer(self) -> Iterator[ControlledLayer]:
        made = ControlledLayer(ack_timeout=6 * DEADLINE)
        yield made
        made.close_sync()

    channel = "specific.0-abcdef99!nobody"

    async def test_one_that_waits_for_its_answer(self, layer: ControlledLayer) -> None:
        adding = asyncio.create_task(layer.group_add("room", self.channel))
        server = server_of(layer)
        await wait_until_async(lambda: server.receiving and server.commands.pending, "a command")
        await layer.close()
        with pytest.raises(LayerClosed):
            await asyncio.wait_for(adding, DEADLINE)

    async def test_a_discard_that_is_written_is_a_success(self, layer: ControlledLayer) -> None:
        discarding = asyncio.create_task(layer.group_discard("room", self.channel))
        server = server_of(layer)
        await wait_until_async(lambda: server.receiving and server.commands.pending, "a command")
        await layer.close()
        await asyncio.wait_for(discarding, DEADLINE)

    async def test_one_whose_start_it_overtakes_goes_to_the_next_server(
        self, layer: ControlledLayer
    ) -> None:
        other = InMemoryKafkaChannelLayer(prefix=layer.config.prefix)
        channel = await other.new_channel()
        first = layer.transport
        first.may_open.clear()
        adding = asyncio.create_task(layer.group_add("room", channel))
        await wait_until_async(lambda: server_of(layer).lifecycle.started, "the start to begin")
        await layer.close()
        first.may_open.set()
        await asyncio.wait_for(adding, DEADLINE)
        await layer.group_send("room", {"n": 1})
        assert await next_message(other, channel) == {"n": 1}
        await other.close()


class TestThreads:
    async def test_they_have_plain_names(self, layer: ControlledLayer) -> None:
        seen: set[str] = set()
        run = threading.Thread.run

        def note(thread: threading.Thread) -> None:
            seen.add(thread.name)
            run(thread)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading.Thread, "run", note)
            await layer.new_channel()
            await layer.send("thumbnails", {})
            assert await layer.receive("thumbnails") == {}
            await layer.flush()
            await layer.close()
        assert seen >= {
            "kafka-layer-start-sending",
            "kafka-layer-start-receiving",
            "kafka-layer-start-sending-jobs",
            "kafka-layer-start-jobs",
            "kafka-layer-upkeep",
            "kafka-layer-flush",
            "kafka-layer-close",
        }
        assert not [name for name in seen if "(" in name]


class TestFailedStart:
    def test_each_caller_gets_an_error_of_its_own(self, layer: ControlledLayer) -> None:
        layer.transport.open_error = BrokerUnavailable("nobody there")
        layer.transport.may_open.clear()
        with ThreadPoolExecutor(20) as threads:
            calls = [threads.submit(layer.servers_sync, 0.0) for _ in range(20)]
            wait_until(lambda: server_of(layer).lifecycle.started, "the start to begin")
            layer.transport.may_open.set()
            errors = [call.exception(DEADLINE) for call in calls]
        assert all(isinstance(error, BrokerUnavailable) for error in errors)
        assert len(set(map(id, errors))) == 20

    async def test_a_process_with_too_many_threads_may_try_again(
        self, layer: ControlledLayer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def new_thread(*_: Any) -> threading.Thread:
            raise RuntimeError("can't start new thread")  # as Thread.start says

        with monkeypatch.context() as patch:
            patch.setattr(upkeep, "new_thread", new_thread)
            with pytest.raises(RuntimeError, match="new thread"):
                await layer.new_channel()
        assert server_of(layer).lifecycle.state is State.NEW
        channel = await layer.new_channel()
        await layer.send(channel, {"n": 1})
        assert await next_message(layer, channel) == {"n": 1}
        assert len(layer.transports) == 1


class TestFlush:
    """It must not seem to have dropped what comes after it."""

    async def test_records_that_are_not_written_yet_would_survive_it(
        self, layer: ControlledLayer
    ) -> None:
        channel = await layer.new_channel()
        await layer.send(channel, {"n": 1})
        layer.transport.settles = False
        with pytest.raises(BrokerUnavailable, match=r"nothing was dropped.*still on their way"):
            await layer.flush()
        assert await next_message(layer, channel) == {"n": 1}

    async def test_a_record_whose_outcome_is_not_told_ends_it_in_time(
        self, layer: ControlledLayer
    ) -> None:
        await layer.group_send("room", {})
        layer.transport.answers = False
        flushing = asyncio.to_thread(server_of(layer).flush, 0.1)
        with pytest.raises(BrokerUnavailable, match=r"within 0\.1 s"):
            await asyncio.wait_for(flushing, DEADLINE)


class TestCollectedLayers:
    """What the finalizer of a layer does with its server."""

    async def test_one_that_closes_is_waited_for_at_exit(self, layer: ControlledLayer) -> None:
        await layer.group_send("room", {})
        server = server_of(layer)
        layer.transport.may_close.clear()
        closing = asyncio.create_task(layer.close())
        await wait_until_async(layer.transport.closing.is_set, "close() to be on its way")
        server.close_soon()
        assert server in process.servers()
        layer.transport.may_close.set()
        await closing
        assert server not in process.servers()

    async def test_one_that_runs_is_closed(self, layer: ControlledLayer) -> None:
        await layer.group_send("room", {})
        server = server_of(layer)
        server.close_soon()
        await wait_until_async(lambda: server not in process.servers(), "the server to close")
        assert server.lifecycle.state is State.CLOSED

    async def test_one_that_was_never_used_is_forgotten(self, layer: ControlledLayer) -> None:
        server = server_of(layer)
        server.close_soon()
        assert server not in process.servers()


class TestSendToMany:
    @pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
    async def test_nobody_gets_what_is_too_large_for_one(self, sync: bool) -> None:
        """Encrypted, a message to a channel of another server is larger than one that stays."""
        config: dict[str, Any] = {
            "prefix": f"many-{secrets.token_hex(4)}",
            "topics": {"send-conn": {"config": {"max.message.bytes": 4096}}},
            "symmetric_encryption_keys": ["secret"],
        }
        here, there = InMemoryKafkaChannelLayer(**config), InMemoryKafkaChannelLayer(**config)
        mine, theirs = await here.new_channel(), await there.new_channel()
        message = {"type": "x", "data": "y" * 2500}
        sending = (
            asyncio.to_thread(here.send_many_sync, [mine, theirs], message)
            if sync
            else here.send_many([mine, theirs], message)
        )
        with pytest.raises(MessageTooLarge):
            await sending
        await here.send(mine, {"type": "small"})
        assert await next_message(here, mine) == {"type": "small"}
        await asyncio.gather(here.close(), there.close())

    @pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
    async def test_all_are_handed_over_before_any_is_waited_for(self, sync: bool) -> None:
        """With await_produce the broker's answers are waited for together, not in a row."""
        layer = TogetherLayer(prefix=f"together-{secrets.token_hex(4)}", await_produce=True)
        groups = ["a", "b", "c"]
        sending = (
            asyncio.to_thread(layer.group_send_many_sync, groups, {})
            if sync
            else layer.group_send_many(groups, {})
        )
        positions = await asyncio.wait_for(sending, DEADLINE)
        assert [position is not None for position in positions] == [True] * 3
        await layer.close()


class Together(InMemoryBackplane):
    """Answers once three records wait for an answer."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._waiting: list[Ticket[Position]] = []

    def produce(
        self,
        record: ProducerRecord,
        ticket: Ticket[Position] | None = None,
        waited: bool = False,
    ) -> None:
        assert ticket is not None
        self._waiting.append(ticket)
        if len(self._waiting) == 3:
            for number, each in enumerate(self._waiting):
                each.resolve(Position("topic", 0, number, 0.0))


class TogetherLayer(InMemoryKafkaChannelLayer):
    """A layer on ``Together``."""

    @property
    def _backplane_class(self) -> type[InMemoryBackplane]:
        return Together


class Closes:
    """A server that others start and close while it closes."""

    def __init__(self) -> None:
        self.closed = False

    def close(self, timeout: float) -> None:
        process.discard(self)
        for _ in range(10):
            process.add(Closes())
        self.closed = True

    def abandon(self) -> None:
        process.discard(self)


def test_at_exit_all_servers_are_closed_while_others_start_and_close() -> None:
    servers = [Closes() for _ in range(5)]
    for server in servers:
        process.add(server)
    try:
        process.close_all(DEADLINE)
        assert all(server.closed for server in servers)
    finally:
        process.abandon_all()


def test_a_signal_handler_may_use_the_layer_whatever_it_interrupts(
    layer: ControlledLayer,
) -> None:
    """Handlers run in the main thread, between two steps of whatever it does there."""
    calls, busy = 0, False

    def handler(number: int, frame: object) -> None:
        nonlocal calls, busy
        if not busy:
            busy = True
            calls += 1
            layer.stats()
            layer.group_send_sync("room", {})
            layer.group_add_sync("room", channel)
            busy = False

    channel = asyncio.run(layer.new_channel())
    before = signal.signal(signal.SIGALRM, handler)
    finished = threading.Event()
    threading.Thread(target=watch, args=(finished,), daemon=True).start()
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            layer.stats()
            layer.group_add_sync("room", channel)
            layer.group_discard_sync("room", channel)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        finished.set()
    assert calls


def watch(finished: threading.Event) -> None:
    """End the process where the main thread hangs: nothing else could report it."""
    if not finished.wait(100):
        import faulthandler

        faulthandler.dump_traceback()
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_the_real_layer_makes_no_client_before_its_first_use() -> None:
    layer = KafkaChannelLayer(bootstrap_servers="127.0.0.1:1")
    assert layer.stats().state == "idle"
    layer.close_sync()
    assert server_of(layer).lifecycle.state is State.NEW
