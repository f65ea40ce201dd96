"""Streams for channels that come back, or are slow: all that they missed, or a reason.

In memory and on Kafka.
"""

from __future__ import annotations

import asyncio
import datetime
import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from kafka_layer.exceptions import TopicError
from kafka_layer.messages import Message, Recovery
from kafka_layer.wire.position_token import LogPosition
from tests.contract.test_recovery import send
from tests.support.layers import (
    Backend,
    Layers,
    backend_named,
    backends,
    begin_receive,
    next_message,
    next_messages,
    stats_of,
    unhurried,
)
from tests.support.streams import SOON, ForeignTopic, wait_for_state, wait_until_covered


@pytest.fixture(scope="module", params=backends("memory", "kafka"))
def backend(request: pytest.FixtureRequest) -> Backend:
    # Librdkafka's own broker creates no topics on request.
    return unhurried(backend_named(request.param, request))


class Shop:
    """A topic of two partitions, and layers that read it as the stream ``orders``."""

    def __init__(self, make_layer: Layers, prefix: str) -> None:
        self._make_layer = make_layer
        self.topic = ForeignTopic(make_layer(), prefix).create(2)
        self._numbers = itertools.count(1)

    def layer(self, *, capacity: int = 100, recent_bytes: int = 1 << 26, **settings: Any) -> Any:
        stream = {"topic": self.topic.name, "group": "order-{key}", "type": "order.changed"}
        return self._make_layer(
            capacity=capacity,
            recent_bytes=recent_bytes,
            streams={"orders": {**stream, **settings}},
        )

    async def write(self, *values: bytes | None, key: str = "7", partition: int = 0) -> None:
        await asyncio.to_thread(self.topic.write, *values, key=key.encode(), partition=partition)


@pytest.fixture
def shop(make_layer: Layers, prefix: str) -> Shop:
    return Shop(make_layer, prefix)


async def tracked(layer: Any, *groups: str, user: object = None) -> str:
    channel: str = await layer.new_channel()
    layer.track(channel)
    if user is not None:
        await layer.user_add(user, channel)
    for group in groups:
        await layer.group_add(group, channel)
    return channel


def values(found: Recovery | Sequence[dict[str, Any]]) -> list[Any]:
    if isinstance(found, Recovery):
        assert found.recovered, found.reason
        found = found.messages
    return [each.get("value", each.get("n")) for each in found]


async def missed(layer: Any, channel: str, position: str, count: int) -> list[Any]:
    """Return what a channel missed: replayed, or read by its server since."""
    found = values(await layer.recover(channel, position))
    return [*found, *values(await next_messages(layer, channel, count - len(found)))]


class TestMessages:
    async def test_a_message_knows_the_place_and_the_time_of_its_record(self, shop: Shop) -> None:
        layer = shop.layer()
        channel = await tracked(layer, "order-7")
        await shop.write(b"1", b"2", partition=1)
        first, second = await next_messages(layer, channel, 2)
        assert isinstance(first, Message)
        assert first == {
            "type": "order.changed",
            "stream": "orders",
            "key": "7",
            "value": 1,
            "headers": {},
        }
        lane, _, offset = first.place.rpartition(".")
        assert (lane[0], lane[-1], offset) == ("s", "1", "0")
        assert second.place == f"{lane}.1"
        assert first.timestamp <= second.timestamp
        again = await tracked(layer, "order-7")
        assert values(await layer.recover(again, first.position)) == [2]

    async def test_a_position_says_nothing_of_streams_that_do_not_reach_the_channel(
        self, shop: Shop
    ) -> None:
        layer = shop.layer(user="{value}")
        room, order = await tracked(layer, "room-1"), await tracked(layer, "order-1")
        user = await tracked(layer, user=5)
        found = [
            LogPosition.read(layer.position(each), layer.config.prefix).streams
            for each in (room, order, user)
        ]
        assert [len(each) for each in found] == [0, 1, 1]
        assert len(layer.position(order)) - len(layer.position(room)) < 120
        assert "order-1" not in layer.position(order)


