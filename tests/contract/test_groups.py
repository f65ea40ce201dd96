"""Groups, users and everybody: who gets a message, on which servers, and who does not."""

from __future__ import annotations

import asyncio
import enum
import secrets
from typing import Any

import pytest

from kafka_layer.exceptions import GroupAckTimeout
from kafka_layer.layer import KafkaChannelLayer
from tests.support.layers import Layers, Servers, next_message, next_messages, stats_of

MESSAGE: dict[str, Any] = {"type": "test.message", "n": 1}
BARRIER: dict[str, Any] = {"type": "barrier"}


async def holds_nothing(layer: KafkaChannelLayer, channel: str) -> None:
    """Prove that ``channel`` holds no message: what is sent to it locally is the next one.

    Whatever the server routed before is in the mailbox by now, so call this once another channel
    of the same server has received the message that this one must not get.
    """
    await layer.send(channel, BARRIER)
    assert await next_message(layer, channel) == BARRIER


class TestGroups:
    async def test_members_on_two_servers_get_a_message_and_others_do_not(
        self, servers: Servers
    ) -> None:
        here, there, _ = servers
        members = [(layer, await layer.new_channel()) for layer in (here, there) for _ in range(2)]
        stranger = await there.new_channel()
        for layer, channel in members:
            await layer.group_add("room", channel)
        await here.group_send("room", MESSAGE)
        for layer, channel in members:
            assert await next_message(layer, channel) == MESSAGE
        await holds_nothing(there, stranger)

    async def test_discarding_who_is_no_member_changes_nothing(self, servers: Servers) -> None:
        layer = servers[0]
        channel = await layer.new_channel()
        await layer.group_discard("room", channel)
        await layer.group_add("room", channel)
        await layer.group_discard("other", channel)
        await layer.group_send("room", MESSAGE)
        assert await next_message(layer, channel) == MESSAGE

    async def test_a_group_without_members(self, make_layer: Layers) -> None:
        layer = make_layer(await_produce=True)
        channel = await layer.new_channel()
        await layer.group_send("nobody", MESSAGE)
        await layer.user_send("nobody", MESSAGE)
        await layer.all_send(BARRIER)
        assert await next_message(layer, channel) == BARRIER
        assert stats_of(layer)["failed"] == 0

    async def test_all_members_see_one_order(self, servers: Servers) -> None:
        here, there, _ = servers
        members = [(layer, await layer.new_channel()) for layer in (here, there) for _ in range(2)]
        for layer, channel in members:
            await layer.group_add("room", channel)

        async def send(layer: KafkaChannelLayer, name: str) -> None:
            for number in range(100):
                await layer.group_send("room", {"from": name, "n": number})
                await asyncio.sleep(0)

        receiving = [asyncio.create_task(next_messages(*member, 200)) for member in members]
        await asyncio.gather(send(here, "here"), send(there, "there"))
        orders = await asyncio.gather(*receiving)
        assert orders[0] == orders[1] == orders[2] == orders[3]
        for name in ("here", "there"):
            assert [each["n"] for each in orders[0] if each["from"] == name] == list(range(100))

    async def test_a_channel_in_two_groups(self, servers: Servers) -> None:
        here, there, _ = servers
        channel = await there.new_channel()
        await there.group_add("one", channel)
        await there.group_add("two", channel)
        await here.group_send("one", {"n": 1})
        assert await next_message(there, channel) == {"n": 1}
        await here.group_send("two", {"n": 2})
        assert await next_message(there, channel) == {"n": 2}
        await there.group_discard("one", channel)
        await here.group_send("one", {"n": 3})
        await here.group_send("two", {"n": 4})
        assert await next_message(there, channel) == {"n": 4}

    async def test_exclude(self, servers: Servers) -> None:
        here, there, _ = servers
        members = {name: await there.new_channel() for name in ("a", "b", "c")}
        for channel in members.values():
            await there.group_add("room", channel)
        await here.group_send("room", MESSAGE, exclude={members["a"], members["b"]})
        await here.group_send("room", BARRIER)
        assert await next_messages(there, members["c"], 2) == [MESSAGE, BARRIER]
        assert await next_message(there, members["a"]) == BARRIER
        assert await next_message(there, members["b"]) == BARRIER

    async def test_group_send_many(self, servers: Servers) -> None:
        here, there, _ = servers
        members = {group: await there.new_channel() for group in ("one", "two", "three")}
        for group, channel in members.items():
            await there.group_add(group, channel)
        await here.group_send_many(["one", "two"], MESSAGE)
        await here.group_send_many(members, BARRIER, exclude=[members["two"]])
        assert await next_messages(there, members["one"], 2) == [MESSAGE, BARRIER]
        assert await next_message(there, members["three"]) == BARRIER
        assert await next_message(there, members["two"]) == MESSAGE
        await holds_nothing(there, members["two"])


