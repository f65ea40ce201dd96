"""A stream on a server: from a record to mailboxes, and what starts, stops and holds it up."""

from __future__ import annotations

import asyncio
import datetime
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import pytest

from kafka_layer.config.realtime import monotonic
from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.timings import Timings
from kafka_layer.delivery.registry import Registry
from kafka_layer.delivery.tickets import Ticket
from kafka_layer.exceptions import RegistryAway, UnreadableRecord
from kafka_layer.observe.counters import Stats
from kafka_layer.recovery.stream_log import StreamLog
from kafka_layer.server.clock import BrokerClock
from kafka_layer.server.expiry import Expiry
from kafka_layer.streams import group_name
from kafka_layer.streams.payload import StreamPayload
from kafka_layer.streams.record import StreamRecord
from kafka_layer.streams.stream import Stream
from kafka_layer.transport import (
    BatchFacts,
    OnEpoch,
    OnStreamPositions,
    ReadFrom,
    StreamFacts,
    StreamStart,
)
from kafka_layer.wire.names import ServerName
from kafka_layer.wire.records import Record
from kafka_layer.wire.topics import StreamTopic, Topic, Where
from tests.support.registry import running_registry
from tests.support.waiting import PATIENCE, wait_until

TOPIC = StreamTopic("orders", "shop.orders")
SERVER = ServerName(0, "abcdef01")


class Source:
    """What a stream reads, as far as a stream can tell."""

    def __init__(self) -> None:
        self.key: Callable[[Any], bytes | None] = itemgetter(1)
        self.value: Callable[[Any], bytes | None] = itemgetter(2)
        self.calls: list[object] = []
        self.left: list[int] = []
        self.waits = 0
        self.begun: Ticket[None] = Ticket.resolved(None)
        self.on_wait: Callable[[], bool] = lambda: True

    def record(self, message: Any) -> Record:
        record: Record = message
        return record

    def where(self, message: Any) -> tuple[StreamTopic, int]:
        return message[0], message[5]

    def offset(self, message: Any) -> int:
        offset: int = message[6]
        return offset

    def facts_of(self, messages: Sequence[Any]) -> BatchFacts:
        return BatchFacts({self.where(each): each[6] + 1 for each in messages}, 0)

    def begin(self, start: StreamStart) -> Ticket[None]:
        self.calls.append(("begin", start))
        return self.begun

    def read(self, on: bool) -> Ticket[None]:
        self.calls.append(("read", on))
        return Ticket.resolved(None)

    def seek(self, start: StreamStart) -> Ticket[None]:
        self.calls.append(("seek", start))
        return Ticket.resolved(None)

    def follow(self, listener: OnStreamPositions, on_epoch: OnEpoch) -> None:
        self.listener = listener

    def leave(self, messages: Sequence[Any]) -> None:
        self.left = [record[6] for record in messages]

    def wait(self, seconds: float) -> bool:
        self.waits += 1
        return self.on_wait()

    def facts(self) -> StreamFacts:
        return StreamFacts((TOPIC.name,), 3, 0, "")

    def stop(self) -> None:
        self.calls.append("stop")

    def join(self, timeout: float) -> None: ...


class Site:
    """A stream, and the channels of its server."""

    def __init__(self, timings: Timings | None = None, **settings: Any) -> None:
        config = LayerConfig.from_keywords(
            bootstrap_servers="a:1",
            capacity=4,
            streams={"orders": {"topic": TOPIC.name, "type": "order.changed", **settings}},
        )
        self.config = replace(config, timings=timings or Timings())
        self.registry = Registry(self.config)
        self.stats = Stats()
        self.expiry = Expiry(self.config.expiry, self.stats, BrokerClock())
        self.source = Source()
        self.opened = 0
        self.stream = Stream(
            self.config.streams["orders"],
            self.config,
            self.registry,
            self.expiry,
            self.stats,
            self,
        )
        self.names: list[str] = []
        self.offsets = itertools.count()

    def open_stream(self, settings: Any, sink: Any, stats: Stats) -> Source:
        self.opened += 1
        return self.source

    def channel(self, *groups: str, user: str = "") -> str:
        name = self.registry.new_channel("specific", SERVER)
        self.names.append(name)
        for group in groups:
            self.registry.change("group_add", group, name)
        if user:
            self.registry.change("user_add", user, name)
        return name

    def awake(self) -> Site:
        self.stream.wake()
        return self

    def record(
        self, value: bytes | None = b'{"n": 1}', key: bytes | None = b"7", **headers: bytes
    ) -> Any:
        offset = next(self.offsets)
        return TOPIC, key, value, tuple(headers.items()), 1000.0, 0, offset

    def taken(self, channel: str) -> list[dict[str, Any]]:
        mailbox = self.registry.mailbox(channel)
        assert mailbox is not None
        found = []
        while (envelope := mailbox.take()) is not None:
            payload = envelope.payload
            assert not isinstance(payload, bytes)
            found.append(payload if isinstance(payload, dict) else payload.open())
        return found

    @property
    def told(self) -> dict[str, Any]:
        return self.stream.describe()


