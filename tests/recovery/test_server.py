"""The recoveries of one server, in memory, where its reader says what it seldom says."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from kafka_layer.config.timings import Timings
from kafka_layer.delivery.tickets import Ticket
from kafka_layer.exceptions import BrokerUnavailable, TopicError
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.messages import Message, Recovery
from kafka_layer.recovery.feature import _Replay
from kafka_layer.testing import InMemoryKafkaChannelLayer
from kafka_layer.transport import OnEpoch, OnPositions, Past, ReadFrom
from kafka_layer.wire.partitions import partition_of
from kafka_layer.wire.position_token import LogPosition
from kafka_layer.wire.topics import Topic
from tests.support.inspect import server_of
from tests.support.layers import begin_receive, next_message, stats_of
from tests.support.patience import START
from tests.support.streams import wait_until_covered
from tests.support.waiting import PATIENCE

DEADLINE = PATIENCE


class Layer(InMemoryKafkaChannelLayer):
    timings = Timings(
        start=START,
        read_back=PATIENCE,
        recovery=2 * PATIENCE,
        history=PATIENCE,
        history_answer=PATIENCE,
    )


class HastyLayer(Layer):
    """Gives its reader little time to tell positions."""

    timings = replace(Layer.timings, read_back=0.05)


class HastyRecoveries(Layer):
    timings = replace(Layer.timings, recovery=0.05, hand_over=0.05)


@pytest.fixture
async def layer(request: pytest.FixtureRequest) -> AsyncIterator[KafkaChannelLayer]:
    layer = getattr(request, "param", Layer)(prefix="recoveries-of-one-server")
    yield layer
    await layer.close()


def track(
    layer: KafkaChannelLayer, channel: str, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[OnPositions, OnEpoch]]:
    """Track a server's first channel; return what its reader then has to tell."""
    transport, told = server_of(layer).transport, list[tuple[OnPositions, OnEpoch]]()
    follow = transport.follow

    def note(listener: OnPositions, on_epoch: OnEpoch) -> None:
        told.append((listener, on_epoch))
        follow(listener, on_epoch)

    monkeypatch.setattr(transport, "follow", note)
    layer.track(channel)
    return told


