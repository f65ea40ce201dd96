"""What a channel that comes back gets: all that it missed, once and in order, or a reason."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.messages import Message, Recovery
from kafka_layer.wire.codec import Codec
from kafka_layer.wire.encryption import Encryption
from kafka_layer.wire.partitions import partition_of
from kafka_layer.wire.position_token import LogPosition
from kafka_layer.wire.topics import Topic
from tests.support.inspect import server_of
from tests.support.layers import (
    PARTITIONS,
    Layers,
    Servers,
    begin_receive,
    next_message,
    next_messages,
)
from tests.support.topics import delete_before
from tests.support.waiting import wait_until_async

DEADLINE = 30.0


@pytest.fixture
def group() -> str:
    """A group that no other test uses."""
    return f"room-{secrets.token_hex(4)}"


def numbers(found: Recovery | Sequence[dict[str, Any]]) -> list[Any]:
    if isinstance(found, Recovery):
        assert found.recovered, found.reason
        found = found.messages
    return [each["n"] for each in found]


async def send(layer: KafkaChannelLayer, group: str, *values: Any, **arguments: Any) -> None:
    """Send messages, and return when they are in the log."""
    for value in values:
        await layer.group_send(group, {"n": value}, **arguments)
    await settled(layer)


async def settled(layer: KafkaChannelLayer) -> None:
    await asyncio.to_thread(server_of(layer).transport.settle, DEADLINE)


async def tracked(
    layer: KafkaChannelLayer, *groups: str, user: object = None, users: Sequence[object] = ()
) -> str:
    """Open a tracked channel with its memberships."""
    channel = await layer.new_channel()
    layer.track(channel)
    for each in users if user is None else [user]:
        await layer.user_add(each, channel)
    for group in groups:
        await layer.group_add(group, channel)
    return channel


class TestMessages:
    async def test_a_message_equals_what_was_sent_and_knows_its_place(
        self, servers: Servers, group: str
    ) -> None:
        layer = servers[0]
        channel = await tracked(layer, group)
        sent = {"type": "chat.message", "text": "Grüße", "n": 1}
        await layer.group_send(group, sent)
        message = await next_message(layer, channel)
        assert message == sent
        assert isinstance(message, Message)
        assert message.replayed is False
        assert message.place.startswith("g")
        assert abs(message.timestamp - server_of(layer).clock.now()) < DEADLINE
        await layer.send(channel, {"n": 2})
        direct = await next_message(layer, channel)
        assert isinstance(direct, Message)
        assert (direct, direct.place) == ({"n": 2}, "")

    async def test_a_channel_that_is_not_tracked_gets_plain_dicts(
        self, servers: Servers, group: str
    ) -> None:
        layer = servers[0]
        await tracked(layer, group)
        channel = await layer.new_channel()
        await layer.group_add(group, channel)
        await layer.group_send(group, {"n": 1})
        assert type(await next_message(layer, channel)) is dict


class TestRecovery:
    async def test_what_was_missed_comes_once_and_then_what_is_new(
        self, make_layer: Layers, group: str
    ) -> None:
        here, there = make_layer(), make_layer()
        channel = await tracked(here, group)
        await send(here, group, 1)
        last = await next_message(here, channel)
        await send(here, group, 2, 3)
        again = await tracked(there, group)
        await send(here, group, 4)
        found = await there.recover(again, last.position)
        await send(here, group, 5)
        assert [*numbers(found), *numbers(await rest(there, again, 5))] == [2, 3, 4, 5]
        assert all(message.replayed for message in found.messages)
        assert 0 <= found.seconds_away < DEADLINE

    async def test_a_channel_that_never_got_a_message(self, make_layer: Layers, group: str) -> None:
        here, there = make_layer(), make_layer()
        channel = await tracked(here, group)
        position = here.position(channel)
        # To the channel alone: its name ends with it.
        await there.send(channel, {"n": "direct"})
        await settled(there)
        await send(here, group, 1)
        again = await tracked(there, group)
        assert numbers(await there.recover(again, position)) == [1]

    async def test_nothing_was_missed(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        await send(layer, group, 1)
        channel = await tracked(layer, group)
        again = await tracked(layer, group)
        assert await layer.recover(again, layer.position(channel)) == (
            True,
            None,
            [],
            pytest.approx(0, abs=DEADLINE),
        )

    async def test_the_position_of_a_page(self, make_layer: Layers, group: str) -> None:
        layer = make_layer()
        position = await layer.group_position(group)
        await send(layer, group, 1)
        channel = await tracked(layer, group)
        assert numbers(await layer.recover(channel, position)) == [1]

    async def test_a_user_and_everybody(self, make_layer: Layers) -> None:
        here, there = make_layer(), make_layer()
        user = secrets.randbelow(2**40)
        channel = await tracked(here, user=user)
        position = here.position(channel)
        await here.user_send(user, {"n": 1})
        await settled(here)
        await here.all_send({"n": 2})
        await here.user_send(f"{user}0", {"n": "another's"})
        await settled(here)
        await asyncio.to_thread(there.servers_sync, 0.1)
        again = await tracked(there, user=str(user))
        # Their partitions are merged by the broker's time, which may be the same.
        assert sorted(numbers(await there.recover(again, position))) == [1, 2]

    async def test_a_channel_of_two_users(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        one, other = f"{group}-one", f"{group}-other"
        position = layer.position(await tracked(layer, users=[one, other]))
        for value, user in enumerate((one, other, one)):
            await layer.user_send(user, {"n": value})
            await settled(layer)
        found = await layer.recover(await tracked(layer, users=[other, one]), position)
        # Their partitions are merged by the broker's time, which is the same for some.
        assert sorted(numbers(found)) == [0, 1, 2]
        for less_or_more in ([one], [other], [one, other, f"{group}-third"]):
            again = await tracked(layer, users=less_or_more)
            assert (await layer.recover(again, position)).reason == "user"

    async def test_in_hand_and_waiting_is_not_handed_over(
        self, servers: Servers, group: str
    ) -> None:
        layer = servers[0]
        channel = await tracked(layer, group)
        await send(layer, group, 1, 2, 3)
        await next_message(layer, channel)
        taken = await next_message(layer, channel)
        position = layer.position(channel)
        again = await tracked(layer, group)
        assert numbers(await layer.recover(again, position)) == [2, 3]
        third = await tracked(layer, group)
        assert numbers(await layer.recover(third, taken.position)) == [3]

    async def test_a_position_moves_while_the_channel_is_quiet(
        self, servers: Servers, group: str
    ) -> None:
        layer = servers[0]
        channel = await tracked(layer, group)
        waits = asyncio.create_task(layer.receive(channel))
        before = layer.position(channel)
        other = await tracked(layer, f"{group}-other")
        await send(layer, f"{group}-other", *range(20))
        await next_messages(layer, other, 20)
        after = layer.position(channel)
        waits.cancel()
        assert offsets(layer, after) >= offsets(layer, before)
        assert sum(offsets(layer, after)) >= sum(offsets(layer, before)) + 20

    async def test_a_message_that_excluded_the_channel(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        first = await tracked(layer, group)
        position = layer.position(first)
        await send(layer, group, 1, exclude=[first])
        await send(layer, group, 2)
        second = await tracked(layer, group)
        found = await layer.recover(second, position)
        assert numbers(found) == [2]
        position = layer.position(second)
        await send(layer, group, 3, exclude=[first])
        await send(layer, group, 4, exclude=["another"])
        third = await tracked(layer, group)
        assert numbers(await layer.recover(third, position)) == [4]

    async def test_nothing_from_before_it_joined(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        channel = await tracked(layer, group)
        for number in range(3):
            await send(layer, f"{group}-late", f"before {number}")
        await layer.group_add(f"{group}-late", channel)
        position = layer.position(channel)
        await send(layer, f"{group}-late", 1)
        again = await tracked(layer, group, f"{group}-late")
        assert numbers(await layer.recover(again, position)) == [1]

    async def test_groups_that_it_was_not_in_or_is_not_in(
        self, servers: Servers, group: str
    ) -> None:
        layer = servers[0]
        channel = await tracked(layer, group, f"{group}-left")
        position = layer.position(channel)
        for each in (group, f"{group}-left", f"{group}-new"):
            await send(layer, each, each)
        again = await tracked(layer, group, f"{group}-new")
        await send(layer, f"{group}-new", "live")
        found = await layer.recover(again, position)
        await send(layer, f"{group}-new", "last")
        received = [*found.messages, *await rest(layer, again, "last")]
        assert numbers(received) == [group, "live", "last"]

    async def test_the_position_of_a_page_opens_no_group(
        self, make_layer: Layers, group: str
    ) -> None:
        """Nor what was sent before a later membership."""
        layer = make_layer()
        position = await layer.group_position(group)
        await send(layer, group, "before")
        channel = await tracked(layer, f"{group}-other")
        assert numbers(await layer.recover(channel, position)) == []
        await layer.group_add(group, channel)
        await send(layer, group, "live")
        assert numbers([await next_message(layer, channel)]) == ["live"]
        again = await tracked(layer, group)
        assert numbers(await layer.recover(again, layer.position(channel))) == ["live"]

    async def test_a_copy_of_an_encrypted_message_is_refused(
        self, make_layer: Layers, group: str
    ) -> None:
        """Also where the original lies before the position."""
        layer = make_layer(symmetric_encryption_keys=["key"])
        channel, other = await tracked(layer, group), await tracked(layer, group)
        payload = Codec(layer.config.serializer_format).encode({"n": 1})
        token = Encryption([b"key"]).encrypt(Topic.SEND_GROUP, group, payload)
        server_of(layer).transport.produce((Topic.SEND_GROUP, group, token, None, ()))
        message = await next_message(layer, channel)
        assert isinstance(message, Message)
        server_of(layer).transport.produce((Topic.SEND_GROUP, group, token, None, ()))
        await send(layer, group, 2)
        assert numbers(await next_messages(layer, other, 2)) == [1, 2]
        again = await tracked(layer, group)
        assert numbers(await layer.recover(again, message.position)) == [2]

    async def test_each_partition_comes_in_its_order(self, make_layer: Layers, group: str) -> None:
        """Also where a group is new: a browser tells how far it got in the partition."""
        layer = make_layer()
        number = partition_of(group, PARTITIONS)
        names = (f"{group}-{each}" for each in itertools.count())
        new = next(each for each in names if partition_of(each, PARTITIONS) == number)
        position = await layer.group_position(group)
        again, other = await tracked(layer, group, new), await tracked(layer, group, new)
        await send(layer, new, 1)
        await send(layer, group, 2)
        await send(layer, new, 3)
        await next_messages(layer, other, 3)
        found = await layer.recover(again, position)
        await send(layer, new, 4)
        assert [*numbers(found), *numbers(await rest(layer, again, 4))] == [1, 2, 3, 4]

    async def test_a_replay_that_is_interrupted(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        channel = await tracked(layer, group)
        position = layer.position(channel)
        await send(layer, group, *range(6))
        found = await layer.recover(await tracked(layer, group), position)
        assert numbers(found) == list(range(6))
        for message in found.messages:
            again = await layer.recover(await tracked(layer, group), message.position)
            assert numbers(again) == list(range(message["n"] + 1, 6))

    async def test_places_raise_a_position(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        channel = await tracked(layer, group)
        position = layer.position(channel)
        await send(layer, group, 1, 2, 3)
        places = [(await next_message(layer, channel)).place for _ in range(2)]
        again = await tracked(layer, group)
        assert numbers(await layer.recover(again, "~".join([position, *places]))) == [3]

    async def test_two_tabs_with_one_position(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        position = layer.position(await tracked(layer, group))
        await send(layer, group, 1, 2)
        for _ in range(2):
            found = await layer.recover(await tracked(layer, group), position)
            assert numbers(found) == [1, 2]

    @pytest.mark.parametrize("first", [["old"], ["new", "old"]])
    async def test_encrypted_messages_and_changed_keys(
        self, make_layer: Layers, group: str, first: list[str]
    ) -> None:
        old = make_layer(symmetric_encryption_keys=["old"])
        position = await old.group_position(group)
        await send(old, group, 1)
        layer = make_layer(symmetric_encryption_keys=first)
        await send(layer, group, 2)
        for _ in range(2):  # the second time is no copy of the first
            channel = await tracked(layer, group)
            assert numbers(await layer.recover(channel, position)) == [1, 2]
        assert not layer.stats().dropped

    async def test_a_message_of_almost_a_megabyte(self, make_layer: Layers, group: str) -> None:
        layer = make_layer()
        position = await layer.group_position(group)
        await send(layer, group, "x" * 1_000_000)
        found = await layer.recover(await tracked(layer, group), position)
        assert [len(each) for each in numbers(found)] == [1_000_000]

    async def test_a_message_that_was_sent_twice_is_replayed_once(
        self, make_layer: Layers, group: str
    ) -> None:
        here, there = make_layer(), make_layer()
        await send(here, group, 1, idempotency_key="one")
        position = await here.group_position(group)
        for value in (1, 2, 2, 3):
            await send(here, group, value, idempotency_key=f"{value}".replace("1", "one"))
        for layer in (here, there):
            found = await layer.recover(await tracked(layer, group), position)
            assert numbers(found) == [2, 3]

    def test_its_synchronous_twin(self, make_layer: Layers, group: str) -> None:
        layer = make_layer()
        position = layer.group_position_sync(group)
        layer.group_send_sync(group, {"n": 1})
        server_of(layer).transport.settle(DEADLINE)
        channel = asyncio.run(tracked(layer, group))
        assert numbers(layer.recover_sync(channel, position)) == [1]


class TestReasons:
    async def test_expired(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        position = await layer.group_position(group)
        channel = await tracked(layer, group)
        await asyncio.sleep(0.02)
        found = await layer.recover(channel, position, window=0.01)
        assert found[:3] == (False, "expired", [])
        assert found.seconds_away >= 0.01

    @pytest.mark.parametrize("text", ["", "no position", "a.b", "~g0.1"])
    async def test_invalid(self, servers: Servers, group: str, text: str) -> None:
        layer = servers[0]
        channel = await tracked(layer, group)
        assert await layer.recover(channel, text) == (False, "invalid", [], 0.0)

    async def test_a_forged_one_and_one_of_another_prefix(
        self, make_layer: Layers, group: str, prefix: str
    ) -> None:
        layer = make_layer()
        position = await layer.group_position(group)
        channel = await tracked(layer, group)
        forged = position[:-1] + ("A" if position[-1] != "A" else "B")
        assert (await layer.recover(channel, forged)).reason == "invalid"
        other = make_layer(prefix)
        assert (await other.recover(await tracked(other), position)).reason == "invalid"

    @pytest.mark.parametrize("now", [None, 8])
    async def test_another_user(self, servers: Servers, group: str, now: int | None) -> None:
        layer = servers[0]
        position = layer.position(await tracked(layer, group, user=7))
        await send(layer, group, 1)
        again = await tracked(layer, group, user=now)
        assert (await layer.recover(again, position)).reason == "user"

    async def test_too_many(self, make_layer: Layers, group: str) -> None:
        layer = make_layer()
        position = await layer.group_position(group)
        await send(layer, group, *range(4))
        channel = await tracked(layer, group)
        assert (await layer.recover(channel, position, limit=3)).reason == "limit"
        assert numbers(await layer.recover(channel, position, limit=4)) == [0, 1, 2, 3]

    async def test_too_large(self, make_layer: Layers, group: str) -> None:
        layer = make_layer()
        position = await layer.group_position(group)
        await send(layer, group, "x" * 600_000, "x" * 600_000)
        assert (await layer.recover(await tracked(layer, group), position)).reason == "limit"

    async def test_undecodable(self, make_layer: Layers, group: str) -> None:
        layer = make_layer()
        other = make_layer(symmetric_encryption_keys=["other"])
        position = await layer.group_position(group)
        await send(layer, group, 1)
        await send(other, group, 2)
        again = await tracked(layer, group)
        assert (await layer.recover(again, position)).reason == "undecodable"

    @pytest.mark.parametrize("keys", [(), ["key"]], ids=["plain", "encrypted"])
    async def test_flushed(
        self, make_layer: Layers, prefix: str, group: str, keys: Sequence[str]
    ) -> None:
        layer, other = (
            make_layer(prefix, symmetric_encryption_keys=keys),
            make_layer(prefix, symmetric_encryption_keys=keys),
        )
        # One server reads the flush as it comes, the other one later.
        await tracked(layer, group)
        position = await layer.group_position(group)
        await send(layer, group, 1)
        await other.flush()
        flushes = server_of(layer).expiry
        await wait_until_async(lambda: flushes.flushed_until > 0, "the flush to be read")
        for each in (layer, other):
            channel = await tracked(each, group)
            assert (await each.recover(channel, position)).reason == "flushed"
        position = await layer.group_position(group)
        await send(layer, group, 2)
        assert numbers(await layer.recover(await tracked(layer, group), position)) == [2]

    async def test_future(self, make_layer: Layers, group: str) -> None:
        layer = make_layer()
        await send(layer, group, 1)
        position = layer.position(await tracked(layer, group))
        ahead = "~".join([position, *(f"g{number}.999999" for number in range(PARTITIONS))])
        assert (await layer.recover(await tracked(layer, group), ahead)).reason == "future"

    async def test_truncated(self, make_layer: Layers, prefix: str, group: str) -> None:
        layer = make_layer(prefix)
        old = await layer.group_position(group)
        # More than a partition holds without a real broker: 5 MiB.
        await send(layer, group, *([number, "x" * 900_000] for number in range(7)))
        young = await layer.group_position(group)
        await send(layer, group, "last")
        if make_layer.backend.name == "kafka":
            number = partition_of(group, PARTITIONS)
            place = LogPosition.read(old, layer.config.prefix).topics[Topic.SEND_GROUP]
            first = place.offsets[number] + 1
            await asyncio.to_thread(delete_before, layer, Topic.SEND_GROUP, number, first)
        late = make_layer(prefix)
        found = await late.recover(await tracked(late, group), old)
        assert (found.reason, found.messages) == ("truncated", [])
        assert numbers(await late.recover(await tracked(late, group), young)) == ["last"]

    async def test_epoch(self, make_layer: Layers, group: str) -> None:
        layer = make_layer()
        position = LogPosition.read(await layer.group_position(group), layer.config.prefix)
        place = position.topics[Topic.SEND_GROUP]
        of_another = replace(place, topic_id="another-topic-as-it-w")
        topics = {**position.topics, Topic.SEND_GROUP: of_another}
        await send(layer, group, 1)
        for each in (layer, make_layer()):
            found = await each.recover(
                await tracked(each, group), replace(position, topics=topics).sign()
            )
            # In memory topics have no ids.
            assert found.reason == (None if place.topic_id is None else "epoch")

    async def test_they_are_counted(self, make_layer: Layers, group: str) -> None:
        layer, other = make_layer(), make_layer()
        channel = await tracked(layer, group)
        await layer.recover(channel, "no position")
        await layer.recover(channel, await layer.group_position(group))
        stats = layer.stats()
        assert (stats.recovered, stats.not_recovered) == (1, {"invalid": 1})
        await other.new_channel()
        told: dict[str, Any] = {}
        while not {stats.server, other.stats().server} <= told.keys():
            # It may take a server longer to answer.
            answers = await asyncio.to_thread(other.servers_sync, 0.5)
            told |= {each["server"]: each for each in answers}
        figures = told[stats.server or ""]
        assert (figures["recovered"], figures["not_recovered"], figures["behind"]) == (1, 1, 0)
        assert "recovered" not in told[other.stats().server or ""]

    async def test_wrong_arguments_are_refused(self, servers: Servers, group: str) -> None:
        layer = servers[0]
        channel = await layer.new_channel()
        with pytest.raises(ValueError, match="not tracked"):
            layer.position(channel)
        with pytest.raises(ValueError, match="not open"):
            layer.track("specific.0-nobody!x")
        with pytest.raises(TypeError):
            layer.track("no name")
        with pytest.raises(TypeError):
            layer.track([])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="on_change"):
            layer.track(channel, "no function")  # type: ignore[arg-type]

    async def test_a_recovery_that_cannot_be_meant(self, servers: Servers) -> None:
        """The error names the argument, and the channel stays as it was."""
        layer = servers[0]
        channel = await layer.new_channel()
        nan = float("nan")
        for argument, wrong_types, wrong_values in (
            ("position", (None, b"bytes", 7), ()),
            ("limit", (True, 1.0, "10", None), (1001, -1)),
            ("window", (True, "60", timedelta(minutes=1)), (-1, nan)),
        ):
            for error, values in ((TypeError, wrong_types), (ValueError, wrong_values)):
                for value in values:
                    given: dict[str, Any] = {"position": "x", argument: value}
                    with pytest.raises(error, match=argument):
                        await layer.recover(channel, **given)
                    with pytest.raises(error, match=argument):
                        layer.recover_sync(channel, **given)
        with pytest.raises(ValueError, match="not tracked"):
            layer.position(channel)


class TestSlowReaders:
    async def test_a_channel_that_falls_behind_gets_everything_and_holds_up_nobody(
        self, make_layer: Layers, group: str
    ) -> None:
        layer = make_layer(capacity=10, symmetric_encryption_keys=["key"])
        slow, quick = await tracked(layer, group), await layer.new_channel()
        await layer.group_add(group, quick)
        receives = asyncio.create_task(next_messages(layer, quick, 300))
        await send(layer, group, *range(300))
        assert numbers(await receives) == list(range(300))
        stats = layer.stats()
        assert (stats.waiting, stats.behind) == (10, 1)
        assert stats.recent_bytes > 300 * 300

        first = await next_messages(layer, slow, 150)
        await layer.send(slow, {"n": "direct"})
        # It comes back elsewhere in the middle of it.
        again = await tracked(layer, group)
        missed = await layer.recover(again, first[-1].position)  # type: ignore[attr-defined]
        await send(layer, group, 300)
        others = await next_messages(layer, slow, 152)
        received = numbers([*first, *others])
        received.remove("direct")
        assert received == list(range(301))
        assert numbers(missed) == list(range(numbers(first)[-1] + 1, 300))
        assert numbers([await next_message(layer, again)]) == [300]
        waits = await begin_receive(layer, slow)
        stats = layer.stats()
        assert (stats.dropped, stats.behind) == ({}, 0)
        waits.cancel()

    async def test_one_that_falls_too_far_behind_is_told(
        self, make_layer: Layers, group: str
    ) -> None:
        layer = make_layer(capacity=10, recent_bytes=1024 * 1024)
        channel, quick = await tracked(layer, group), await layer.new_channel()
        await layer.group_add(group, quick)
        receives = asyncio.create_task(next_messages(layer, quick, 40))
        await send(layer, group, *("x" * 100_000 for _ in range(40)))
        await receives
        await next_messages(layer, channel, 10)
        gap = await next_message(layer, channel)
        assert gap == {"type": "kafka.gap", "reason": "limit"}
        again = await tracked(layer, group)
        found = await layer.recover(again, layer.position(channel))
        assert (found.recovered, found.reason) == (False, "limit")
        waits = await begin_receive(layer, channel)
        await send(layer, group, "live")
        assert numbers([await waits]) == ["live"]
        assert layer.stats().dropped == {"gap": 1}


async def rest(layer: KafkaChannelLayer, channel: str, last: Any) -> list[dict[str, Any]]:
    """Receive until the last message."""
    messages = [await next_message(layer, channel)]
    while messages[-1]["n"] != last:
        messages.append(await next_message(layer, channel))
    return messages


def offsets(layer: KafkaChannelLayer, position: str) -> tuple[int, ...]:
    topics = LogPosition.read(position, layer.config.prefix).topics
    return tuple(offset for place in topics.values() for offset in place.offsets)