class Counting:
    """A codec that counts what it decodes, and fails as it is told."""

    def __init__(self) -> None:
        self.decoded = 0
        self.error: Exception | None = None

    def decode(self, data: bytes) -> list[bytes]:
        self.decoded += 1
        if self.error is not None:
            raise self.error
        return [data]


class TestDelivery:
    def test_members_get_the_decoded_record(self) -> None:
        site = Site(group="order-{key}").awake()
        member, other = site.channel("order-7"), site.channel("order-8")
        site.stream.deliver([site.record(b'{"a": [1]}', trace=b"t1")])
        assert site.taken(member) == [
            {
                "type": "order.changed",
                "stream": "orders",
                "key": "7",
                "value": {"a": [1]},
                "headers": {"trace": "t1"},
            }
        ]
        assert site.taken(other) == []

    def test_each_receiver_has_its_own_copy(self) -> None:
        site = Site(group="all").awake()
        channels = [site.channel("all") for _ in range(3)]
        site.stream.deliver([site.record(b'{"a": [1]}')])
        messages = [site.taken(each)[0] for each in channels]
        messages[0]["value"]["a"].append(2)
        messages[1]["headers"]["x"] = "y"
        assert messages[2]["value"] == {"a": [1]}
        assert messages[2]["headers"] == {}

    def test_a_channel_that_several_names_reach_gets_it_once(self) -> None:
        site = Site(group=["order-{key}", "all"], user="{value.owner}").awake()
        both = site.channel("order-7", "all", user="5")
        owner = site.channel(user="5")
        site.stream.deliver([site.record(b'{"owner": 5}')])
        assert len(site.taken(both)) == len(site.taken(owner)) == 1

    def test_nothing_is_decoded_of_what_concerns_nobody(self) -> None:
        codec = Counting()
        site = Site(group="order-{key}", value=codec, key="bytes").awake()
        site.stream.deliver([site.record(key=b"%d" % number) for number in range(10)])
        assert codec.decoded == 0
        site.channel("order-3")
        site.stream.deliver([site.record(key=b"%d" % number) for number in range(10)])
        assert codec.decoded == 1

    def test_the_names_that_are_remembered_are_of_this_key_alone(self) -> None:
        site = Site(group="order-{key}").awake()
        seven, eight = site.channel("order-7"), site.channel("order-8")
        for key in (b"7", b"8", b"7", b"8"):
            site.stream.deliver([site.record(key=key)])
        assert [each["key"] for each in site.taken(seven)] == ["7", "7"]
        assert [each["key"] for each in site.taken(eight)] == ["8", "8"]

    def test_what_the_filter_leaves_out_is_counted_and_goes_to_nobody(self) -> None:
        def is_even(record: StreamRecord) -> bool:
            return bool(record.value["n"] % 2 == 0)

        site = Site(group="all", where=is_even).awake()
        channel = site.channel("all")
        site.stream.deliver([site.record(b'{"n": %d}' % number) for number in range(4)])
        assert [each["value"]["n"] for each in site.taken(channel)] == [0, 2]
        assert site.told["filtered"] == 2
        assert site.told["errors"] == {}

    @pytest.mark.parametrize(
        ("tombstone", "types"), [(None, []), ("order.deleted", ["order.deleted"])]
    )
    def test_a_record_without_a_value(self, tombstone: str | None, types: list[str]) -> None:
        site = Site(group="all", tombstone=tombstone).awake()
        channel = site.channel("all")
        site.stream.deliver([site.record(None)])
        messages = site.taken(channel)
        assert [each["type"] for each in messages] == types
        assert all(each["value"] is None for each in messages)

    def test_a_message_lives_from_its_arrival_on(self) -> None:
        # Its timestamp is its producer's, and may be years old.
        site = Site(group="all").awake()
        mailbox = site.registry.mailbox(site.channel("all"))
        site.stream.deliver([site.record()])
        assert mailbox is not None
        envelope = mailbox.take()
        assert envelope is not None
        assert 50 < envelope.deadline - monotonic() <= site.config.expiry

    async def test_a_channel_that_is_full_is_waited_for_and_loses_nothing(self) -> None:
        site = Site(group="all").awake()
        channel = site.channel("all")
        records = [site.record(b'{"n": %d}' % number) for number in range(40)]
        delivering = asyncio.create_task(asyncio.to_thread(site.stream.deliver, records))
        got: list[int] = []
        mailbox = site.registry.mailbox(channel)
        assert mailbox is not None
        while len(got) < 40:
            await asyncio.wait_for(mailbox.wait(), PATIENCE)
            got += [each["value"]["n"] for each in site.taken(channel)]
        await delivering
        assert got == list(range(40))
        assert site.stats.by_name("dropped") == {}


