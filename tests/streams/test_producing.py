"""``produce``: what it checks, encodes and writes; without a broker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from channels.exceptions import ChannelFull, MessageTooLarge

from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.timings import Timings
from kafka_layer.delivery.tickets import Ticket, run_blocking, run_in_loop
from kafka_layer.exceptions import RegistryAway, TopicError, UnreadableRecord
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.messages import Position
from kafka_layer.observe.counters import Stats
from kafka_layer.streams.producing import Outgoing, Producing, outgoing
from kafka_layer.transport import QueueFull
from kafka_layer.wire.headers import ProducedHeaders
from kafka_layer.wire.partitions import partition_of
from kafka_layer.wire.records import StreamProducerRecord
from tests.support.inspect import server_of
from tests.support.layers import Layers, memory_backend, next_message, next_messages
from tests.support.tables import for_each
from tests.support.waiting import PATIENCE, wait_until_async

STREAMS = {
    "orders": {"topic": "shop.orders"},
    "raw": {"topic": "raw", "key": "bytes", "value": "bytes"},
    "every": {"topic": r"^shop\..*"},
}


WORKED = {"topic": "shop.orders", "type": "order.changed", "worker_channel": "orders-to-db"}


def config(**more: Any) -> LayerConfig:
    return LayerConfig.from_keywords(
        bootstrap_servers="nowhere:9092", **{"streams": STREAMS, **more}
    )


def record(stream: str = "orders", value: Any = 1, key: Any = None, **more: Any) -> Outgoing:
    arguments = {"headers": None, "partition": None, **more}
    return outgoing(config(), stream, value, key, arguments["headers"], arguments["partition"])


@pytest.fixture
def make_layer() -> Iterator[Layers]:
    layers = Layers(memory_backend())
    yield layers
    layers.close()


class TestArguments:
    @pytest.mark.parametrize(
        ("stream", "said"),
        [
            ("ordrs", r'"streams" has no stream \'ordrs\'; did you mean \'orders\'\?'),
            ("weather", r"it has 'every', 'orders', 'raw'"),
            ("every", r'Stream \'every\' reads all topics that match a pattern.*plain "topic"'),
        ],
    )
    def test_a_stream_that_is_none_or_no_one_topic_is_refused(self, stream: str, said: str) -> None:
        with pytest.raises(TopicError, match=said):
            record(stream)

    @for_each(
        ("given", "error", "said"),
        [
            ({"partition": -1}, ValueError, "0 or more, not -1"),
            ({"partition": True}, TypeError, "an int or None, not True"),
            ({"headers": {"trace": 7}}, TypeError, "'trace' is 7"),
            ({"headers": "trace"}, TypeError, "not 'trace'"),
            ({"headers": [("trace",)]}, TypeError, r"one of them is \('trace',\)"),
            ({"headers": {"\ud800": "a"}}, TypeError, "UTF-8 cannot carry"),
            ({"headers": {"a": "\ud800"}}, TypeError, "UTF-8 cannot carry"),
            ({"headers": {"a\0b": "c"}}, ValueError, "at its NUL"),
        ],
    )
    def test_what_kafka_cannot_carry_is_refused(
        self, given: dict[str, Any], error: type[Exception], said: str
    ) -> None:
        with pytest.raises(error, match=said):
            record(**given)

    @pytest.mark.parametrize("headers", [{"a": "ü", "b": b"\xff"}, [("a", "ü"), ("b", b"\xff")]])
    def test_headers_are_text_or_bytes(self, headers: Any) -> None:
        assert list(record(headers=headers).encode()[4]) == [("a", "ü".encode()), ("b", b"\xff")]


class TestRecords:
    def test_codecs_make_the_bytes_and_none_a_tombstone(self) -> None:
        topic, key, value, partition, headers = record(value={"n": 1}, key="7").encode()
        assert (topic.name, key, value, partition) == ("shop.orders", b"7", b'{"n":1}', None)
        assert record(value=None, key="7").encode()[2] is None
        assert record("raw", b"", key=b"").encode()[1:3] == (b"", b"")
        # So that its report keeps them, though they are empty.
        assert headers
        assert isinstance(headers, ProducedHeaders)
        assert headers.produced == ("orders", "7", {"n": 1}, [])

    @pytest.mark.parametrize("given", [{"value": object()}, {"key": 7}])
    def test_what_a_codec_cannot_carry_is_refused(self, given: dict[str, Any]) -> None:
        with pytest.raises(TypeError):
            record(**given).encode()


class TestFixed:
    """As ``produce_on_commit`` keeps a record until the commit."""

    def test_it_is_sent_and_told_as_it_was(self) -> None:
        value = {"n": [1]}
        fixed = record(value=value, key="7").fixed()
        value["n"].append(2)
        _, key, data, _, headers = fixed.encode()
        assert (key, data) == (b"7", b'{"n":[1]}')
        assert isinstance(headers, ProducedHeaders)
        assert headers.produced.value == {"n": [1]}

    def test_what_cannot_be_copied_is_told_as_it_is_read(self) -> None:
        raw = bytearray(b"abc")
        fixed = record("raw", memoryview(raw), key=memoryview(b"7")).fixed()
        raw[:] = b"xyz"
        assert fixed.encode()[1:3] == (b"7", b"abc")
        assert (fixed.produced.key, fixed.produced.value) == (b"7", b"abc")

    def test_where_the_value_needs_a_registry_it_is_copied_and_the_key_encoded(self) -> None:
        made = record("raw", [1], key=memoryview(b"7"))
        codec = Codec()
        fixed = made._replace(settings=replace(made.settings, value=codec)).fixed()
        assert not codec.threads
        assert fixed.blocking
        assert fixed.produced.value == [1]
        assert fixed.produced.value is not made.produced.value
        assert fixed.encode()[1] == b"7"
        assert codec.threads

    def test_a_tombstone_waits_for_the_registry_behind_the_records_of_its_key(self) -> None:
        made = record("raw", None, key=b"7")
        fixed = made._replace(settings=replace(made.settings, value=Codec())).fixed()
        assert fixed.blocking
        assert fixed.encode()[2] is None


class Codec:
    """A codec that asks a registry, which is away for the first calls."""

    blocking = True

    def __init__(self, away: int = 0) -> None:
        self.away = away
        self.threads: set[str] = set()

    def encode(self, obj: Any, context: Any) -> bytes:
        self.threads.add(threading.current_thread().name)
        if self.away:
            self.away -= 1
            raise RegistryAway("the registry does not answer")
        return str(obj).encode()


class Writer:
    """The transport of a stream, and the records that it took.

    Attributes:
        full: How many more records it refuses.
    """

    def __init__(self, full: int = 0) -> None:
        self.full = full
        self.records: list[StreamProducerRecord] = []
        self.waited: list[bool] = []

    def produce(
        self,
        record: StreamProducerRecord,
        ticket: Ticket[Position] | None = None,
        waited: bool = False,
    ) -> None:
        if self.full:
            self.full -= 1
            raise QueueFull
        self.records.append(record)
        if ticket is not None:
            ticket.resolve(Position(record[0].name, 0, len(self.records), 0.0))

    def when_room(self, waited: bool = False) -> Ticket[None]:
        self.waited.append(waited)
        return Ticket.resolved(None)


def producing(writer: Writer | None = None, **more: Any) -> Producing:
    """Return what a server produces by, with a transport that always opens."""
    settings = config(**more)
    settings = replace(settings, timings=Timings(registry=0.05, registry_retry=0.01))
    transport = SimpleNamespace(open_stream_writer=lambda topic, timeout: writer)

    def start(what: object, name: str, function: Any) -> Ticket[None]:
        return Ticket.resolved(function())

    server: Any = SimpleNamespace(
        config=settings,
        stats=Stats("channels"),
        transport=transport,
        start=start,
        start_sending=lambda: Ticket.resolved(None),
    )
    made = Producing(server)
    made.open(record().topic)
    return made


class TestARegistry:
    def asking(self, codec: Codec, value: Any = 1) -> Outgoing:
        made = record(value=value)
        return made._replace(settings=replace(made.settings, value=codec))

    def test_no_event_loop_waits_for_it(self) -> None:
        codec = Codec()
        made = producing()

        async def encode() -> list[bytes | None]:
            calls = [run_in_loop(made.encode(self.asking(codec, n))) for n in range(50)]
            return [encoded[2] for encoded in await asyncio.gather(*calls)]

        assert asyncio.run(encode()) == [str(n).encode() for n in range(50)]
        assert codec.threads == {"kafka-layer-encode"}

    def test_one_that_is_away_delays_and_keeps_the_order(self) -> None:
        codec = Codec(away=3)
        made = producing()
        done: list[int] = []
        tickets = []
        for number in range(3):
            steps = made.encode(self.asking(codec, number))
            ticket, _ = next(steps)
            ticket.on_done(lambda _, number=number: done.append(number))  # type: ignore[misc]
            tickets.append(ticket)
        assert [each.result(PATIENCE)[2] for each in tickets] == [b"0", b"1", b"2"]
        assert done == [0, 1, 2]

    def test_one_that_stays_away_ends_the_call_after_expiry(self) -> None:
        made = producing(expiry=0.2)
        with pytest.raises(RegistryAway, match="does not answer"):
            run_blocking(made.encode(self.asking(Codec(away=1_000_000))))
        # The thread goes on with the next one.
        assert run_blocking(made.encode(self.asking(Codec())))[2] == b"1"

    def test_the_thread_ends_and_the_next_record_starts_another(self) -> None:
        made = producing()
        codec = Codec()
        for _ in range(3):
            run_blocking(made.encode(self.asking(codec)))
            threads = [t for t in threading.enumerate() if t.name == "kafka-layer-encode"]
            for thread in threads:
                thread.join(PATIENCE)
                assert not thread.is_alive()


class TestSending:
    def test_without_await_produce_nobody_waits_for_the_broker(self) -> None:
        writer = Writer()
        made = producing(writer)
        assert run_blocking(made.send(record().encode())) is None
        assert len(writer.records) == 1

    def test_with_await_produce_the_position_comes(self) -> None:
        made = producing(Writer(), await_produce=True)
        ticket = run_blocking(made.send(record().encode()))
        assert ticket is not None
        assert ticket.result(0).topic == "shop.orders"

    def test_a_full_queue_that_may_block_is_waited_for(self) -> None:
        writer = Writer(full=2)
        made = producing(writer, overflow="block")
        run_blocking(made.send(record().encode()))
        assert len(writer.records) == 1
        assert writer.waited == [False, True]

    @pytest.mark.parametrize("overflow", ["raise", "discard"])
    def test_a_full_queue_refuses_or_discards(self, overflow: str) -> None:
        writer = Writer(full=1)
        made = producing(writer, overflow=overflow)
        if overflow == "raise":
            with pytest.raises(ChannelFull, match=r"shop\.orders"):
                run_blocking(made.send(record().encode()))
        else:
            assert run_blocking(made.send(record().encode())) is None
        assert not writer.records

    @pytest.mark.parametrize("part", ["key", "value"])
    def test_a_record_that_is_too_large_for_the_producer_is_refused(self, part: str) -> None:
        with pytest.raises(MessageTooLarge, match="stream 'orders' is larger"):
            run_blocking(producing().encode(record(**{part: "x" * 3_000_000})))


class TestInMemory:
    """The layer without a broker writes the same records, and a test finds them."""

    async def test_equal_keys_share_the_partition_of_kafkas_default(
        self, make_layer: Layers
    ) -> None:
        layer = make_layer(streams=STREAMS, await_produce=True)
        # So that the topic has three of them.
        await layer.produce("orders", None, partition=2)
        for key in ("7", "8", "ü"):
            first = await layer.produce("orders", {"n": 1}, key=key)
            second = await asyncio.to_thread(layer.produce_sync, "orders", {"n": 2}, key=key)
            assert first is not None
            assert second is not None
            assert first[:2] == second[:2] == ("shop.orders", partition_of(key, 3))
            assert second.offset == first.offset + 1

    async def test_a_partition_may_be_named(self, make_layer: Layers) -> None:
        layer = make_layer(streams=STREAMS, await_produce=True)
        position = await layer.produce("orders", 1, key="7", partition=2)
        assert position is not None
        assert position.partition == 2

    async def test_the_next_server_writes_what_a_close_overtook(self, make_layer: Layers) -> None:
        layer = make_layer(streams=STREAMS, await_produce=True)
        assert await layer.produce("orders", 1) is not None
        await layer.close()
        assert await layer.produce("orders", 2) is not None

    async def test_a_forked_child_waits_for_no_thread_of_its_parent(
        self, make_layer: Layers
    ) -> None:
        layer = make_layer(streams=STREAMS, await_produce=True)
        orders, answers = layer.config.streams["orders"], threading.Event()

        class Asking(Codec):
            def encode(self, obj: Any, context: Any) -> bytes:
                answers.wait(PATIENCE)
                return super().encode(obj, context)

        def use(codec: Codec) -> None:
            streams = {"orders": replace(orders, value=codec)}
            layer.config = replace(layer.config, streams=streams)

        use(Asking())
        of_parent = asyncio.ensure_future(layer.produce("orders", 1))
        await asyncio.sleep(0)
        server_of(layer).abandon()  # as in a child
        use(Codec())
        assert await asyncio.wait_for(layer.produce("orders", 2), PATIENCE) is not None
        answers.set()
        await of_parent

    async def test_without_await_produce_there_is_no_position(self, make_layer: Layers) -> None:
        assert await make_layer(streams=STREAMS).produce("orders", 1) is None


class TestWorkersInMemory:
    """Each record of a foreign topic is a message for one worker of the group."""

    def layers(self, make_layer: Layers, **settings: Any) -> list[Any]:
        streams = {"orders": {**WORKED, **settings}}
        return [make_layer(streams=streams) for _ in range(2)]

    async def test_two_workers_share_the_records(self, make_layer: Layers) -> None:
        one, other = self.layers(make_layer, start="earliest")
        for number in range(20):
            await one.produce("orders", number, key=str(number), headers={"n": str(number)})

        shares = await asyncio.gather(
            *(next_messages(layer, "orders-to-db", 10) for layer in (one, other))
        )
        messages = [message for share in shares for message in share]
        assert sorted(message["value"] for message in messages) == list(range(20))
        (first,) = (message for message in messages if message["value"] == 7)
        assert first == {
            "type": "order.changed",
            "stream": "orders",
            "key": "7",
            "value": 7,
            "headers": {"n": "7"},
        }

    async def test_latest_begins_with_what_comes_after_the_first_receive(
        self, make_layer: Layers
    ) -> None:
        one, other = self.layers(make_layer)
        await one.produce("orders", "before")
        waiting = asyncio.ensure_future(other.receive("orders-to-db"))
        await wait_until_async(
            lambda: server_of(other).jobs.mailbox("orders-to-db") is not None,
            "the worker to take part",
        )
        await one.produce("orders", "after")
        assert (await asyncio.wait_for(waiting, PATIENCE))["value"] == "after"

    async def poisoned(self, make_layer: Layers, on_error: str) -> KafkaChannelLayer:
        """Return a layer with a topic that has a record that is no JSON between two that are."""
        stream = {**WORKED, "start": "earliest", "on_error": on_error}
        raw = {"topic": "shop.orders", "value": "bytes"}
        layer = make_layer(streams={"orders": stream, "raw": raw})
        for value in (b'"good"', b"no JSON", b'"behind"'):
            await layer.produce("raw", value, partition=0)
        return layer

    async def test_a_poison_record_is_skipped(self, make_layer: Layers) -> None:
        layer = await self.poisoned(make_layer, "skip")
        received = await next_messages(layer, "orders-to-db", 2, 10)
        assert [message["value"] for message in received] == ["good", "behind"]
        assert layer.stats().dropped == {"undecodable": 1}

    async def test_a_poison_record_stops_the_channel_visibly(self, make_layer: Layers) -> None:
        layer = await self.poisoned(make_layer, "stop")
        assert (await next_message(layer, "orders-to-db"))["value"] == "good"
        for _ in range(2):
            with pytest.raises(UnreadableRecord, match=r"shop\.orders\[0\] offset 1, .*no JSON"):
                await next_message(layer, "orders-to-db")

    async def test_nobody_sends_messages_to_it(self, make_layer: Layers) -> None:
        one, _ = self.layers(make_layer)
        with pytest.raises(TopicError, match=r"produce\('orders', \.\.\.\) writes a record"):
            await one.send("orders-to-db", {"type": "order.changed"})