class TestRecovery:
    async def test_what_was_missed_comes_once_and_then_what_is_new(self, shop: Shop) -> None:
        here, there = shop.layer(), shop.layer()
        channel = await tracked(here, "order-7", "room")
        await tracked(there, "order-8")
        await shop.write(b"1")
        last = await next_message(here, channel)
        await shop.write(b"2", b"3")
        await shop.write(b'"of another"', key="8")
        await send(here, "room", 4)
        await shop.write(b"5", partition=1)
        again = await tracked(there, "order-7", "room")
        await shop.write(b"6")
        found = await there.recover(again, last.position)
        assert all(message.replayed for message in found.messages)
        await shop.write(b"7")
        # That of another partition may come last.
        live = await next_messages(there, again, 6 - len(found.messages))
        got = [*values(found), *values(live)]
        assert sorted(got) == [2, 3, 4, 5, 6, 7]
        # Each partition in its order, and by the time of the records as far as clocks agree.
        assert [each for each in got if each != 5 and each != 4] == [2, 3, 6, 7]

    async def test_from_a_server_that_has_just_started_and_within_the_replay(
        self, shop: Shop
    ) -> None:
        here = shop.layer()
        channel = await tracked(here, "order-7", user=5)
        position = here.position(channel)
        for number in range(20):
            await shop.write(b"%d" % number, partition=number % 2)
        there = shop.layer()
        again = await tracked(there, "order-7", user=5)
        # What is written by now is read before the stream tells where it is.
        found = await there.recover(again, position)
        assert sorted(values(found)) == list(range(20))
        # The connection breaks in the middle of the replay: the rest comes with the next one.
        got = values(found.messages[:8])
        third = await tracked(there, "order-7", user=5)
        more = await there.recover(third, found.messages[7].position)
        assert sorted(got + values(more)) == list(range(20))
        # A browser tells places instead.
        fourth = await tracked(there, "order-7", user=5)
        places = "~".join([position, *(each.place for each in found.messages[:8])])
        assert values(await there.recover(fourth, places)) == values(more)

    async def test_a_user_gets_records_and_nobody_else(self, shop: Shop) -> None:
        layer = shop.layer(user="{value.owner}")
        channel = await tracked(layer, user=5)
        position = layer.position(channel)
        await shop.write(b'{"owner": 5}', b'{"owner": 6}')
        again = await tracked(layer, user=5)
        assert await missed(layer, again, position, 1) == [{"owner": 5}]
        other = await tracked(layer, user=6)
        assert (await layer.recover(other, position)).reason == "user"

    async def test_filters_tombstones_and_bad_records_are_as_live(self, shop: Shop) -> None:
        layer = shop.layer(where=is_public, tombstone="order.deleted")
        channel = await tracked(layer, "order-7")
        position = layer.position(channel)
        await shop.write(b"1", b'"internal"', b"poison", None, b"2")
        live = await next_messages(layer, channel, 3)
        for there in (layer, shop.layer(where=is_public, tombstone="order.deleted")):
            again = await tracked(there, "order-7")
            found = await there.recover(again, position)
            assert found.messages == live
            assert [(each["type"], each["value"]) for each in live] == [
                ("order.changed", 1),
                ("order.deleted", None),
                ("order.changed", 2),
            ]

    async def test_groups_that_it_was_not_in_are_not_replayed(self, shop: Shop) -> None:
        layer = shop.layer()
        channel = await tracked(layer, "order-7")
        position = layer.position(channel)
        await shop.write(b"1", key="8")
        await shop.write(b"2")
        assert values([await next_message(layer, channel)]) == [2]
        again = await tracked(layer, "order-7", "order-8")
        assert values(await layer.recover(again, position)) == [2]
        await shop.write(b"3", key="8")
        assert values([await next_message(layer, again)]) == [3]

    async def test_the_position_of_a_page_covers_streams(
        self, shop: Shop, make_layer: Layers
    ) -> None:
        layer = shop.layer()
        await shop.write(b"0")
        position = await layer.group_position("order-7")
        await shop.write(b"1")
        channel = await tracked(layer, "order-7")
        assert await missed(layer, channel, position, 1) == [1]

    async def test_that_of_a_history_too(self, shop: Shop) -> None:
        layer = shop.layer(user="{value}")
        found = await layer.group_history("order-7")
        of_user = await layer.user_history(1)
        await shop.write(b"1")
        channel = await tracked(layer, "order-7")
        assert await missed(layer, channel, found.position, 1) == [1]
        channel = await tracked(layer, user=1)
        assert await missed(layer, channel, of_user.position, 1) == [1]

    async def test_new_partitions_and_topics_are_read_from_their_start(
        self, shop: Shop, make_layer: Layers
    ) -> None:
        make_layer.timings = SOON
        layer = shop.layer()
        channel = await tracked(layer, "order-7")
        position = layer.position(channel)
        if shop.topic.in_memory:
            await shop.write(b"1", partition=2)
        else:
            await asyncio.to_thread(shop.topic.add_partitions, 3)
            await shop.write(b"1", partition=2)
        assert values([await next_message(layer, channel)]) == [1]
        again = await tracked(layer, "order-7")
        assert values(await layer.recover(again, position)) == [1]

    async def test_a_topic_that_did_not_exist_yet(self, shop: Shop, make_layer: Layers) -> None:
        make_layer.timings = SOON
        layer = shop.layer(topic=f"{shop.topic.name}-later")
        channel = await tracked(layer, "order-7")
        position = layer.position(channel)
        shop.topic.name += "-later"
        await asyncio.to_thread(shop.topic.create, 1)
        await shop.write(b"1")
        assert values([await next_message(layer, channel)]) == [1]
        again = await tracked(layer, "order-7")
        assert values(await layer.recover(again, position)) == [1]

    async def test_a_join_that_another_server_makes(self, shop: Shop) -> None:
        """It does not wait until the stream has told where it is."""
        here, there = shop.layer(), shop.layer()
        channel = await here.new_channel()
        here.track(channel)
        await there.group_add("order-7", channel)
        await wait_until_covered(here, channel)
        position = here.position(channel)
        await shop.write(b"1")
        again = await tracked(here, "order-7")
        assert await missed(here, again, position, 1) == [1]

    async def test_records_that_the_topic_has_lost(self, shop: Shop) -> None:
        here, there = shop.layer(), shop.layer()
        channel = await tracked(here, "order-7")
        position = here.position(channel)
        await shop.write(b"1", b"2")
        assert values(await next_messages(here, channel, 2)) == [1, 2]
        await asyncio.to_thread(shop.topic.delete_before, 0, 1)
        again = await tracked(there, "order-7")
        found = await there.recover(again, position)
        assert (found.recovered, found.reason, found.messages) == (False, "truncated", [])
        # This one has them still.
        again = await tracked(here, "order-7")
        assert values(await here.recover(again, position)) == [1, 2]

    async def test_a_position_beyond_the_end_of_the_topic(self, shop: Shop) -> None:
        """Such as that of a topic that lost its end since."""
        layer = shop.layer()
        channel = await tracked(layer, "order-7")
        await shop.write(b"1", partition=1)
        message = await next_message(layer, channel)
        assert isinstance(message, Message)
        lane = message.place.rpartition(".")[0]
        again = await tracked(layer, "order-7")
        ahead = f"{layer.position(channel)}~{lane}.999999"
        assert (await layer.recover(again, ahead)).reason == "future"

    async def test_a_position_of_long_ago(self, shop: Shop) -> None:
        layer = shop.layer()
        channel = await tracked(layer, "order-7")
        await shop.write(b"1", b"2")
        first, _ = await next_messages(layer, channel, 2)
        assert isinstance(first, Message)
        position = first.position
        await asyncio.sleep(0.02)
        again = await tracked(layer, "order-7")
        found = await layer.recover(again, position, window=0.01)
        assert found[:3] == (False, "expired", [])
        assert values(await layer.recover(again, position)) == [2]

    async def test_too_many(self, shop: Shop) -> None:
        layer = shop.layer()
        channel = await tracked(layer, "order-7")
        position = layer.position(channel)
        await shop.write(*(b"%d" % number for number in range(6)))
        await next_messages(layer, channel, 6)
        again = await tracked(layer, "order-7")
        assert (await layer.recover(again, position, limit=5)).reason == "limit"
        assert len((await layer.recover(again, position, limit=6)).messages) == 6

    async def test_a_stream_that_stops_at_errors_replays_none(self, shop: Shop) -> None:
        layer = shop.layer(on_error="stop")
        channel = await tracked(layer, "order-7")
        position = layer.position(channel)
        await shop.write(b"1", b"poison", b"2")
        await wait_for_state(layer, "orders", "stopped")
        again = await tracked(layer, "order-7")
        assert values(await layer.recover(again, position)) == [1]
        await layer.seek_stream("orders", "latest")
        await shop.write(b"3")
        # The first message of the old one comes first.
        assert values(await next_messages(layer, channel, 2)) == [1, 3]
        again = await tracked(layer, "order-7")
        assert (await layer.recover(again, position)).reason == "undecodable"

    async def test_a_pause_loses_nothing(self, shop: Shop) -> None:
        layer = shop.layer()
        channel = await tracked(layer, "order-7")
        await layer.pause_stream("orders")
        await shop.write(b"1")
        position = layer.position(channel)
        again = await tracked(layer, "order-7")
        assert values(await layer.recover(again, position)) == []
        await layer.resume_stream("orders")
        for each in (channel, again):
            assert values([await next_message(layer, each)]) == [1]

    async def test_the_last_value_does_not_come_twice(self, shop: Shop) -> None:
        await shop.write(b"1")
        await shop.write(b'"other"', key="8")
        here, there = shop.layer(last_value=True), shop.layer(last_value=True)
        channel = await tracked(here, "order-7")
        assert values([await next_message(here, channel)]) == [1]
        position = here.position(channel)
        unchanged = await tracked(there, "order-7", "order-8")
        assert values(await there.recover(unchanged, position)) == []
        # Of the group that is new to it, it gets the last record.
        assert values([await next_message(there, unchanged)]) == ["other"]
        await shop.write(b"2", b"3")
        assert values(await next_messages(here, channel, 2)) == [2, 3]
        again = await tracked(here, "order-7")
        found = await here.recover(again, position)
        await shop.write(b"4")
        assert [*values(found), *values([await next_message(here, again)])] == [2, 3, 4]


