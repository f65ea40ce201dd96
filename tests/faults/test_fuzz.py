"""Arbitrary bytes into the decoder and the router: each record is delivered, skipped or counted."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import ormsgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kafka_layer.config.settings import LayerConfig
from kafka_layer.delivery.mailbox import Mailbox
from kafka_layer.exceptions import UnreadableRecord
from kafka_layer.server.server import Server
from kafka_layer.wire.codec import Codec
from kafka_layer.wire.encryption import Encryption
from kafka_layer.wire.names import ServerName
from kafka_layer.wire.records import ProducerRecord, Record
from kafka_layer.wire.topics import CONTROL_TOPICS, Topic

KEYS = (b"secret",)
SERVER = ServerName.new(0)
CHANNEL = f"specific.{SERVER}!aaaaaaaaaaaaaaaa"
GROUP = "room"

fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
values = st.recursive(
    scalars | st.binary(),
    lambda each: st.lists(each) | st.dictionaries(st.text() | st.integers(0, 9), each),
    max_leaves=10,
)
names = st.sampled_from(
    ["command", "name", "channel", "reply_to", "id", "within", "error", "server"]
)
commands = st.sampled_from(["group_add", "group_discard", "user_add", "flush", "who", "hello", "x"])
forged = st.dictionaries(
    names,
    commands | st.sampled_from([str(SERVER), CHANNEL, GROUP, "0-x", "99999999-zz", ""]) | values,
)


def packed(value: object) -> bytes:
    return ormsgpack.packb(value, option=ormsgpack.OPT_NON_STR_KEYS)


def cut(payload: bytes, at: int) -> bytes:
    return payload[: at % (len(payload) + 1)]


def flipped(payload: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(payload or b"\0")
    changed[at % len(changed)] ^= 1 << bit
    return bytes(changed)


maps = st.builds(packed, forged | values)
jsons = st.builds(lambda value: json.dumps(value, default=repr).encode(), forged | values)
tokens = st.builds(
    lambda topic, key, payload: Encryption(KEYS).encrypt(topic, key, payload),
    st.sampled_from(Topic),
    st.sampled_from([None, GROUP, CHANNEL, str(SERVER)]),
    maps,
)
whole = st.binary() | maps | jsons | tokens
numbers = st.integers(0, 2000)
payloads = (
    whole
    | st.builds(cut, whole, numbers)
    | st.builds(flipped, whole, numbers, st.integers(0, 7))
    | st.builds(lambda payload, at: payload + b"\xc1" * at, whole, st.integers(1, 9))
)
keys = (
    st.none()
    | st.sampled_from([GROUP, CHANNEL, str(SERVER), "7", ""]).map(str.encode)
    | st.binary()
)
headers = st.lists(
    st.tuples(
        st.sampled_from(["exclude", "command", "traceparent", "", "x" * 99]) | st.text(),
        st.none() | st.binary() | st.sampled_from([CHANNEL.encode(), b"flush", b"who", b",,"]),
    ),
    max_size=4,
)
timestamps = st.one_of(
    st.just(0.0),
    st.floats(-100, 100).map(lambda offset: time.time() + offset),
    st.sampled_from([-0.001, 1e12, float(2**53), -1e12]),
)
places = st.tuples(st.integers(0, 99), st.integers(0, 2**62))
records = st.builds(
    lambda record, place: record + place,
    st.tuples(st.sampled_from(Topic), keys, st.none() | payloads, headers, timestamps),
    places,
)


class Outbox:
    """A transport that keeps what is written, for what a server does before it is opened."""

    def __init__(self) -> None:
        self.written: list[ProducerRecord] = []

    def produce(self, record: ProducerRecord, *rest: Any) -> None:
        self.written.append(record)

    def partitions(self, topic: Topic) -> int:
        return 3

    def check(self) -> None:
        pass


class Receiver:
    """A server that was not started, with one channel; records are handed to it by hand.

    Attributes:
        answers: What its commands would write.
    """

    def __init__(self, encrypted: bool) -> None:
        config = LayerConfig.from_keywords(
            bootstrap_servers="localhost:9092",
            capacity=100_000,
            **({"symmetric_encryption_keys": ["secret"]} if encrypted else {}),
        )
        self.codec = Codec("msgpack")
        self.encryption = Encryption(config.symmetric_encryption_keys)
        outbox: Any = Outbox()
        self.answers = outbox.written
        self.server = Server(config, self.codec, self.encryption, lambda stats: outbox)
        self.server.identity.name = SERVER
        self.server.sender.is_open = True
        self.registry = self.server.registry
        self.mailbox: Mailbox = self.registry.open_mailbox(CHANNEL)
        for change, name in (("group_add", GROUP), ("user_add", "7")):
            self.registry.change(change, name, CHANNEL)

    def deliver(self, batch: Sequence[Record]) -> None:
        """Hand records over, as the two readers of a server do."""
        self.server.commands.deliver([each for each in batch if each[0] in CONTROL_TOPICS])
        self.server.router.deliver([each for each in batch if each[0] not in CONTROL_TOPICS])

    def counts(self) -> Counter[str]:
        return Counter(self.server.stats.snapshot())

    def sealed(self, n: int, ahead: float = 60) -> Record:
        payload = self.codec.encode({"n": n})
        value = self.encryption.encrypt(Topic.SEND_CONN, CHANNEL, payload)
        return Topic.SEND_CONN, CHANNEL.encode(), value, (), time.time() + ahead, 0, n


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def receiver(request: pytest.FixtureRequest) -> Callable[[], Receiver]:
    return lambda: Receiver(request.param)


@fuzz
@given(st.sampled_from(Topic), st.none() | st.text(), payloads)
def test_the_codec_returns_a_dict_or_says_why_not(
    topic: Topic, key: str | None, value: bytes
) -> None:
    for encryption in (Encryption(), Encryption(KEYS)):
        try:
            assert type(Codec("msgpack").decode(encryption.decrypt(topic, key, value))) is dict
        except UnreadableRecord as error:
            assert error.cause in ("undecodable", "decrypt")  # noqa: PT017 (or it is a dict)


@fuzz
@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary(),
            lambda each: st.lists(each) | st.dictionaries(st.text(), each),
            max_leaves=10,
        ),
    ),
    st.sampled_from(Topic),
    st.none() | st.text(min_size=1).filter(lambda key: "\0" not in key),
)
def test_what_was_sealed_opens_as_it_was(
    message: dict[str, Any], topic: Topic, key: str | None
) -> None:
    codec = Codec("msgpack")
    for encryption in (Encryption(), Encryption(KEYS)):
        value = encryption.encrypt(topic, key, codec.encode(message))
        assert codec.decode(encryption.decrypt(topic, key, value)) == message


@fuzz
@given(st.lists(records, max_size=5))
def test_the_router_goes_on_after_any_record(
    receiver: Callable[[], Receiver], batch: list[Record]
) -> None:
    here = receiver()
    here.deliver(batch)
    counts = here.counts()
    assert not counts["errors.routing"], counts
    waiting = len(here.mailbox)
    # Some of these may be allowed to drop what came before them, so a channel may be empty.
    assert counts["delivered"] >= waiting
    if not counts["dropped.flushed"]:
        assert counts["delivered"] == waiting
    here.registry.open_mailbox(CHANNEL)
    for each in range(3):
        here.deliver([here.sealed(each)])
    assert here.counts()["delivered"] == counts["delivered"] + 3


@fuzz
@given(st.lists(records, max_size=8))
def test_every_record_for_a_channel_is_delivered_or_counted(
    receiver: Callable[[], Receiver], batch: list[Record]
) -> None:
    here = receiver()
    addressed = [
        (Topic.SEND_GROUP, GROUP.encode(), value, (), timestamp, partition, offset)
        for _, _, value, _, timestamp, partition, offset in batch
    ]
    here.deliver(addressed)
    counts = here.counts()
    causes = ("undecodable", "decrypt", "replayed", "expired")
    seen = counts["delivered"] + sum(counts[f"dropped.{cause}"] for cause in causes)
    assert seen == len(addressed), counts
    assert len(here.mailbox) == counts["delivered"]


@fuzz
@given(
    st.lists(st.builds(packed, forged), min_size=1, max_size=5),
    st.sampled_from([Topic.GROUP_MGMT, Topic.ACK, Topic.SEND_ALL]),
)
def test_forged_commands_without_the_key_do_nothing(values: list[bytes], topic: Topic) -> None:
    here = Receiver(encrypted=True)
    before = len(here.registry.groups), len(here.registry.users)
    batch: list[Record] = [
        (topic, str(SERVER).encode(), value, [("command", b"flush")], time.time(), 0, offset)
        for offset, value in enumerate(values)
    ]
    here.deliver(batch)
    assert here.counts()["dropped.decrypt"] == len(batch)
    assert not here.answers
    assert (len(here.registry.groups), len(here.registry.users)) == before
    here.deliver([here.sealed(1)])
    assert len(here.mailbox) == 1


def test_a_forged_flush_from_the_future_does_not_mute_a_server() -> None:
    here = Receiver(encrypted=False)
    value = packed({"command": "flush", "server": "0-other"})
    ahead = time.time() + 3600
    here.deliver([(Topic.SEND_ALL, None, value, [("command", b"flush")], ahead, 0, 0)])
    here.registry.open_mailbox(CHANNEL)
    here.deliver([here.sealed(1, ahead=2)])
    assert here.counts()["delivered"] == 1