async def test_a_channel_that_waits_is_told_at_once_what_the_log_lost(
    layer: KafkaChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = await layer.new_channel()
    [(listener, _)] = track(layer, channel, monkeypatch)
    waits = await begin_receive(layer, channel)
    layer.position(channel)
    # From another thread, as the one that reads.
    await asyncio.to_thread(listener, {(Topic.SEND_ALL, 0): ReadFrom(50, None)})
    assert await waits == {"type": "kafka.gap", "reason": "truncated"}


async def test_an_expired_message_to_one_tracked_channel_is_counted(
    layer: KafkaChannelLayer,
) -> None:
    channel = await layer.new_channel()
    layer.track(channel)
    server = server_of(layer)
    written = server.clock.now() - layer.config.expiry - 1
    record = Topic.SEND_CONN, channel.encode(), b"late", (), written, 0, 0
    server.router.deliver([record])
    assert stats_of(layer)["dropped.expired"] == 1


@pytest.mark.parametrize("layer", [HastyLayer], indirect=True)
async def test_no_past_is_told_where_the_reader_has_not_told_its_positions(
    layer: KafkaChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that waits for a slow channel: where the channel begins is not known."""
    old = await layer.new_channel()
    await layer.group_add("room", old)
    await layer.group_send("room", {"n": "before it was let in"})
    await next_message(layer, old)
    monkeypatch.setattr(server_of(layer).transport, "follow", lambda *listeners: None)
    channel = await layer.new_channel()
    layer.track(channel)
    await layer.group_add("room", channel)
    position = layer.position(channel)
    there = Layer(prefix="recoveries-of-one-server")
    try:
        again = await there.new_channel()
        there.track(again)
        await there.group_add("room", again)
        assert await there.recover(again, position) == (False, "expired", [], 0.0)
    finally:
        await there.close()


@pytest.mark.parametrize(("epoch", "reason"), [(7, None), (6, "epoch"), (8, "epoch"), (-1, None)])
async def test_a_log_that_lost_its_end_and_went_on(
    layer: KafkaChannelLayer, monkeypatch: pytest.MonkeyPatch, epoch: int, reason: str | None
) -> None:
    """Other records stand where the position ends: the leader epoch tells."""
    channel = await layer.new_channel()
    [(_, on_epoch)] = track(layer, channel, monkeypatch)
    await layer.group_add("room", channel)
    number = partition_of("room", server_of(layer).transport.partitions(Topic.SEND_GROUP))
    on_epoch((Topic.SEND_GROUP, number), 0, 7)
    await layer.group_send("room", {"n": 1})
    message = await next_message(layer, channel)
    assert isinstance(message, Message)
    on_epoch((Topic.SEND_GROUP, number), 1, 9)
    await layer.group_send("room", {"n": 2})
    await next_message(layer, channel)

    position = LogPosition.read(message.position, layer.config.prefix)
    place = position.topics[Topic.SEND_GROUP]
    assert (place.offsets[number], place.epochs[number]) == (1, 7)
    place = replace(place, epochs=(epoch,) * len(place.epochs))
    position = replace(position, topics={**position.topics, Topic.SEND_GROUP: place})
    # A place raises the position, and says nothing of the records before it.
    for text, missed in ((position.sign(), [{"n": 2}]), (f"{position.sign()}~g{number}.1", [])):
        again = await layer.new_channel()
        layer.track(again)
        await layer.group_add("room", again)
        found = await layer.recover(again, text)
        assert (found.reason, found.messages) == (reason, [] if reason else missed)


NO_ANSWERS = pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Ticket.failed(BrokerUnavailable("away")), "unavailable"),
        (Ticket.failed(TopicError("no right to read it")), "unavailable"),
        (Ticket(), "timeout"),
    ],
    ids=["away", "refused", "silent"],
)


@NO_ANSWERS
async def test_a_log_that_cannot_be_read(
    layer: KafkaChannelLayer,
    monkeypatch: pytest.MonkeyPatch,
    answer: Ticket[Any],
    reason: str,
) -> None:
    position = await layer.group_position("room")
    await layer.group_send("room", {"n": "missed"})
    made = HastyRecoveries if reason == "timeout" else Layer
    there = made(prefix="recoveries-of-one-server")
    try:
        channel = await there.new_channel()
        there.track(channel)
        await there.group_add("room", channel)
        transport = server_of(there).transport
        monkeypatch.setattr(transport, "ask_past", lambda *question: answer)
        found = await asyncio.wait_for(there.recover(channel, position), PATIENCE)
        assert (found.recovered, found.reason, found.messages) == (False, reason, [])
    finally:
        await there.close()


@NO_ANSWERS
async def test_a_stream_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, answer: Ticket[Any], reason: str
) -> None:
    streams = {"orders": {"topic": "shop.orders", "group": "order-{key}", "type": "order.changed"}}
    hasty = HastyRecoveries if reason == "timeout" else Layer
    layers = [made(prefix="recoveries-of-one-server", streams=streams) for made in (Layer, hasty)]

    async def follow(layer: KafkaChannelLayer) -> str:
        channel = await layer.new_channel()
        layer.track(channel)
        await layer.group_add("order-7", channel)
        await wait_until_covered(layer, channel)
        return channel

    here, there = layers
    try:
        position = here.position(await follow(here))
        await here.produce("orders", "missed", key="7")
        # Its stream begins behind the record.
        channel = await follow(there)
        transport = server_of(there).transport
        ask = transport.ask_past

        def ask_past(key: Any, question: Any, deadline: float, stream: str | None = None) -> Any:
            return answer if stream else ask(key, question, deadline)

        monkeypatch.setattr(transport, "ask_past", ask_past)
        found = await asyncio.wait_for(there.recover(channel, position), PATIENCE)
        assert (found.recovered, found.reason, found.messages) == (False, reason, [])
    finally:
        await asyncio.gather(*(layer.close() for layer in layers))


async def test_each_partition_is_read_by_itself_and_once(
    layer: KafkaChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who needs one does not wait for another, and shares it while it is being read."""
    count = server_of(layer).transport.partitions(Topic.SEND_GROUP)
    slow = "room"
    quick = next(
        name
        for number in range(100)
        if partition_of(name := f"room-{number}", count) != partition_of(slow, count)
    )
    slow_one = Topic.SEND_GROUP, partition_of(slow, count)
    earlier = await layer.group_position(slow)
    await layer.group_send(slow, {"n": "earlier"})
    positions = {group: await layer.group_position(group) for group in (slow, quick)}
    for group in positions:
        await layer.group_send(group, {"n": group})
    there = Layer(prefix="recoveries-of-one-server")
    try:
        channels = [await there.new_channel() for _ in range(5)]
        for channel, group in zip(channels, (quick, slow, slow, slow, slow), strict=True):
            there.track(channel)
            await there.group_add(group, channel)
        everybody = await there.new_channel()
        there.track(everybody)
        transport = server_of(there).transport
        reads, may_read, asked = threading.Event(), threading.Event(), list[Any]()
        ask_past = transport.ask_past

        def ask_slowly(key: Any, question: Callable[[Past], Any], deadline: float) -> Ticket[Any]:
            def ask(past: Past) -> Any:
                read_blocks = past.read_blocks

                def read(where: Any, first: int, end: int) -> Any:
                    if where == slow_one:
                        reads.set()
                        assert may_read.wait(DEADLINE)
                    return read_blocks(where, first, end)

                monkeypatch.setattr(past, "read_blocks", read)
                return question(past)

            asked.append(key)
            return ask_past(key, ask, deadline)

        monkeypatch.setattr(transport, "ask_past", ask_slowly)

        def recover(number: int, position: str) -> asyncio.Task[Recovery]:
            return asyncio.create_task(there.recover(channels[number], position))

        waiting = [recover(1, positions[slow])]
        assert await asyncio.to_thread(reads.wait, DEADLINE)
        # Behind what the log held when that was asked for.
        await layer.all_send({"n": "all"})
        behind = await next_message(there, everybody)
        assert isinstance(behind, Message)
        waiting.append(recover(2, positions[slow]))
        waiting.append(recover(3, f"{positions[slow]}~{behind.place}"))
        found = await asyncio.wait_for(recover(0, positions[quick]), DEADLINE)
        assert found.messages == [{"n": quick}, {"n": "all"}]
        assert asked.count(("recent", slow_one)) == 1
        # What is being read is not enough for everybody.
        more = recover(4, earlier)
        await asyncio.sleep(0)
        assert asked.count(("recent", slow_one)) == 2
        assert not any(each.done() for each in waiting)
        may_read.set()
        found_by_each = [await asyncio.wait_for(each, DEADLINE) for each in (*waiting, more)]
        assert [[message["n"] for message in each.messages] for each in found_by_each] == [
            [slow],
            [slow, "all"],
            [slow],
            ["earlier", slow, "all"],
        ]
    finally:
        await there.close()


async def test_what_it_needs_was_read_for_another_one_just_now(
    layer: KafkaChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at what is missing and its question."""
    position = await layer.group_position("room")
    await layer.group_send("room", {"n": "missed"})
    there = Layer(prefix="recoveries-of-one-server")
    try:
        one, other = await there.new_channel(), await there.new_channel()
        for channel in (one, other):
            there.track(channel)
            await there.group_add("room", channel)
        assert (await there.recover(one, position)).messages == [{"n": "missed"}]
        missing, looks = _Replay.missing, [{(Topic.SEND_GROUP, 0): 0}]
        monkeypatch.setattr(
            _Replay, "missing", lambda replay: looks.pop() if looks else missing(replay)
        )
        found = await there.recover(other, position)
        assert (found.reason, found.messages, looks) == (None, [{"n": "missed"}], [])
    finally:
        await there.close()


@pytest.mark.parametrize(("epoch", "reason"), [(7, None), (6, "epoch")])
async def test_what_is_read_tells_its_leader_epochs(
    layer: KafkaChannelLayer, monkeypatch: pytest.MonkeyPatch, epoch: int, reason: str | None
) -> None:
    """That of the last record before the position, too: nothing else is asked for."""
    channel = await layer.new_channel()
    layer.track(channel)
    await layer.group_add("room", channel)
    await layer.group_send("room", {"n": 1})
    message = await next_message(layer, channel)
    assert isinstance(message, Message)
    await layer.group_send("room", {"n": 2})
    position = LogPosition.read(message.position, layer.config.prefix)
    place = position.topics[Topic.SEND_GROUP]
    place = replace(place, epochs=tuple(epoch if offset else -1 for offset in place.offsets))
    position = replace(position, topics={**position.topics, Topic.SEND_GROUP: place})
    there, asked = Layer(prefix="recoveries-of-one-server"), list[Any]()
    try:
        again = await there.new_channel()
        there.track(again)
        await there.group_add("room", again)
        transport = server_of(there).transport
        ask_past = transport.ask_past

        def ask_for_blocks(key: Any, question: Callable[[Past], Any], deadline: float) -> Any:
            def ask(past: Past) -> Any:
                read_blocks = past.read_blocks

                def read(where: Any, first: int, end: int) -> Any:
                    start, blocks = read_blocks(where, first, end)
                    for block in blocks:
                        block.epochs = [(offset, 7) for offset in range(first, end)]
                    return start, blocks

                monkeypatch.setattr(past, "read_blocks", read)
                return question(past)

            asked.append(key)
            return ask_past(key, ask, deadline)

        monkeypatch.setattr(transport, "ask_past", ask_for_blocks)
        found = await there.recover(again, position.sign())
        assert (found.reason, found.messages) == (reason, [] if reason else [{"n": 2}])
        assert [key[0] for key in asked] == ["recent"]
    finally:
        await there.close()


async def test_one_who_missed_too_much_costs_the_others_nothing(
    layer: KafkaChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What all of them need is read at once, on a server that has just started."""
    old = await layer.group_position("room")
    for number in range(5000):
        await layer.group_send("room", {"n": number})
    late = await layer.group_position("room")
    await layer.group_send("room", {"n": "missed"})
    there = Layer(prefix="recoveries-of-one-server", recent_bytes=1024 * 1024)
    try:
        channels = [await there.new_channel() for _ in range(2)]
        for channel in channels:
            there.track(channel)
            await there.group_add("room", channel)
        transport, both = server_of(there).transport, threading.Barrier(2)
        ask_past = transport.ask_past

        def ask_together(key: Any, question: Callable[[Past], Any], deadline: float) -> Ticket[Any]:
            def ask(past: Past) -> Any:
                # Until the other one has asked, too, if it asks once more.
                with contextlib.suppress(threading.BrokenBarrierError):
                    both.wait(0.5)
                return question(past)

            return ask_past(key, ask, deadline)

        monkeypatch.setattr(transport, "ask_past", ask_together)
        positions = (old, late)
        found = await asyncio.gather(*map(there.recover, channels, positions))
        assert found[1].messages == [{"n": "missed"}]
    finally:
        await there.close()