class TestSlowReaders:
    async def test_a_slow_channel_gets_each_record_in_its_order(self, shop: Shop) -> None:
        layer = shop.layer(capacity=4)
        slow = await tracked(layer, "order-7", "room")
        for number in range(10):
            await shop.write(*(b"[0, %d]" % each for each in range(number * 10, number * 10 + 10)))
            await shop.write(b"[1, %d]" % number, partition=1)
            await send(layer, "room", [2, number])
        await wait_for_state(layer, "orders", "reading", records=110)
        quick = await tracked(layer, "order-7")
        await shop.write(b"[3, 0]")
        assert values([await next_message(layer, quick)]) == [[3, 0]]
        got = values(await next_messages(layer, slow, 121))
        for which, count in ((0, 100), (1, 10), (2, 10), (3, 1)):
            assert [n for lane, n in got if lane == which] == list(range(count))
        await shop.write(b"[3, 1]")
        assert values([await next_message(layer, slow)]) == [[3, 1]]
        assert stats_of(layer)["dropped.full"] == 0

    async def test_its_position_is_exact_at_each_message(self, shop: Shop) -> None:
        layer = shop.layer(capacity=4)
        slow = await tracked(layer, "order-7", "room")
        for number in range(12):
            await shop.write(b'"s%d"' % number, partition=number % 2)
            await send(layer, "room", f"g{number}")
        await wait_for_state(layer, "orders", "reading", records=12)
        got: list[Any] = []
        everything = {
            *(f"s{number}" for number in range(12)),
            *(f"g{number}" for number in range(12)),
        }
        for _ in range(24):
            message = await next_message(layer, slow)
            got += values([message])
            again = await tracked(layer, "order-7", "room")
            found = await layer.recover(again, message.position)
            assert {*values(found)} == everything - {*got}
            assert len(found.messages) == 24 - len(got)

    async def test_who_falls_too_far_behind_is_told(self, shop: Shop) -> None:
        layer = shop.layer(capacity=4, recent_bytes=1024 * 1024)
        slow = await tracked(layer, "order-7")
        text = b'"%s"' % (b"x" * 20_000)
        await shop.write(*[text] * 100)
        await wait_for_state(layer, "orders", "reading", records=100)
        taken = await next_messages(layer, slow, 5)
        assert taken[-1] == {"type": "kafka.gap", "reason": "limit"}
        waits = await begin_receive(layer, slow)
        await shop.write(b"1")
        assert values([await waits]) == [1]