class TestErrors:
    def test_a_poison_record_is_skipped_and_counted(self) -> None:
        site = Site(group="{value.room}").awake()
        channel = site.channel("a")
        site.stream.deliver(
            [
                site.record(b"no json"),
                site.record(b"{}"),
                site.record(b'{"room": ""}'),
                site.record(b'{"room": "a"}'),
            ]
        )
        assert len(site.taken(channel)) == 1
        assert site.told["errors"] == {"undecodable": 1, "template": 1, "name": 1}
        assert site.told["state"] == "reading"

    def test_a_value_that_no_template_needs_is_decoded_before_it_is_delivered(self) -> None:
        site = Site(group="order-{key}").awake()
        channel = site.channel("order-7")
        site.stream.deliver([site.record(b"no json"), site.record(b"1")])
        assert [each["value"] for each in site.taken(channel)] == [1]
        assert site.told["errors"] == {"undecodable": 1}

    def test_a_function_that_raises_what_it_likes_costs_one_record(self) -> None:
        def fail(record: StreamRecord) -> str:
            raise ZeroDivisionError

        site = Site(group=fail).awake()
        site.stream.deliver([site.record()])
        assert site.told["errors"] == {"function": 1}

    def test_with_stop_the_stream_stops_at_the_record_and_takes_it_back(self) -> None:
        site = Site(group="all", on_error="stop").awake()
        channel = site.channel("all")
        records = [site.record(b"1"), site.record(b"no json"), site.record(b"2")]
        site.stream.deliver(records)
        assert [each["value"] for each in site.taken(channel)] == [1]
        assert site.source.left == [1, 2]
        assert site.source.calls[-1] == ("read", False)
        assert site.told["state"] == "stopped"
        assert "shop.orders[0] at offset 1" in site.told["detail"]
        assert site.told["records"] == 1
        site.stream.deliver(records[2:])
        assert site.taken(channel) == []
        site.stream.resume()
        assert site.source.calls[-1] == ("read", True)
        assert site.told["state"] == "reading"

    def test_a_registry_that_is_away_delays_and_drops_nothing(self) -> None:
        codec = Counting()
        codec.error = RegistryAway("no answer")
        site = Site(group="all", value=codec).awake()
        channel = site.channel("all")
        states = []

        def on_wait() -> bool:
            states.append((site.told["state"], site.told["detail"]))
            if len(states) == 3:
                codec.error = None
            return True

        site.source.on_wait = on_wait
        site.stream.deliver([site.record(b"1"), site.record(b"2")])
        assert states == [("held up", "no answer")] * 3
        assert [each["value"] for each in site.taken(channel)] == [[b"1"], [b"2"]]
        assert site.told["errors"] == {}
        assert (site.told["state"], site.told["detail"]) == ("reading", None)

    def test_a_pause_ends_the_wait_for_a_registry(self) -> None:
        codec = Counting()
        codec.error = RegistryAway("no answer")
        site = Site(group="all", value=codec).awake()
        site.channel("all")
        site.source.on_wait = lambda: False
        site.stream.deliver([site.record(b"1"), site.record(b"2")])
        assert site.source.left == [0, 1]
        # Also one that leads to records that need no registry.
        assert site.told["state"] == "reading"

    def test_what_a_registry_does_not_know_is_an_error_of_the_record(self) -> None:
        codec = Counting()
        codec.error = UnreadableRecord("schema", "no schema 7")
        site = Site(group="all", value=codec).awake()
        site.channel("all")
        site.stream.deliver([site.record(b"1")])
        assert site.told["errors"] == {"schema": 1}

    def test_a_resume_asks_for_an_unknown_schema_again(self) -> None:
        with running_registry() as registry:
            settings = {"url": registry.url, "ssl.ca.location": False}
            site = Site(group="all", value="avro", schema_registry=settings, on_error="stop")
            channel = site.awake().channel("all")
            record = site.record(b"\0\0\0\0\x01\x04ab")
            site.stream.deliver([record])
            assert (site.told["state"], site.told["errors"]) == ("stopped", {"schema": 1})
            registry.register("shop.orders-value", '"string"')
            site.stream.resume()
            site.stream.deliver([record])
            assert [each["value"] for each in site.taken(channel)] == ["ab"]


