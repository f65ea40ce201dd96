"""Names that users choose address what they say, and nothing else."""

from __future__ import annotations

import unicodedata

import pytest

from kafka_layer.layer import KafkaChannelLayer
from tests.support.layers import Layers, next_message

WIDE_ROOM = "".join(unicodedata.lookup(f"FULLWIDTH LATIN SMALL LETTER {each}") for each in "ROOM")
WIDE_ME = "".join(unicodedata.lookup(f"FULLWIDTH LATIN SMALL LETTER {each}") for each in "ME")


# One partition keeps the order of all: what comes first was not sent before in vain.


@pytest.fixture
def here(make_layer: Layers, prefix: str) -> KafkaChannelLayer:
    return make_layer(prefix=prefix, default_partitions=1)


@pytest.fixture
def there(make_layer: Layers, prefix: str) -> KafkaChannelLayer:
    return make_layer(prefix=prefix, default_partitions=1)


def hostile(there: KafkaChannelLayer, channel: str) -> list[str]:
    """Names that mean something elsewhere: servers, channels, topics, users, other texts."""
    server = there.stats().server
    prefix = there.config.prefix
    return [
        *(server, f"specific.{server}", channel, channel + "\n", "*", "", "#", "\0"),
        *(f"{prefix}-send-all", "send-all", "../send-all", f"{prefix}-send-group", "all"),
        *("someone", "room\n", "room,other", "room\0", "room!x", WIDE_ROOM, "ROOM", "room ", "7"),
    ]


async def test_a_groups_name_reaches_that_group_alone(
    here: KafkaChannelLayer, there: KafkaChannelLayer
) -> None:
    channel = await there.new_channel()
    await there.group_add("room", channel)
    await there.user_add("someone", channel)
    await there.user_add("7", channel)
    refused = []
    for name in hostile(there, channel):
        try:
            await here.group_send(name, {"n": name})
        except TypeError:
            refused.append(name)
    await here.group_send("room", {"n": "room"})
    assert await next_message(there, channel) == {"n": "room"}
    assert there.stats().waiting == 0
    assert channel in refused
    assert all(not name.isascii() or set(name) & set("!*#,/\n\0 ") or not name for name in refused)


async def test_a_users_id_reaches_that_user_alone(
    here: KafkaChannelLayer, there: KafkaChannelLayer
) -> None:
    channel = await there.new_channel()
    await there.group_add("room", channel)
    await there.user_add("me", channel)
    for name in {*hostile(there, channel), "room", "me\n", "ME", " me", WIDE_ME}:
        if name and "\0" not in name:
            await here.user_send(name, {"n": name})
    await here.user_send("me", {"n": "me"})
    assert await next_message(there, channel) == {"n": "me"}
    assert there.stats().waiting == 0


async def test_a_channels_name_reaches_that_channel_alone(
    here: KafkaChannelLayer, there: KafkaChannelLayer
) -> None:
    channel, second = await there.new_channel(), await there.new_channel()
    address, _, own = channel.partition("!")
    for name in (f"{address}!", f"{address}!{own[:-1]}", f"other.{address}!{own}", f"{channel}x"):
        await here.send(name, {"n": name})
    await here.send(second, {"n": "second"})
    await here.send(channel, {"n": "first"})
    assert await next_message(there, channel) == {"n": "first"}
    assert await next_message(there, second) == {"n": "second"}
