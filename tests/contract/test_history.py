"""The messages that the log holds: how many, since when, in which order, whether all."""

from __future__ import annotations

import asyncio
import datetime
import secrets
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import InvalidPosition
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.messages import History, Message
from kafka_layer.wire.partitions import partition_of
from kafka_layer.wire.topics import Topic
from tests.support.inspect import server_of
from tests.support.layers import PARTITIONS, Layers, Servers, next_message, stats_of
from tests.support.topics import add_partition, await_growth, delete_before, delete_topic
from tests.support.waiting import wait_until_async

DEADLINE = 30.0
MINUTE = datetime.timedelta(minutes=1)
UTC = datetime.timezone.utc


@pytest.fixture
def group() -> str:
    """A group that no other test uses."""
    return f"room-{secrets.token_hex(4)}"


def numbers(found: History | Sequence[dict[str, Any]]) -> list[Any]:
    messages = found.messages if isinstance(found, History) else found
    return [each["n"] for each in messages]


async def send(layer: KafkaChannelLayer, group: str, *values: Any) -> None:
    """Send messages, and return when they are in the log."""
    for value in values:
        await layer.group_send(group, {"n": value})
    await settled(layer)


async def settled(layer: KafkaChannelLayer) -> None:
    await asyncio.to_thread(server_of(layer).transport.settle, DEADLINE)


def neighbour(group: str, partitions: int = PARTITIONS) -> str:
    """Return another group of the same partition."""
    return next(
        name
        for number in range(1000)
        if partition_of(name := f"{group}-{number}", partitions) == partition_of(group, partitions)
    )