class TestLife:
    def test_it_is_opened_by_the_first_channel_where_the_settings_say(self) -> None:
        site = Site(group="all", start="earliest")
        assert site.told["state"] == "idle"
        assert site.opened == 0
        site.stream.wake()
        site.stream.wake()
        assert site.opened == 1
        assert site.source.calls == [("begin", "earliest")]

    def test_a_time_ago_is_counted_from_the_start(self) -> None:
        site = Site(group="all", start=datetime.timedelta(hours=1)).awake()
        [(_, start)] = site.source.calls
        assert isinstance(start, datetime.datetime)
        ago = datetime.datetime.now(datetime.timezone.utc) - start
        assert 3590 < ago.total_seconds() < 3610

    def test_without_a_channel_it_reads_no_more_and_begins_at_the_end_again(self) -> None:
        site = Site(Timings(stream_idle=0.0), group="all").awake()

        def is_in(state: str) -> bool:
            site.stream.turn()
            return bool(site.told["state"] == state)

        wait_until(lambda: is_in("idle"), "the stream to be idle")
        assert site.source.calls[1:] == [("read", False)]
        site.channel()
        wait_until(lambda: is_in("reading"), "the stream to be read")
        assert site.source.calls[2:] == [("seek", "latest"), ("read", True)]

    def test_a_channel_that_comes_just_when_the_stream_would_rest_misses_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site = Site(Timings(stream_idle=0.0), group="all").awake()
        site.stream.turn()
        looks: list[bool] = []

        def comes_after_the_look(registry: Registry) -> int:
            # Opened while the stream counted as awake, so that nobody wakes it.
            looks.append(site.stream.awake)
            if len(looks) == 1:
                assert looks[0]
                site.channel("all")
                return 0
            return len(registry.mailboxes())

        monkeypatch.setattr(Registry, "__len__", comes_after_the_look)

        def looked() -> bool:
            site.stream.turn()
            return len(looks) > 2

        wait_until(looked, "the stream to look for channels")
        assert site.source.calls == [("begin", "latest")]
        assert site.stream.awake

    def test_all_who_open_a_channel_wait_for_the_same_start(self) -> None:
        site = Site(group="all")
        site.source.begun = Ticket()
        first, second = site.stream.wake(), site.stream.wake()
        assert first is second
        assert not site.stream.awake
        site.source.begun.resolve(None)
        assert site.stream.awake
        assert site.stream.wake().done

    def test_a_pause_holds_whatever_else_happens(self) -> None:
        site = Site(group="all")
        site.stream.pause()
        site.channel("all")
        site.stream.wake()
        assert site.opened == 0
        assert site.told["state"] == "paused"
        site.stream.resume()
        assert site.opened == 1

    def test_a_seek_before_it_is_open_says_where_it_begins(self) -> None:
        site = Site(group="all")
        site.stream.seek("earliest")
        site.stream.wake()
        assert site.source.calls == [("begin", "earliest")]

    def test_it_tells_how_many_records_come_in_a_second(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 1000.0
        monkeypatch.setattr("kafka_layer.streams.stream.monotonic", lambda: now)
        site = Site(group="all").awake()
        site.stream.deliver([site.record() for _ in range(10)])
        now += 2.0
        site.stream.turn()
        assert (site.told["records"], site.told["records_per_second"]) == (10, 5.0)

    def test_what_cannot_be_read_is_told_and_opened_again_by_a_resume(self) -> None:
        site = Site(group="all").awake()
        site.stream.failed(ValueError("no such property"))
        assert (site.told["state"], site.told["detail"]) == ("stopped", "no such property")
        site.stream.resume()
        assert site.opened == 2


class TestLastValue:
    def test_who_joins_gets_the_last_record_first(self) -> None:
        site = Site(group="price-{key}", last_value=True).awake()
        assert site.source.calls == [("begin", "earliest")]
        early = site.channel("price-7")
        site.stream.deliver([site.record(b"1"), site.record(b"2")])
        assert site.taken(early) == []
        site.stream.caught_up()
        assert [each["value"] for each in site.taken(early)] == [2]
        site.stream.deliver([site.record(b"3"), site.record(b"4", b"8")])
        assert [each["value"] for each in site.taken(early)] == [3]
        late = site.channel()
        with site.stream.latest.lock:  # type: ignore[union-attr]
            site.registry.change("group_add", "price-8", late)
            site.stream.latest.joined(  # type: ignore[union-attr]
                "price-8", site.registry.open_mailbox(late)
            )
        assert [(each["key"], each["value"]) for each in site.taken(late)] == [("8", 4)]

    def test_a_record_without_a_value_ends_it(self) -> None:
        site = Site(group="price-{key}", last_value=True).awake()
        channel = site.channel("price-7", "price-8")
        site.stream.deliver([site.record(b"1"), site.record(None), site.record(b"2", b"8")])
        site.stream.caught_up()
        assert [each["value"] for each in site.taken(channel)] == [2]
        # Without a handler it is no message.
        site.stream.deliver([site.record(None, b"8")])
        assert site.taken(channel) == []
        assert site.stream.latest is not None
        assert len(site.stream.latest) == 0

    def test_a_seek_ends_what_is_known(self) -> None:
        site = Site(group="price-{key}", last_value=True).awake()
        site.stream.deliver([site.record(b"1"), site.record(b"2", b"8")])
        site.stream.caught_up()
        channel = site.channel("price-7", "price-8")
        site.stream.sought()
        assert site.told["state"] == "loading"
        site.stream.deliver([site.record(b"3", b"8")])
        site.stream.caught_up()
        assert [each["value"] for each in site.taken(channel)] == [3]
        assert site.stream.latest is not None
        assert len(site.stream.latest) == 1

    def test_who_is_in_the_group_and_is_the_user_gets_it_once(self) -> None:
        site = Site(group="price-{key}", user="{value.owner}", last_value=True).awake()
        site.stream.caught_up()
        both, owner = site.channel("price-7", user="5"), site.channel(user="5")
        site.stream.deliver([site.record(b'{"owner": 5}')])
        assert len(site.taken(both)) == len(site.taken(owner)) == 1

    def test_a_record_without_a_name_costs_no_other(self) -> None:
        site = Site(group="price-{key}", last_value=True).awake()
        channel = site.channel("price-7", group_name("price-{key}", key="ü/"))
        good = [site.record(b"1"), site.record(b"4", "ü/".encode())]
        bad = [site.record(b"2", None), site.record(b"3", b"\xff")]
        site.stream.deliver(good)
        site.stream.deliver([site.record(b"5"), *bad, site.record(b"6", b"8")])
        site.stream.caught_up()
        assert sorted(each["value"] for each in site.taken(channel)) == [4, 5]
        assert site.told["errors"] == {"template": 1, "undecodable": 1}
        assert site.told["records"] == 6

    def test_a_record_is_decoded_when_a_channel_gets_it(self) -> None:
        codec = Counting()
        site = Site(group="price-{key}", last_value=True, value=codec).awake()
        site.stream.deliver([site.record(key=b"%d" % number) for number in range(10)])
        assert codec.decoded == 0
        site.channel("price-7")
        site.stream.caught_up()
        assert codec.decoded == 1
        site.stream.deliver([site.record(key=b"%d" % number) for number in range(10)])
        assert codec.decoded == 2

    def test_a_last_record_that_cannot_be_read_is_an_error_when_it_is_asked_for(self) -> None:
        site = Site(group="price-{key}", last_value=True).awake()
        site.stream.deliver([site.record(b"1"), site.record(b"no json"), site.record(b"2", b"8")])
        assert site.told["errors"] == {}
        seven, eight = site.channel("price-7"), site.channel("price-8")
        site.stream.caught_up()
        assert site.taken(seven) == []
        assert [each["value"] for each in site.taken(eight)] == [2]
        assert site.told["errors"] == {"undecodable": 1}

    def test_a_stream_that_stops_at_errors_decodes_what_it_reads(self) -> None:
        site = Site(group="price-{key}", last_value=True, on_error="stop").awake()
        site.stream.deliver([site.record(b"1"), site.record(b"no json"), site.record(b"2")])
        assert site.told["state"] == "stopped"
        assert site.source.left == [1, 2]

    async def test_a_join_in_an_event_loop_asks_no_registry(self) -> None:
        with running_registry() as registry:
            number = registry.register("shop.orders-value", '"string"')
            settings = {"url": registry.url, "ssl.ca.location": False}
            site = Site(
                group="price-{key}", last_value=True, value="avro", schema_registry=settings
            ).awake()
            latest = site.stream.latest
            assert latest is not None
            # Avro's header, and a text of two letters.
            record = site.record(b"\0" + number.to_bytes(4, "big") + b"\x04ab")
            await asyncio.to_thread(site.stream.deliver, [record])
            early = site.channel("price-7")
            await asyncio.to_thread(site.stream.caught_up)
            registry.go_away()
            late = site.channel("price-7")
            with latest.lock:
                latest.joined("price-7", site.registry.open_mailbox(late))
            for channel in (early, late):
                assert [each["value"] for each in site.taken(channel)] == ["ab"]
            site.stream.made_anew(TOPIC.name, 0)
            assert len(latest) == 0

    def test_answers_take_no_heed_of_the_capacity(self) -> None:
        # A consumer may join many groups before its first receive.
        site = Site(group="price-{key}", last_value=True).awake()
        groups = [f"price-{number}" for number in range(10)]
        site.stream.deliver([site.record(b"1", b"%d" % number) for number in range(10)])
        channel = site.channel(*groups)
        site.stream.caught_up()
        assert len(site.taken(channel)) == 10


class Keeper:
    """What keeps the records of a stream for tracked channels."""

    def __init__(self) -> None:
        self.log = StreamLog(1 << 20, 300.0)
        self.told: list[str] = []

    def begun(self, positions: Mapping[Where, ReadFrom]) -> None:
        self.told.append("begun")
        self.log.move(positions)

    def moved(self, positions: Mapping[Where, ReadFrom]) -> None:
        self.told.append("moved")
        self.log.move(positions)

    def ended(self) -> None:
        self.told.append("ended")


SEVEN, EIGHT = (Topic.SEND_GROUP, "order-7"), (Topic.SEND_GROUP, "order-8")
POSITIONS = {(TOPIC, 0): ReadFrom(0, None)}


class TestKept:
    """For tracked channels a stream keeps what it reads."""

    def test_from_when_it_knows_where_it_is_and_whomever_it_is_for(self) -> None:
        site = Site(group="order-{key}").awake()
        channel = site.channel("order-7")
        keeper = Keeper()
        site.stream.keep(keeper)
        site.stream.deliver([site.record()])
        assert keeper.log.ends == {}
        site.source.listener(POSITIONS, False)
        assert keeper.told == []
        site.source.listener({(TOPIC, 0): ReadFrom(1, None)}, True)
        site.stream.deliver([site.record(), site.record(key=b"8"), site.record(b"no json")])
        log = keeper.log
        assert (keeper.told, log.routed, log.ends) == (["begun"], {(TOPIC, 0): 4}, log.routed)
        found = [log.find((TOPIC, 0), key, 1, 4) or [] for key in (SEVEN, EIGHT)]
        # What cannot be decoded is for somebody, too: a replay skips it as well.
        assert [[each[6] for each in records] for records in found] == [[1, 3], [2]]
        mailbox = site.registry.mailbox(channel)
        assert mailbox is not None
        early, late = mailbox.waiting()
        assert (early.place, early.before) == (None, None)
        assert (late.place, late.key) == ((TOPIC, 0, 1, 1000.0), (SEVEN,))
        assert late.before == {(TOPIC, 0): 1}
        # What a seek leaves out is no loss.
        site.stream.sought()
        assert log.sought
        site.source.listener({(TOPIC, 0): ReadFrom(9, None)}, True)
        assert keeper.told == ["begun", "moved"]
        assert (log.sought, log.begin((TOPIC, 0))) == (False, 9)

    def test_a_tracked_channel_gets_records_and_not_messages_also_before(self) -> None:
        # Their places are given to them when the stream begins to be kept.
        site = Site(group="order-{key}").awake()
        mailbox = site.registry.mailbox(site.channel("order-7"))
        assert mailbox is not None
        owner: Any = object()
        mailbox.tracked = owner
        # The second one has a key that is known.
        for _ in range(2):
            site.stream.deliver([site.record()])
        assert [type(each.payload) for each in mailbox.waiting()] == [StreamPayload] * 2

    def test_nothing_is_read_of_what_is_kept_and_for_nobody_here(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site = Site(group="order-{key}").awake()
        keeper = Keeper()
        site.stream.keep(keeper)
        site.source.listener(POSITIONS, True)
        with monkeypatch.context() as patched:
            patched.setattr(site.source, "record", None)
            site.stream.deliver([site.record(key=b"%d" % number) for number in range(9)])
        assert keeper.log.routed == {(TOPIC, 0): 9}
        found = keeper.log.find((TOPIC, 0), SEVEN, 0, 9)
        assert found is not None
        assert [each[6] for each in found] == [7]

    @pytest.mark.parametrize(("tombstone", "kept"), [(None, [0]), ("order.deleted", [0, 1])])
    def test_but_what_live_readers_do_not_get_is_not_found(
        self, tombstone: str | None, kept: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read(record: Any) -> Record:
            if record[3]:
                raise UnreadableRecord("undecodable", "a header without a name")
            found: Record = record
            return found

        site = Site(group="order-{key}", tombstone=tombstone).awake()
        monkeypatch.setattr(site.source, "record", read)
        keeper = Keeper()
        site.stream.keep(keeper)
        site.source.listener(POSITIONS, True)
        unreadable = [site.record(key=key, h=b"x") for key in (b"7", b"9")]
        records = [site.record(), site.record(None), *unreadable]
        site.stream.deliver([(*each[:6], offset) for offset, each in enumerate(records)])
        found = keeper.log.find((TOPIC, 0), SEVEN, 0, 4)
        assert found is not None
        assert [each[6] for each in found] == kept
        assert keeper.log.find((TOPIC, 0), (Topic.SEND_GROUP, "order-9"), 0, 4) == []

    def test_but_not_what_a_pause_leaves_of_a_batch(self) -> None:
        def decode(data: bytes) -> bytes:
            if data == b"2":
                site.stream.pause()
            return data

        site = Site(group="order-{key}", value=decode).awake()
        channel = site.channel("order-7")
        keeper = Keeper()
        site.stream.keep(keeper)
        site.source.listener(POSITIONS, True)
        records = [site.record(b"%d" % (each // 2 + 1), b"78"[each % 2 :][:1]) for each in range(8)]
        site.stream.deliver(records)
        # Each second one is for nobody here. It stops where receives are woken: behind two.
        assert [each["value"] for each in site.taken(channel)] == [b"1", b"2"]
        assert site.source.left == [4, 5, 6, 7]
        assert keeper.log.ends == keeper.log.routed == {(TOPIC, 0): 4}
        assert site.told["records"] == 4
        site.stream.resume()
        site.stream.deliver(records[4:])
        assert [each["value"] for each in site.taken(channel)] == [b"3", b"4"]
        for key, offsets in ((SEVEN, [0, 2, 4, 6]), (EIGHT, [1, 3, 5, 7])):
            found = keeper.log.find((TOPIC, 0), key, 0, 8)
            assert found is not None
            assert [each[6] for each in found] == offsets

    def test_each_by_itself_where_an_error_stops_the_stream(self) -> None:
        site = Site(group="order-{key}", on_error="stop").awake()
        site.channel("order-7")
        keeper = Keeper()
        site.stream.keep(keeper)
        site.source.listener(POSITIONS, True)
        site.stream.deliver([site.record(b"1"), site.record(b"no json"), site.record(b"2")])
        # The one that stopped it is not there: it will be read again, perhaps after a recovery.
        assert keeper.log.ends == keeper.log.routed == {(TOPIC, 0): 1}

    def test_nor_one_that_stops_a_stream_with_last_values(self) -> None:
        site = Site(group="order-{key}", last_value=True, on_error="stop").awake()
        site.stream.caught_up()
        keeper = Keeper()
        site.stream.keep(keeper)
        site.source.listener(POSITIONS, True)
        site.stream.deliver([site.record(b"1"), site.record(b"no json"), site.record(b"2")])
        assert keeper.log.ends == keeper.log.routed == {(TOPIC, 0): 1}

    def test_not_while_it_learns_the_last_values(self) -> None:
        site = Site(group="order-{key}", last_value=True).awake()
        keeper = Keeper()
        site.stream.keep(keeper)
        site.source.listener(POSITIONS, True)
        site.stream.deliver([site.record()])
        assert keeper.told == []
        site.stream.caught_up()
        site.source.listener({(TOPIC, 0): ReadFrom(1, None)}, True)
        assert keeper.told == ["begun"]
        # Nor when it learns them anew: what it reads then is in no mailbox.
        site.stream.sought()
        site.source.listener(POSITIONS, True)
        site.stream.deliver([site.record()])
        assert (keeper.told, keeper.log.ends) == (["begun"], {(TOPIC, 0): 1})
        site.stream.caught_up()
        site.source.listener({(TOPIC, 0): ReadFrom(2, None)}, True)
        assert keeper.told == ["begun", "begun"]
        channel = site.channel("order-7")
        site.stream.answer(site.registry.open_mailbox(channel), site.record(), "order-7")
        mailbox = site.registry.mailbox(channel)
        assert mailbox is not None
        [answer] = mailbox.waiting()
        assert (answer.place, answer.key) == (None, (SEVEN,))

    def test_until_the_server_has_no_channel(self) -> None:
        site = Site(Timings(stream_idle=0.0), group="all").awake()
        keeper = Keeper()
        site.stream.keep(keeper)
        site.source.listener(POSITIONS, True)

        def has_ended() -> bool:
            site.stream.turn()
            return keeper.told == ["begun", "ended"]

        wait_until(has_ended, "the stream to be idle")
        site.stream.deliver([site.record()])
        assert keeper.log.ends == {(TOPIC, 0): 0}

    @pytest.mark.parametrize(
        ("settings", "reached"),
        [
            ({"group": "order-{key}"}, [True, False, False]),
            ({"group": "{key}"}, [True, True, False]),
            ({"user": "{key}"}, [False, False, True]),
            ({"group": lambda record: "room"}, [True, True, False]),
        ],
    )
    def test_whom_it_may_reach(self, settings: dict[str, Any], reached: list[bool]) -> None:
        stream = Site(**settings).stream
        addresses = (SEVEN, (Topic.SEND_GROUP, "room"), (Topic.SEND_USER, "7"))
        assert [stream.concerns(each) for each in addresses] == reached
        assert not stream.concerns((Topic.SEND_ALL, ""))

    def test_whom_a_record_of_the_past_is_for(self) -> None:
        def is_public(record: StreamRecord) -> bool:
            return bool(record.value != "internal")

        settings = {"group": "order-{key}", "where": is_public}
        site = Site(**settings)
        values = (b"1", b'"internal"', b"no json", None)
        found = [site.stream.addresses(site.record(value)) for value in values]
        assert found == [(SEVEN,), (), (), ()]
        stops = Site(**settings, on_error="stop", tombstone="order.deleted").stream
        assert stops.addresses(site.record(None)) == (SEVEN,)
        with pytest.raises(UnreadableRecord):
            stops.addresses(site.record(b"no json"))