class Spelled(str):
    def __str__(self) -> str:
        return "-".join(self)


def member_of_an_enum(text: str) -> str:
    """Return a name as applications write them; its str() is that of the member."""
    return enum.Enum("Room", {"LOBBY": text}, type=str).LOBBY  # type: ignore[no-any-return, attr-defined, unused-ignore]


async def test_a_name_of_a_subclass_of_str_means_its_text(make_layer: Layers) -> None:
    here, there = (make_layer(symmetric_encryption_keys=["secret"]) for _ in range(2))
    for make in (member_of_an_enum, Spelled):
        # No other test uses it: of messages with one idempotency key the first one alone arrives.
        plain_name = f"lobby-{secrets.token_hex(4)}"
        name = make(plain_name)
        member, plain = await there.new_channel(), await there.new_channel()
        await here.group_add(name, member)
        await there.group_add(plain_name, plain)
        await here.group_send(name, {"n": 1})
        await here.group_send_many([name], {"n": 2}, idempotency_key="two")
        await here.group_send(plain_name, {"n": 3})
        for channel in (member, plain):
            assert await next_messages(there, channel, 3) == [{"n": 1}, {"n": 2}, {"n": 3}]
        found, expected = await here.group_history(name), await here.group_history(plain_name)
        assert found.messages == expected.messages != []
        await there.user_add(plain_name, member)
        await here.user_send(name, {"n": 4})
        assert await next_message(there, member) == {"n": 4}
        await there.group_discard(name, plain)
        await here.group_send(plain_name, {"n": 5})
        assert await next_message(there, member) == {"n": 5}
        await holds_nothing(there, plain)
        assert not there.stats().dropped


class TestRemoteMembership:
    async def test_it_works_both_ways_at_once_and_encrypted(self, make_layer: Layers) -> None:
        layers = [make_layer(symmetric_encryption_keys=["secret"]) for _ in range(2)]
        channels = [await layer.new_channel() for layer in layers]
        await asyncio.gather(
            *(
                layer.group_add(f"room-{number}", channel)
                for layer in layers
                for channel in channels
                for number in range(20)
            )
        )
        for number in range(20):
            await layers[0].group_send(f"room-{number}", {"n": number})
        for layer, channel in zip(layers, channels, strict=True):
            received = await next_messages(layer, channel, 20)
            assert sorted(each["n"] for each in received) == list(range(20))

    async def test_a_server_that_is_gone_does_not_acknowledge(self, make_layer: Layers) -> None:
        here, there = make_layer(ack_timeout=0.3), make_layer()
        channel = await there.new_channel()
        await there.close()
        with pytest.raises(GroupAckTimeout, match=r"0\.3 s"):
            await here.group_add("room", channel)
        with pytest.raises(TimeoutError):
            here.group_add_sync("room", channel)