class TestMessages:
    async def test_a_message_equals_what_was_sent_and_knows_its_place(
        self, make_layer: Layers, group: str
    ) -> None:
        layer = make_layer()
        before = datetime.datetime.now(UTC).timestamp() - DEADLINE
        sent = {"type": "chat.message", "text": "Grüße", "list": [1, {"a": None}]}
        await layer.group_send(group, sent)
        await settled(layer)

        (message,) = (await layer.group_history(group)).messages

        assert message == sent
        assert isinstance(message, Message)
        assert message.replayed is True
        assert before < message.timestamp < before + 2 * DEADLINE

    async def test_an_excluded_channel_does_not_hide_a_message(
        self, servers: Servers, group: str
    ) -> None:
        layer = servers[0]
        await layer.group_send(group, {"n": 1}, exclude=["someone"])
        await settled(layer)
        assert numbers(await layer.group_history(group)) == [1]

    async def test_each_asker_gets_copies_of_its_own(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        await send(layer, group, [])
        first, second = await asyncio.gather(*(layer.group_history(group) for _ in range(2)))
        first.messages[0]["n"].append("mine")
        assert second.messages[0] == {"n": []}

    async def test_a_message_of_a_megabyte(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        await send(layer, group, "x" * 1_000_000, 2)
        found = await layer.group_history(group)
        assert [len(str(each)) for each in numbers(found)] == [1_000_000, 1]
        assert found.complete

    @pytest.mark.parametrize("first", [["old"], ["new", "old"]])
    async def test_messages_that_were_encrypted_before_the_keys_changed(
        self, make_layer: Layers, group: str, first: list[str]
    ) -> None:
        old = make_layer(symmetric_encryption_keys=["old"])
        await send(old, group, 1)
        layer = make_layer(symmetric_encryption_keys=first)
        await send(layer, group, 2)
        for _ in range(2):  # the second time is no copy of the first
            found = await layer.group_history(group)
            assert numbers(found) == [1, 2]
            assert found.complete
        assert not stats_of(layer)["errors.history"]

    async def test_a_message_that_cannot_be_read_is_counted_and_missing(
        self, make_layer: Layers, group: str
    ) -> None:
        other = make_layer(symmetric_encryption_keys=["other"])
        layer = make_layer()
        await send(layer, group, 1)
        await send(other, group, 2)
        await send(layer, group, 3)
        found = await layer.group_history(group)
        assert numbers(found) == [1, 3]
        assert not found.complete
        assert stats_of(layer)["errors.history"] == 1
        assert not layer.stats().dropped

    async def test_a_copy_of_an_encrypted_record_is_no_message(
        self, make_layer: Layers, group: str
    ) -> None:
        layer = make_layer(symmetric_encryption_keys=["key"])
        await send(layer, group, 1)
        record = layer._group_record(group, {"n": 2}, ())
        for _ in range(2):
            server_of(layer).transport.produce(record)
        await settled(layer)
        found = await layer.group_history(group)
        assert numbers(found) == [1, 2]
        assert found.complete


class TestLimits:
    async def test_the_last_ones_oldest_first(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        await send(layer, group, *range(5))
        found = await layer.group_history(group, limit=3)
        assert numbers(found) == [2, 3, 4]
        assert found.complete

    async def test_newest_first(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        await send(layer, group, *range(5))
        assert numbers(await layer.group_history(group, limit=3, newest_first=True)) == [4, 3, 2]

    async def test_none_but_the_position(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        await send(layer, group, 1)
        found = await layer.group_history(group, limit=0)
        assert found.messages == []
        assert found.complete
        await send(layer, group, 2)
        assert numbers(await layer.group_history(group, since=found.position)) == [2]

    async def test_a_group_without_messages(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        found = await layer.group_history(group)
        assert found.messages == []
        assert found.complete
        await send(layer, group, 1)
        assert numbers(await layer.group_history(group, since=found.position)) == [1]

    async def test_more_than_a_chunk(self, servers: Servers, group: str) -> None:
        layer, other = servers[0], neighbour(group)
        await send(layer, group, 0)
        await send(layer, other, *range(300))
        await send(layer, group, 1)
        assert numbers(await layer.group_history(group)) == [0, 1]
        everything = await layer.group_history(other, limit=1000)
        assert numbers(everything) == list(range(300))

    @pytest.mark.parametrize(
        ("arguments", "error", "told"),
        [
            ({"limit": 1001}, ValueError, "since=history.position"),
            ({"limit": -1}, ValueError, "0 to 1000"),
            ({"limit": "10"}, TypeError, "an int"),
            ({"limit": True}, TypeError, "an int"),
            ({"since": datetime.datetime(2026, 1, 1)}, ValueError, "aware"),
            ({"since": -MINUTE}, ValueError, "how long ago"),
            ({"since": 7}, TypeError, "a position, an aware datetime or a timedelta"),
            ({"since": "no position"}, InvalidPosition, "is no position"),
        ],
    )
    async def test_wrong_arguments_are_refused(
        self, servers: Servers, arguments: dict[str, Any], error: type[Exception], told: str
    ) -> None:
        layer = servers[0]
        with pytest.raises(error, match=told):
            await layer.group_history("room", **arguments)
        with pytest.raises(error, match=told):
            layer.group_history_sync("room", **arguments)

    async def test_wrong_names_are_refused(self, servers: Servers) -> None:
        layer = servers[0]
        with pytest.raises(TypeError):
            await layer.group_history("no name")
        with pytest.raises(TypeError):
            await layer.user_history("")


class TestSince:
    async def test_a_position(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        await send(layer, group, 1)
        position = await layer.group_position(group)
        assert (await layer.group_history(group, since=position)).messages == []
        await send(layer, group, *range(2, 7))
        found = await layer.group_history(group, since=position)
        assert numbers(found) == [2, 3, 4, 5, 6]
        assert found.complete
        newest = await layer.group_history(group, since=position, limit=2, newest_first=True)
        assert numbers(newest) == [6, 5]

    async def test_page_by_page(self, servers: Servers, group: str) -> None:
        layer, other = servers[0], neighbour(group)
        position = await layer.group_position(group)
        for number in range(10):
            await layer.group_send(group, {"n": number})
            await layer.group_send(other, {"n": "other"})
        await settled(layer)
        pages = []
        while (found := await layer.group_history(group, since=position, limit=4)).messages:
            assert found.complete
            pages.append(numbers(found))
            position = found.position
        assert pages == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]

    @pytest.mark.parametrize("newest_first", [False, True])
    async def test_the_position_of_a_message(
        self, servers: Servers, group: str, newest_first: bool
    ) -> None:
        layer = servers[0]
        await send(layer, group, *range(6))
        found = await layer.group_history(group, newest_first=newest_first)
        for message in found.messages:
            rest = await layer.group_history(group, since=message.position)
            assert numbers(rest) == list(range(message["n"] + 1, 6))

    async def test_the_position_of_a_message_among_those_to_everybody(
        self, make_layer: Layers, prefix: str
    ) -> None:
        """They lie in several partitions, so each position has several offsets."""
        layers = [make_layer(prefix) for _ in range(4)]
        for number in range(12):
            await layers[number % 4].all_send({"n": number})
            await settled(layers[number % 4])
        layer = layers[0]
        told = numbers(await layer.all_history())
        assert sorted(told) == list(range(12))
        for number, message in enumerate((await layer.all_history()).messages):
            rest = await layer.all_history(since=message.position)
            assert numbers(rest) == told[number + 1 :]

    async def test_a_datetime_and_a_timedelta(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        await send(layer, group, 1, 2)
        cut = await a_while_later(layer, group)
        await send(layer, group, 3, 4)
        found = await layer.group_history(group, since=cut)
        assert numbers(found) == [3, 4]
        assert found.complete
        assert numbers(await layer.group_history(group, since=cut, limit=1)) == [3]
        last = await layer.group_history(group, since=cut, limit=1, newest_first=True)
        assert numbers(last) == [4]
        assert numbers(await layer.group_history(group, since=MINUTE)) == [1, 2, "cut", 3, 4]
        ahead = datetime.datetime.now(UTC) + MINUTE
        assert (await layer.group_history(group, since=ahead)).messages == []

    async def test_the_position_of_another_address_is_refused(
        self, make_layer: Layers, group: str
    ) -> None:
        layer = make_layer()
        position = await layer.group_position(group)
        with pytest.raises(ValueError, match="no position of the group"):
            await layer.group_history(neighbour(group), since=position)
        with pytest.raises(ValueError, match="no position of the user"):
            await layer.user_history(group, since=position)
        with pytest.raises(InvalidPosition, match="prefix"):
            await make_layer("another").group_history(group, since=position)

    async def test_a_position_from_before_a_close_and_of_another_layer(
        self, make_layer: Layers, group: str
    ) -> None:
        here, there = make_layer(), make_layer()
        position = await here.group_position(group)
        await send(here, group, 1)
        assert numbers(await there.group_history(group, since=position)) == [1]
        await here.close()
        assert numbers(await here.group_history(group, since=position)) == [1]


async def a_while_later(layer: KafkaChannelLayer, group: str) -> datetime.datetime:
    """Return a time between the messages so far and those to come, by the broker's clock.

    A message marks it, which is no part of what is asked for.
    """
    await send(layer, group, "cut")
    mark = (await layer.group_history(group)).messages[-1].timestamp
    # Timestamps are whole milliseconds, and clocks may be set back.
    later = neighbour(group)
    while True:
        await send(layer, later, "later")
        if (await layer.group_history(later)).messages[-1].timestamp > mark + 0.003:
            return datetime.datetime.fromtimestamp(mark + 0.002, UTC)


class TestAddresses:
    async def test_groups_of_one_partition_are_kept_apart(
        self, servers: Servers, group: str
    ) -> None:
        layer, other = servers[0], neighbour(group)
        for number in range(4):
            await layer.group_send(group, {"n": number})
            await layer.group_send(other, {"n": f"other {number}"})
        await settled(layer)
        assert numbers(await layer.group_history(group)) == [0, 1, 2, 3]
        assert numbers(await layer.group_history(other, limit=1)) == ["other 3"]

    async def test_a_user(self, servers: Servers) -> None:
        layer, user = servers[0], secrets.randbelow(2**40)
        await layer.user_send(user, {"n": 1})
        await layer.user_send(f"{user}0", {"n": "another"})
        await settled(layer)
        found = await layer.user_history(str(user))
        assert numbers(found) == [1]
        await layer.user_send(user, {"n": 2})
        await settled(layer)
        assert numbers(await layer.user_history(user, since=found.position)) == [2]

    async def test_everybody_and_no_command(self, make_layer: Layers, prefix: str) -> None:
        layer = make_layer(prefix)
        await layer.new_channel()
        await layer.all_send({"n": 1})
        await asyncio.to_thread(layer.servers_sync, 0.1)
        await layer.all_send({"n": 2})
        await settled(layer)
        found = await layer.all_history()
        assert numbers(found) == [1, 2]
        assert found.complete

    async def test_a_user_hears_of_everybody_since_its_position(self, servers: Servers) -> None:
        layer, user = servers[0], secrets.randbelow(2**40)
        await layer.all_send({"n": 1})
        await settled(layer)
        found = await layer.user_history(user)
        await layer.all_send({"n": 2})
        await settled(layer)
        await layer.user_send(user, {"n": 3})
        await settled(layer)
        later = await layer.user_history(user, since=found.position)
        assert numbers(later) == [3]
        # What the user was told of does not move the place of what everybody was.
        assert numbers(await layer.all_history(since=later.position)) == [2]


class TestFlush:
    @pytest.mark.parametrize("keys", [None, ["secret"]], ids=["plain", "encrypted"])
    async def test_what_was_flushed_is_not_told(
        self, make_layer: Layers, group: str, keys: list[str] | None
    ) -> None:
        flusher, layer, late = (make_layer(symmetric_encryption_keys=keys) for _ in "123")
        position = await layer.group_position(group)
        await send(layer, group, 1)
        assert numbers(await layer.group_history(group)) == [1]
        await flusher.flush()
        for each in (flusher, layer, late):
            found = await each.group_history(group)
            assert (found.messages, found.complete) == ([], True)
        await send(flusher, group, 2)
        for each in (flusher, layer, late):
            for since in (None, position, MINUTE):
                assert numbers(await each.group_history(group, since=since)) == [2]

    async def test_a_command_that_nobody_signed_flushes_nothing(
        self, make_layer: Layers, group: str
    ) -> None:
        layer = make_layer(symmetric_encryption_keys=["secret"])
        forger = make_layer()
        await send(layer, group, 1)
        await forger.flush()
        assert numbers(await layer.group_history(group)) == [1]


class TestTheLog:
    async def test_what_retention_took_is_missing(
        self, make_layer: Layers, prefix: str, group: str
    ) -> None:
        layer = make_layer(prefix)
        first = await layer.group_position(group)
        await send(layer, group, *range(3))
        await shorten(layer, make_layer.backend.name, group)
        await send(layer, group, "end")
        found = await layer.group_history(group)
        assert numbers(found)[-1] == "end"
        assert not found.complete
        assert not (await layer.group_history(group, since=first)).complete
        assert not (await layer.group_history(group, since=MINUTE)).complete
        # What was asked for is there.
        last = await layer.group_history(group, limit=1)
        assert (numbers(last), last.complete) == (["end"], True)
        assert (await layer.group_history(group, since=found.position)).complete

    async def test_partitions_that_were_added(
        self, make_layer: Layers, prefix: str, group: str
    ) -> None:
        if make_layer.backend.name != "kafka":
            pytest.skip("only a real broker adds partitions")
        layer = make_layer(prefix)
        # A group whose partition changes.
        group = next(
            name
            for number in range(100)
            if partition_of(name := f"{group}-{number}", PARTITIONS + 1) == PARTITIONS
        )
        position = await layer.group_position(group)
        await send(layer, group, 1, 2)
        await asyncio.to_thread(add_partition, layer, Topic.SEND_GROUP, PARTITIONS)
        await asyncio.to_thread(await_growth, layer, Topic.SEND_GROUP, PARTITIONS)
        await send(layer, group, 3, 4)
        for since in (None, position, MINUTE):
            found = await layer.group_history(group, since=since)
            assert numbers(found) == [1, 2, 3, 4]
            assert found.complete

    async def test_a_topic_that_was_made_anew(
        self, make_layer: Layers, prefix: str, group: str
    ) -> None:
        if make_layer.backend.name != "kafka":
            pytest.skip("only a real broker deletes topics")
        make_layer.timings = Timings(topics=0.05)
        layer = make_layer(prefix)
        await send(layer, group, 1, 2, 3)
        old = await layer.group_position(group)
        assert len((await layer.group_history(group)).messages) == 3
        await layer.close()
        await asyncio.to_thread(delete_topic, layer, Topic.SEND_GROUP)
        await send(layer, group, 4)
        found = await layer.group_history(group, since=old)
        assert numbers(found) == [4]
        assert not found.complete
        assert numbers(await layer.group_history(group, since=found.position)) == []


async def shorten(layer: KafkaChannelLayer, backend: str, group: str) -> None:
    """Have the log lose the first messages of a group."""
    if backend != "kafka":
        # These keep 5 MiB of a partition.
        for _ in range(8):
            await send(layer, group, "x" * 1_000_000)
        return
    partition = partition_of(group, PARTITIONS)
    await asyncio.to_thread(delete_before, layer, Topic.SEND_GROUP, partition, 2)


class TestCallers:
    async def test_a_process_that_only_sends_can_ask(self, make_layer: Layers, group: str) -> None:
        layer = make_layer()
        await send(layer, group, 1)
        assert numbers(await layer.group_history(group)) == [1]
        assert not server_of(layer).receiving

    async def test_its_synchronous_twins(self, make_layer: Layers, group: str) -> None:
        """From a thread, and from a running loop, which they block."""
        layer = make_layer()
        position = await asyncio.to_thread(layer.group_position_sync, group)
        await send(layer, group, 1)
        await layer.user_send(group, {"n": 2})
        await settled(layer)
        assert numbers(layer.group_history_sync(group, since=position)) == [1]
        assert numbers(layer.user_history_sync(group, limit=5, newest_first=True)) == [2]
        assert isinstance(layer.all_history_sync(limit=0), History)

    def test_without_any_event_loop(self, make_layer: Layers, group: str) -> None:
        layer = make_layer()
        layer.group_send_sync(group, {"n": 1})
        server_of(layer).transport.settle(DEADLINE)
        assert numbers(layer.group_history_sync(group)) == [1]

    async def test_many_at_a_time(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        groups = [f"{group}-{number}" for number in range(20)]
        for each in groups:
            await layer.group_send(each, {"n": each})
        await settled(layer)
        found = await asyncio.gather(*(layer.group_history(each) for each in groups * 5))
        assert [numbers(each) for each in found] == [[each] for each in groups * 5]

    async def test_a_live_member_is_not_disturbed(self, make_layer: Layers, group: str) -> None:
        layer = make_layer()
        channel = await layer.new_channel()
        await layer.group_add(group, channel)
        for number in range(5):
            await layer.group_send(group, {"n": number})
            assert await next_message(layer, channel) == {"n": number}
            assert numbers(await layer.group_history(group))[-1] == number

    async def test_close_frees_all(self, make_layer: Layers, group: str) -> None:
        others = past_threads()
        layer = make_layer()
        await layer.group_history(group)
        # Those of the servers that run on end when nobody has asked for 10 s.
        own = past_threads() - others
        assert make_layer.backend.name == "memory" or len(own) == 1
        await layer.close()
        await wait_until_async(
            lambda: not own & past_threads(), "the thread that reads the past to end"
        )
        assert (await layer.group_history(group)).messages == []


def past_threads() -> set[threading.Thread]:
    """Return the threads that read the past for all layers of this process."""
    return {each for each in threading.enumerate() if each.name == "kafka-layer-past"}
