"""From a record to mailboxes: addresses, age, exclusions, commands, and nothing stops it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from kafka_layer.config.realtime import monotonic
from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.timings import Timings
from kafka_layer.delivery.mailbox import Envelope, Mailbox
from kafka_layer.delivery.registry import Registry
from kafka_layer.exceptions import LayerClosed, UnreadableRecord
from kafka_layer.observe.counters import Stats
from kafka_layer.server.clock import BrokerClock
from kafka_layer.server.expiry import Expiry
from kafka_layer.server.router import Router, channels_by_name
from kafka_layer.wire.codec import Codec
from kafka_layer.wire.encryption import Encryption
from kafka_layer.wire.names import ServerName
from kafka_layer.wire.records import Record
from kafka_layer.wire.topics import Topic
from tests.support.waiting import PATIENCE, wait_until_async

SERVER = ServerName(0, "abcdef01")
STALLED_AFTER = 0.05


class Site:
    """A router and all that it works on."""

    def __init__(self, **config: Any) -> None:
        config = {"bootstrap_servers": "a:1", **config}
        timings = Timings(stalled=STALLED_AFTER)
        self.config = LayerConfig.from_keywords(**config).timed(timings)
        self.registry = Registry(self.config)
        self.codec = Codec("msgpack")
        self.encryption = Encryption(self.config.symmetric_encryption_keys)
        self.stats = Stats()
        self.clock = BrokerClock()
        self.commands: list[tuple[Topic, str, bytes]] = []
        self.expiry = Expiry(self.config.expiry, self.stats, self.clock, self.stats.arrived)
        self.router = Router(self.config, self.registry, self.encryption, self.stats, self.expiry)
        by_name = channels_by_name(
            self.registry, self.stats, lambda channel: channel.startswith("mine.")
        )
        self.router.register(Topic.SEND_CONN, by_name)
        self.router.register(Topic.SEND_GROUP, self.registry.groups.members)
        self.router.register(Topic.SEND_USER, self.registry.users.members)
        self.router.register(
            Topic.SEND_ALL,
            lambda _: self.registry.open_channels(),
            partial(self._note_command, Topic.SEND_ALL),
        )
        self.names: list[str] = []
        self.offsets = itertools.count()

    def _note_command(self, topic: Topic, key: str, payload: bytes, written: float) -> None:
        self.commands.append((topic, key, payload))

    @property
    def waited(self) -> float:
        """The seconds of all waits for channels on which no loop receives."""
        return self.registry.wakeups.nowhere.ran

    def channel(self, *, group: str | None = None, user: str | None = None) -> str:
        name = self.registry.new_channel("specific", SERVER)
        self.names.append(name)  # held, or it would be forgotten
        if group:
            self.registry.change("group_add", group, name)
        if user:
            self.registry.change("user_add", user, name)
        return name

    def deliver(self, topic: Topic, key: str | None, *values: object, **record: Any) -> None:
        self.router.deliver(
            [
                (
                    topic,
                    None if key is None else key.encode(),
                    value
                    if isinstance(value, bytes)
                    else self.encryption.encrypt(topic, key, self.codec.encode({"v": value})),
                    record.get("headers", ()),
                    time.time() - record.get("age", 0.0),
                    0,
                    next(self.offsets),
                )
                for value in values
            ]
        )

    def record(self, topic: Topic, key: str) -> Record:
        return (topic, key.encode(), b"\x81\xa1v\x01", (), time.time(), 0, next(self.offsets))

    def taken(self, channel: str) -> list[object]:
        mailbox = self.registry.mailbox(channel)
        assert mailbox is not None
        values = []
        while (envelope := mailbox.take()) is not None:
            values.append(self.codec.decode(envelope.payload)["v"])
        return values

    def counted(self, name: str) -> int:
        return self.stats.snapshot().get(name, 0)


class Broken(Mailbox):
    """A mailbox with a fault."""

    __slots__ = ()

    def put(self, envelope: Envelope) -> bool:
        raise KeyError("bug")


class TestAddresses:
    @pytest.mark.parametrize("keys", [None, ["secret"]], ids=["plain", "encrypted"])
    def test_each_topic(self, keys: list[str] | None) -> None:
        site = Site(symmetric_encryption_keys=keys)
        member, user, other = (
            site.channel(group="room"),
            site.channel(user="7"),
            site.channel(),
        )
        site.deliver(Topic.SEND_GROUP, "room", 1, 2)
        site.deliver(Topic.SEND_USER, "7", 3)
        site.deliver(Topic.SEND_CONN, other, 4)
        site.deliver(Topic.SEND_ALL, None, 5)
        assert site.taken(member) == [1, 2, 5]
        assert site.taken(user) == [3, 5]
        assert site.taken(other) == [4, 5]
        assert site.counted("delivered") == 7
        assert not site.commands

    @pytest.mark.parametrize("topic", [t for t in Topic if t.value.startswith("send-")])
    def test_a_message_that_waits_is_one_object_to_the_garbage_collector(
        self, topic: Topic
    ) -> None:
        site = Site()
        name = site.channel(group="g", user="u")
        mailbox = site.registry.mailbox(name)
        assert mailbox is not None
        keys = {Topic.SEND_GROUP: "g", Topic.SEND_USER: "u", Topic.SEND_CONN: name}
        site.deliver(topic, keys.get(topic), 1)
        (envelope,) = mailbox.waiting()
        held = [each for each in gc.get_referents(envelope) if each is not topic]
        assert [each for each in held if gc.is_tracked(each)] == [Envelope]
        # Nor does each message to a channel keep the channel's name.
        assert name not in held

    def test_an_envelope_has_what_its_constructor_sets(self) -> None:
        site = Site()
        name = site.channel(group="g")
        mailbox = site.registry.mailbox(name)
        assert mailbox is not None
        record = site.record(Topic.SEND_GROUP, "g")
        site.router.deliver([record])
        (envelope,) = mailbox.waiting()
        topic, _, value, _, timestamp, partition, offset = record
        place = topic, partition, offset, timestamp
        made = Envelope(value or b"", envelope.deadline, *place, "g")
        slots = [each for each in Envelope.__slots__ if each != "trace"]
        assert [getattr(envelope, each) for each in slots] == [
            getattr(made, each) for each in slots
        ]
        assert envelope.place == made.place == place
        made = Envelope(value or b"", envelope.deadline)
        assert made.place is None
        made.place = place
        assert made.place == place

    def test_nobody_is_addressed(self) -> None:
        site = Site()
        channel = site.channel(group="room")
        for topic in (Topic.SEND_GROUP, Topic.SEND_USER, Topic.SEND_CONN):
            for key in ("nobody", "", None):
                site.deliver(topic, key, 1, b"\xc1 garbage is not even opened")
        assert site.taken(channel) == []
        assert site.stats.snapshot() == {}

    def test_exclusions(self) -> None:
        site = Site()
        first, second = site.channel(group="room"), site.channel(group="room")
        site.deliver(Topic.SEND_GROUP, "room", 1, headers=[("exclude", f"x!y,{first}".encode())])
        site.deliver(Topic.SEND_GROUP, "room", 2, headers=[("trace", None)])
        assert site.taken(first) == [2]
        assert site.taken(second) == [1, 2]

    def test_commands(self) -> None:
        site = Site(symmetric_encryption_keys=["secret"])
        channel = site.channel()
        site.deliver(Topic.SEND_ALL, None, 3, headers=[("command", b"flush")])
        opened = [(topic, key, site.codec.decode(payload)) for topic, key, payload in site.commands]
        assert opened == [(Topic.SEND_ALL, "", {"v": 3})]
        assert site.taken(channel) == []


class TestAge:
    def test_what_is_older_than_expiry_is_dropped(self) -> None:
        site = Site(expiry=100)
        first, second = site.channel(group="room"), site.channel(group="room")
        site.deliver(Topic.SEND_GROUP, "room", "late", age=101)
        site.deliver(Topic.SEND_GROUP, "room", "in time", age=50)
        assert site.taken(first) == site.taken(second) == ["in time"]
        assert site.counted("dropped.expired") == 2

    def test_the_deadline_counts_from_the_brokers_timestamp(self) -> None:
        site = Site(expiry=100)
        channel = site.channel(group="room")
        before = time.monotonic()
        site.deliver(Topic.SEND_GROUP, "room", 1, age=50)
        site.deliver(Topic.SEND_GROUP, "room", 1, age=-5)  # from the future: a clock that differs
        mailbox = site.registry.mailbox(channel)
        assert mailbox is not None
        after = time.monotonic()
        for expected in (50, 100):
            envelope = mailbox.take()
            assert envelope is not None
            assert before - 0.2 <= envelope.deadline - expected <= after + 0.2

    def test_the_brokers_clock_decides(self) -> None:
        site = Site(expiry=100)
        channel = site.channel(group="room")
        now = monotonic()
        site.clock.observe(time.time() - 100, now, now)  # the broker is 100 s behind this machine
        site.deliver(Topic.SEND_GROUP, "room", 1, age=150)
        site.deliver(Topic.SEND_GROUP, "room", 2, age=250)
        assert site.taken(channel) == [1]

    def test_what_was_written_before_a_flush_is_dropped(self) -> None:
        site = Site(expiry=3600)
        channel = site.channel(group="room")
        site.expiry.forget_until(time.time() - 500)
        site.expiry.forget_until(time.time() - 5000)  # an older one does not take it back
        site.deliver(Topic.SEND_GROUP, "room", "before", age=600)
        site.deliver(Topic.SEND_GROUP, "room", "after", age=400)
        assert site.taken(channel) == ["after"]
        assert site.counted("dropped.flushed") == 1


class TestNothingStopsIt:
    def test_what_cannot_be_opened_is_counted_and_skipped(self) -> None:
        site = Site(symmetric_encryption_keys=["secret"])
        channel = site.channel(group="room")
        foreign = Encryption([b"other"]).encrypt(Topic.SEND_GROUP, "room", b"\x80")
        moved = site.encryption.encrypt(Topic.SEND_GROUP, "elsewhere", b"\x80")
        site.deliver(Topic.SEND_GROUP, "room", b"\x80", foreign, moved, b"", 1)
        assert site.taken(channel) == [1]
        assert site.counted("dropped.decrypt") == 3
        assert site.counted("dropped.undecodable") == 1

    def test_a_key_that_is_not_utf8(self) -> None:
        site = Site()
        channel = site.channel(group="room")
        bad = (Topic.SEND_GROUP, b"\xff", b"\x80", (), time.time(), 0, 0)
        good = (Topic.SEND_GROUP, b"room", b"\x81\xa1v\x01", (), time.time(), 0, 0)
        site.router.deliver([bad, good])
        assert site.taken(channel) == [1]
        assert site.counted("dropped.undecodable") == 1

    @pytest.mark.parametrize("error", [UnreadableRecord("undecodable", "x"), KeyError("bug")])
    def test_a_command_that_fails(self, error: Exception) -> None:
        site = Site()
        channel = site.channel(group="room")

        def fail(key: str, payload: bytes, written: float) -> None:
            raise error

        site.router.register(Topic.SEND_ALL, lambda _: [], fail)
        site.deliver(Topic.SEND_ALL, None, 1, headers=[("command", b"flush")])
        site.deliver(Topic.SEND_GROUP, "room", 1)
        assert site.taken(channel) == [1]
        known = isinstance(error, UnreadableRecord)
        assert site.counted("dropped.undecodable" if known else "errors.routing") == 1

    def test_what_ends_the_thread_costs_none_of_the_records_before(self) -> None:
        """As an interpreter that goes away does; an error of a record is counted and skipped."""
        site = Site()
        channel = site.channel(group="room")

        def end(key: str) -> list[Mailbox]:
            raise SystemExit

        site.router.register(Topic.SEND_USER, end)

        async def receive() -> None:
            mailbox = site.registry.mailbox(channel)
            assert mailbox is not None
            waiting = asyncio.create_task(mailbox.wait())
            await wait_until_async(lambda: mailbox.receiving, "the receive to wait")
            with contextlib.suppress(SystemExit):
                site.router.deliver(
                    [site.record(Topic.SEND_GROUP, "room"), site.record(Topic.SEND_USER, "7")]
                )
            await asyncio.wait_for(waiting, PATIENCE)

        asyncio.run(receive())
        assert site.counted("delivered") == 1

    def test_a_record_that_fails_for_one_member_is_counted_for_those_before(self) -> None:
        site = Site()
        first = site.channel(group="room")
        broken = Broken("mine.0-a!broken", 10, site.registry.wakeups)
        site.router.register(
            Topic.SEND_USER, lambda _: [*site.registry.groups.members("room"), broken]
        )
        site.deliver(Topic.SEND_USER, "7", 1)
        assert site.taken(first) == [1]
        assert site.counted("delivered") == 1
        assert site.counted("errors.routing") == 1


class TestRegister:
    def test_a_topic_decides_itself_what_its_keys_mean(self) -> None:
        site = Site()
        first, second = site.channel(), site.channel()
        mailboxes = [site.registry.open_mailbox(name) for name in (first, second)]
        site.router.register(Topic.SEND_GROUP, lambda key: [mailboxes[int(key)]])
        site.deliver(Topic.SEND_GROUP, "0", "a")
        site.deliver(Topic.SEND_GROUP, "1", "b")
        assert site.taken(first) == ["a"]
        assert site.taken(second) == ["b"]


class ClosesMeanwhile(Mailbox):
    """A mailbox that another thread closes while a record waits for room in it."""

    __slots__ = ()

    def drop_expired(self) -> int:
        self.close(LayerClosed("closed"))
        return 0


class TestCounts:
    def test_a_channel_that_an_expired_message_leaves_out_has_lost_nothing(self) -> None:
        site = Site()
        first, _ = site.channel(group="room"), site.channel(group="room")
        headers = [("exclude", first.encode())]
        site.deliver(Topic.SEND_GROUP, "room", 1, headers=headers, age=site.config.expiry + 1)
        assert site.counted("dropped.expired") == 1

    def test_a_channel_that_is_closed_while_a_message_waits_for_it_was_not_full(self) -> None:
        site = Site()
        mailbox = ClosesMeanwhile(site.channel(), 1, site.registry.wakeups)
        site.router.register(Topic.SEND_GROUP, lambda _: [mailbox])
        site.deliver(Topic.SEND_GROUP, "room", 1, 2)
        assert site.counted("delivered") == 1
        assert site.counted("dropped.closed") == 1
        assert site.counted("dropped.full") == 0


class TestBackPressure:
    def test_one_that_stands_still_drops_alone(self) -> None:
        site = Site(capacity=4)
        still, free = site.channel(group="room"), site.channel(group="room")
        received = []
        for number in range(10):
            site.deliver(Topic.SEND_GROUP, "room", number)
            received += site.taken(free)
        assert received == list(range(10))
        assert site.taken(still) == list(range(4))
        assert site.counted("dropped.full") == 6
        assert site.waited < STALLED_AFTER * 4

    def test_what_waited_behind_a_full_channel_is_as_old_as_it_is(self) -> None:
        site = Site(capacity=4)
        site.channel(group="room")
        site.deliver(Topic.SEND_GROUP, "room", *range(6))
        assert site.counted("dropped.full") == 2
        oldest = site.stats.percentile(1.0)
        assert oldest is not None
        assert oldest >= STALLED_AFTER * 0.9

    @pytest.mark.parametrize("shared", [True, False], ids=["one group", "a group each"])
    def test_many_that_stand_still_cost_no_more_time_than_one(self, shared: bool) -> None:
        site = Site(capacity=4)
        for number in range(30):
            site.channel(group="room" if shared else f"room-{number}")
        for number in range(6):
            for group in ["room"] if shared else [f"room-{n}" for n in range(30)]:
                site.deliver(Topic.SEND_GROUP, group, number)
        assert site.counted("dropped.full") == 60
        assert site.waited < STALLED_AFTER * 8

    def test_messages_that_expired_make_room(self, later: Callable[[float], None]) -> None:
        site = Site(capacity=3)
        channel = site.channel(group="room")
        site.deliver(Topic.SEND_GROUP, "room", *range(3))
        later(site.config.expiry + 1)
        site.deliver(Topic.SEND_GROUP, "room", "fresh")
        assert site.taken(channel) == ["fresh"]
        assert site.counted("dropped.expired") == 3
        assert site.counted("dropped.full") == 0

    def test_nobody_waits_for_a_channel_whose_name_is_gone(self) -> None:
        site = Site(capacity=4)
        site.channel(group="room")
        site.names.clear()
        for number in range(10):
            site.deliver(Topic.SEND_GROUP, "room", number)
        assert site.waited < STALLED_AFTER / 2
        assert site.counted("dropped.closed") == 6