class TestUsersAndAll:
    async def test_all_channels_of_a_user_on_all_servers(self, servers: Servers) -> None:
        here, there, _ = servers
        mine = [(layer, await layer.new_channel()) for layer in (here, there, there)]
        yours = await there.new_channel()
        for layer, channel in mine:
            await layer.user_add("me", channel)
        await there.user_add("you", yours)
        await here.user_send("me", MESSAGE)
        for layer, channel in mine:
            assert await next_message(layer, channel) == MESSAGE
        await holds_nothing(there, yours)

    async def test_a_number_and_its_digits_are_the_same_user(self, servers: Servers) -> None:
        layer = servers[0]
        channel = await layer.new_channel()
        await layer.user_add(7, channel)
        await layer.user_send("7", MESSAGE)
        assert await next_message(layer, channel) == MESSAGE

    async def test_users_and_groups_do_not_mix(self, servers: Servers) -> None:
        layer = servers[0]
        user, member = await layer.new_channel(), await layer.new_channel()
        await layer.user_add("same", user)
        await layer.group_add("same", member)
        await layer.user_send("same", {"to": "user"})
        await layer.group_send("same", {"to": "group"})
        assert await next_message(layer, user) == {"to": "user"}
        assert await next_message(layer, member) == {"to": "group"}
        await holds_nothing(layer, user)
        await holds_nothing(layer, member)

    async def test_user_names_need_not_be_legal_group_names(self, servers: Servers) -> None:
        layer = servers[0]
        channel = await layer.new_channel()
        await layer.user_add("Jörg <j@example.org>", channel)
        await layer.user_send("Jörg <j@example.org>", MESSAGE)
        assert await next_message(layer, channel) == MESSAGE

    async def test_exclude_and_many(self, servers: Servers) -> None:
        here, there, _ = servers
        first, second, other = [await there.new_channel() for _ in range(3)]
        await there.user_add("me", first)
        await there.user_add("me", second)
        await there.user_add("you", other)
        await here.user_send("me", MESSAGE, exclude=[first])
        await here.user_send_many(["me", "you"], BARRIER)
        assert await next_message(there, first) == BARRIER
        assert await next_messages(there, second, 2) == [MESSAGE, BARRIER]
        assert await next_message(there, other) == BARRIER

    async def test_all_send_reaches_every_open_channel(self, servers: Servers) -> None:
        here, there, _ = servers
        channels = [(layer, await layer.new_channel()) for layer in (here, there) for _ in range(3)]
        await here.all_send(MESSAGE, exclude=[channels[0][1], channels[3][1]])
        await here.all_send(BARRIER)
        for number, (layer, channel) in enumerate(channels):
            expected = [BARRIER] if number in (0, 3) else [MESSAGE, BARRIER]
            assert await next_messages(layer, channel, len(expected)) == expected

    async def test_all_send_keeps_the_order_of_a_sender(self, make_layer: Layers) -> None:
        here, there = make_layer(), make_layer(capacity=400)
        channel = await there.new_channel()
        for number in range(200):
            await here.all_send({"n": number})
            if number == 100:
                await here.new_channel()  # a sender that becomes a receiver stays in order
        received = await next_messages(there, channel, 200)
        assert [each["n"] for each in received] == list(range(200))

    async def test_send_many(self, servers: Servers) -> None:
        here, there, _ = servers
        channels = [(layer, await layer.new_channel()) for layer in (here, there) for _ in range(2)]
        await here.send_many([channel for _, channel in channels], MESSAGE)
        for layer, channel in channels:
            assert await next_message(layer, channel) == MESSAGE

    async def test_send_many_with_a_name_that_means_nobody(self, make_layer: Layers) -> None:
        layer = make_layer()
        channel = await layer.new_channel()
        await layer.send_many([channel, "specific!x"], MESSAGE)
        assert await next_message(layer, channel) == MESSAGE
        assert layer.stats().dropped == {"foreign": 1}


class TestAwaitProduce:
    async def test_sends_return_the_position(self, make_layer: Layers) -> None:
        here, there = make_layer(await_produce=True), make_layer()
        channel = await there.new_channel()
        await there.group_add("room", channel)
        first = await here.group_send("room", {"n": 1})
        second = await here.group_send("room", {"n": 2})
        assert first is not None
        assert second is not None
        assert (second.topic, second.partition) == (first.topic, first.partition)
        assert second.offset > first.offset
        assert [each["n"] for each in await next_messages(there, channel, 2)] == [1, 2]

    async def test_without_it_they_return_nothing(self, make_layer: Layers) -> None:
        layer = make_layer()
        channel = await layer.new_channel()
        assert await layer.group_send("room", MESSAGE) is None
        assert await layer.send(channel, MESSAGE) is None
        assert stats_of(layer)["failed"] == 0
