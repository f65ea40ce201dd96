"""Encryption on a running system: changed keys, and what an attacker who can write may try."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from cryptography.fernet import Fernet

from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.messages import Position
from kafka_layer.wire.encryption import CLOCK_ERROR
from kafka_layer.wire.topics import WorkTopic
from tests.support.inspect import server_of
from tests.support.layers import Layers, next_message, next_messages, stats_of
from tests.support.records import consume
from tests.support.secure import SecureBroker
from tests.support.waiting import PATIENCE, wait_until_async

KEY, OTHER_KEY = "the old key", "the new key"
OLD, READS_NEW, WRITES_NEW, NEW = [KEY], [KEY, OTHER_KEY], [OTHER_KEY, KEY], [OTHER_KEY]
EACH = 20


class Site:
    """Two servers, each with a member of one group, and a worker channel."""

    def __init__(self, make_layer: Layers, jobs: str) -> None:
        self._make_layer = make_layer
        self._jobs = jobs
        self._turn = 0
        self.servers: list[KafkaChannelLayer] = []
        self.channels: list[str] = []

    async def restart(self, number: int, keys: list[str]) -> None:
        """Start a server, in place of the one with this number, with other settings."""
        layer = self._make_layer(symmetric_encryption_keys=keys)
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        if number < len(self.servers):
            self._require_no_loss(self.servers[number])
            await self.servers[number].close()
            self.servers[number], self.channels[number] = layer, channel
        else:
            self.servers.append(layer)
            self.channels.append(channel)

    async def talk(self) -> None:
        """Send from each server, in each way, and require that all of it arrives in order."""
        self._turn += 1
        for sender, layer in enumerate(self.servers):
            for n in range(EACH):
                await layer.group_send("room", {"turn": self._turn, "from": sender, "n": n})
        for layer, channel in zip(self.servers, self.channels, strict=True):
            got = await next_messages(layer, channel, EACH * len(self.servers))
            for sender in range(len(self.servers)):
                mine = [each["n"] for each in got if each["from"] == sender]
                assert mine == list(range(EACH))
            assert {each["turn"] for each in got} == {self._turn}
        # A command to the other server and its answer, and a job from here for there.
        here, there = self.servers
        await here.group_add("aside", self.channels[1])
        await there.group_discard("aside", self.channels[1])
        await here.send(self._jobs, {"turn": self._turn})
        assert await next_message(there, self._jobs) == {"turn": self._turn}

    def end(self) -> None:
        for layer in self.servers:
            self._require_no_loss(layer)

    def _require_no_loss(self, layer: KafkaChannelLayer) -> None:
        assert not layer.stats().dropped
        assert not layer.stats().failed


class TestRotation:
    async def test_no_message_is_lost_at_any_step(self, make_layer: Layers, prefix: str) -> None:
        site = Site(make_layer, prefix)
        await site.restart(0, OLD)
        await site.restart(1, OLD)
        await site.talk()
        for keys in (READS_NEW, WRITES_NEW, NEW):
            for number in (0, 1):
                await site.restart(number, keys)
                await site.talk()
        site.end()

    async def test_a_job_waits_over_a_step(self, make_layer: Layers, prefix: str) -> None:
        before = make_layer(symmetric_encryption_keys=READS_NEW, await_produce=True)
        await before.send(prefix, {"n": 1})
        after = make_layer(symmetric_encryption_keys=WRITES_NEW)
        assert await next_message(after, prefix) == {"n": 1}

    async def test_a_step_that_is_left_out_loses_messages_and_counts_them(
        self, make_layer: Layers
    ) -> None:
        behind = make_layer(symmetric_encryption_keys=OLD)
        hasty = make_layer(symmetric_encryption_keys=WRITES_NEW)
        channel = await behind.new_channel()
        await behind.group_add("room", channel)
        await hasty.group_send("room", {"n": 1})
        await wait_until_async(lambda: stats_of(behind)["dropped.decrypt"] == 1, "the drop")
        await behind.group_send("room", {"n": 2})
        assert await next_message(behind, channel) == {"n": 2}


class Attacker:
    """Somebody who may read and write the topics, and has no key."""

    def __init__(self, servers: str, prefix: str) -> None:
        self._servers = servers
        self._prefix = prefix

    def read(self, topic: str, partition: int, offset: int) -> Message:
        """Return a record."""
        name = f"{self._prefix}-{topic}"
        return consume(self._servers, name, 1, partition, first=offset)[0]

    def read_all(self, topic: str, partition: int) -> list[Message]:
        """Return all records of a partition."""
        name = f"{self._prefix}-{topic}"
        looker = Consumer({"bootstrap.servers": self._servers, "group.id": "attacker"})
        _, end = looker.get_watermark_offsets(TopicPartition(name, partition), PATIENCE)
        looker.close()
        return consume(self._servers, name, end, partition)

    def write(
        self, topic: str, key: bytes | None, value: bytes, partition: int, **more: Any
    ) -> None:
        """Write a record, and return once it is written."""
        failed: list[object] = []
        producer = Producer({"bootstrap.servers": self._servers})
        producer.produce(
            f"{self._prefix}-{topic}",
            value,
            key,
            partition,
            on_delivery=lambda error, _: failed.append(error) if error else None,
            **more,
        )
        assert producer.flush(PATIENCE) == 0
        assert not failed


@pytest.fixture
def attacker(secure: SecureBroker, make_layer: Layers) -> Attacker:
    return Attacker(secure.plain["bootstrap_servers"], make_layer.prefix)


@pytest.fixture
def layer(make_layer: Layers) -> KafkaChannelLayer:
    return make_layer(symmetric_encryption_keys=[KEY], await_produce=True)


@pytest.fixture
def other(make_layer: Layers) -> KafkaChannelLayer:
    return make_layer(symmetric_encryption_keys=[KEY], await_produce=True)


def fernet(key: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()))


def flipped(token: bytes) -> bytes:
    raw = bytearray(base64.urlsafe_b64decode(token))
    raw[len(raw) // 2] ^= 1
    return base64.urlsafe_b64encode(raw)


def in_other_base64(token: bytes) -> bytes:
    return token[:60] + b"\n" + token[60:]


class TestForgeries:
    """What arrives is refused and counted, and the next right message arrives."""

    @pytest.fixture
    async def channel(self, layer: KafkaChannelLayer) -> str:
        """A channel of the group and of the user that both are called like ``room``."""
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_add("other-room", channel)
        await layer.user_add("room", channel)
        return channel

    @pytest.fixture
    async def record(
        self, layer: KafkaChannelLayer, channel: str, attacker: Attacker
    ) -> tuple[Position, bytes]:
        """A group message that was received, and its token."""
        position = await layer.group_send("room", {"n": 1})
        assert position is not None
        assert await next_message(layer, channel) == {"n": 1}
        token = attacker.read("send-group", position.partition, position.offset).value()
        assert token is not None
        return position, token

    @pytest.mark.parametrize(
        ("topic", "key", "change", "cause"),
        [
            ("send-group", b"room", bytes, "replayed"),
            ("send-group", b"room", in_other_base64, "replayed"),
            ("send-group", b"room", flipped, "decrypt"),
            ("send-group", b"room", lambda token: token[:-8], "decrypt"),
            ("send-group", b"other-room", bytes, "decrypt"),
            ("send-user", b"room", bytes, "decrypt"),
            ("send-all", None, bytes, "decrypt"),
            ("send-group", b"room", lambda token: b'{"n":2}', "decrypt"),
            (
                *("send-group", b"room"),
                lambda token: fernet("a guess").encrypt(b'send-group\0room\0{"n":2}'),
                "decrypt",
            ),
        ],
        ids=[
            *("the same again", "the same in other base64", "a bit changed", "cut off"),
            *("another group", "a user", "everybody", "not encrypted", "another key"),
        ],
    )
    async def test_it_reaches_nobody(
        self,
        layer: KafkaChannelLayer,
        channel: str,
        record: tuple[Position, bytes],
        attacker: Attacker,
        topic: str,
        key: bytes | None,
        change: Callable[[bytes], bytes],
        cause: str,
    ) -> None:
        position, token = record
        attacker.write(topic, key, change(token), position.partition)
        await wait_until_async(lambda: layer.stats().dropped, "the forgery to be counted")
        assert layer.stats().dropped == {cause: 1}
        await layer.group_send("room", {"n": 3})
        assert await next_message(layer, channel) == {"n": 3}

    async def test_one_to_a_channel(
        self,
        layer: KafkaChannelLayer,
        other: KafkaChannelLayer,
        channel: str,
        attacker: Attacker,
    ) -> None:
        second = await layer.new_channel()
        position = await other.send(channel, {"n": 1})
        assert position is not None
        assert await next_message(layer, channel) == {"n": 1}
        token = attacker.read("send-conn", position.partition, position.offset).value() or b""
        for key in (channel, second):
            attacker.write("send-conn", key.encode(), token, position.partition)
        await wait_until_async(lambda: len(layer.stats().dropped) == 2, "both to be counted")
        assert layer.stats().dropped == {"replayed": 1, "decrypt": 1}
        await other.send(second, {"n": 2})
        assert await next_message(layer, second) == {"n": 2}

    async def test_a_command_that_was_taken_back(
        self,
        layer: KafkaChannelLayer,
        other: KafkaChannelLayer,
        channel: str,
        attacker: Attacker,
    ) -> None:
        await other.group_add("secrets", channel)
        await other.group_discard("secrets", channel)
        inbox = server_of(layer).identity.name.partition
        mine = layer.stats().server.encode()
        records = attacker.read_all("group-mgmt", inbox)
        commands = [each for each in records if each.key() == mine]
        assert len(commands) == 2
        attacker.write("group-mgmt", mine, commands[0].value() or b"", inbox)
        await wait_until_async(lambda: layer.stats().dropped, "the copy to be counted")
        assert layer.stats().dropped == {"replayed": 1}
        assert not server_of(layer).registry.groups.members("secrets")

    async def test_an_old_one_that_this_server_never_saw(
        self, layer: KafkaChannelLayer, channel: str, attacker: Attacker
    ) -> None:
        position = await layer.group_send("elsewhere", {"n": 0})
        assert position is not None
        too_old = int(time.time() - layer.config.expiry - CLOCK_ERROR - 5)
        token = fernet(KEY).encrypt_at_time(b'send-group\0elsewhere\0{"n":1}', too_old)
        await layer.group_add("elsewhere", channel)
        attacker.write("send-group", b"elsewhere", token, position.partition)
        await wait_until_async(lambda: layer.stats().dropped, "it to be counted")
        assert layer.stats().dropped == {"replayed": 1}

    async def test_a_job_again(
        self, layer: KafkaChannelLayer, prefix: str, attacker: Attacker
    ) -> None:
        position = await layer.send(prefix, {"n": 1})
        assert position is not None
        assert await next_message(layer, prefix) == {"n": 1}
        work = WorkTopic(prefix).value
        token = attacker.read(work, position.partition, position.offset).value() or b""
        waiting = asyncio.create_task(next_message(layer, prefix))
        attacker.write(work, None, token, position.partition)
        await wait_until_async(lambda: layer.stats().dropped, "the copy to be counted")
        assert layer.stats().dropped == {"replayed": 1}
        await layer.send(prefix, {"n": 2})
        assert await waiting == {"n": 2}


class TestWhatItDoesNotPrevent:
    """The limits that the page names; a change here belongs there, too."""

    async def test_names_stay_readable(self, layer: KafkaChannelLayer, attacker: Attacker) -> None:
        position = await layer.group_send("room", {"n": 1}, exclude=["specific.1-a!b"])
        assert position is not None
        record = attacker.read("send-group", position.partition, position.offset)
        assert record.key() == b"room"
        assert record.headers() == [("exclude", b"specific.1-a!b")]

    async def test_a_copy_of_what_a_server_did_not_open(
        self, layer: KafkaChannelLayer, attacker: Attacker, prefix: str
    ) -> None:
        position = await layer.group_send(prefix, {"n": "before it joined"})
        assert position is not None
        token = attacker.read("send-group", position.partition, position.offset).value() or b""
        channel = await layer.new_channel()
        await layer.group_add(prefix, channel)
        for _ in range(2):
            attacker.write("send-group", prefix.encode(), token, position.partition)
        assert await next_message(layer, channel) == {"n": "before it joined"}
        await wait_until_async(lambda: layer.stats().dropped, "the second copy to be counted")
        assert layer.stats().dropped == {"replayed": 1}

    async def test_a_copy_of_a_job_for_another_worker(
        self, layer: KafkaChannelLayer, other: KafkaChannelLayer, attacker: Attacker, prefix: str
    ) -> None:
        position = await layer.send(prefix, {"n": 1})
        assert position is not None
        assert await next_message(layer, prefix) == {"n": 1}
        await layer.close()
        work = WorkTopic(prefix).value
        token = attacker.read(work, position.partition, position.offset).value() or b""
        attacker.write(work, None, token, position.partition)
        assert await next_message(other, prefix) == {"n": 1}