class TestHistory:
    async def test_the_records_of_a_group_page_after_page(self, shop: Shop) -> None:
        layer = shop.layer(where=is_public)
        for number in range(10):
            await shop.write(b"%d" % number, partition=number % 2)
        await shop.write(b"poison", b'"internal"')
        await shop.write(b'"of another"', key="8")
        last = await layer.stream_history("orders", group="order-7", limit=3)
        assert sorted(values(last.messages)) == [7, 8, 9]
        assert last.complete
        message = last.messages[-1]
        assert (message["stream"], message.replayed, message.place[0]) == ("orders", True, "s")
        everything = await layer.stream_history("orders", since=datetime.timedelta(minutes=5))
        assert len(everything.messages) == 11
        got: list[Any] = []
        page = await layer.stream_history(
            "orders", group="order-7", limit=4, since=datetime.timedelta(minutes=5)
        )
        while page.messages:
            got += values(page.messages)
            page = await layer.stream_history(
                "orders", group="order-7", limit=4, since=page.position
            )
        assert page.complete
        assert sorted(got) == list(range(10))
        assert [each for each in got if each % 2 == 0] == [0, 2, 4, 6, 8]
        newest = await layer.stream_history("orders", group="order-7", limit=2, newest_first=True)
        assert values(newest.messages) == [9, 8]

    async def test_its_position_leads_to_a_recovery(self, shop: Shop) -> None:
        layer = shop.layer(user="{value}")
        await shop.write(b"1")
        found = await asyncio.to_thread(layer.stream_history_sync, "orders", user_id=1)
        assert values(found.messages) == [1]
        await shop.write(b"1")
        channel = await tracked(layer, user=1)
        assert await missed(layer, channel, found.position, 1) == [1]

    async def test_what_the_topic_has_lost(self, shop: Shop) -> None:
        layer = shop.layer()
        position = await layer.group_position("order-7")
        await shop.write(b"1", b"2", b"3")
        await asyncio.to_thread(shop.topic.delete_before, 0, 1)
        found = await layer.stream_history("orders", group="order-7", since=position)
        assert (values(found.messages), found.complete) == ([2, 3], False)
        last = await layer.stream_history("orders", group="order-7", limit=2)
        assert (values(last.messages), last.complete) == ([2, 3], True)

    async def test_questions_that_cannot_be_meant(self, shop: Shop, make_layer: Layers) -> None:
        layer = shop.layer()
        with pytest.raises(TopicError, match="no stream 'order'"):
            await layer.stream_history("order")
        with pytest.raises(ValueError, match="not both"):
            await layer.stream_history("orders", group="a", user_id=1)
        position = await layer.group_position("room-7")
        with pytest.raises(ValueError, match="no position in the stream"):
            await layer.stream_history("orders", group="room-7", since=position)


def is_public(record: Any) -> bool:
    return bool(record.value != "internal")
