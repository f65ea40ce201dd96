"""Traces: which spans there are, how they belong together, and what they tell and do not tell."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.exceptions import StopConsumer
from channels.layers import channel_layers
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.observe import spans
from kafka_layer.testing import InMemoryKafkaChannelLayer
from kafka_layer.tracing import handling
from kafka_layer.wire.codec import Codec
from kafka_layer.wire.topics import Topic
from kafka_layer.worker import OneAtATimeWorker
from tests.support.inspect import server_of
from tests.support.layers import Layers, memory_backend, next_message, unhurried
from tests.support.waiting import PATIENCE, wait_until_async

Made = InMemorySpanExporter


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """The spans that were made: a provider for the test alone."""
    return provide(monkeypatch, TracerProvider())


def provide(monkeypatch: pytest.MonkeyPatch, provider: TracerProvider) -> Made:
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(spans, "_TRACER", provider.get_tracer("test"))
    return exporter


@pytest.fixture
def layers() -> Iterator[Layers]:
    layers = Layers(unhurried(memory_backend()))
    yield layers
    layers.close()


def of_kind(made: Made, kind: SpanKind) -> list[ReadableSpan]:
    return [each for each in made.get_finished_spans() if each.kind is kind]


def only(found: list[ReadableSpan]) -> ReadableSpan:
    assert len(found) == 1, found
    return found[0]


async def handled(layer: KafkaChannelLayer, channel: str) -> dict[str, Any]:
    message = await next_message(layer, channel)
    with handling(message):
        pass
    return message


def assert_linked(consumer: ReadableSpan, producer: ReadableSpan) -> None:
    """The receiver's span is in a trace of its own, with a link to the sender's."""
    assert producer.context is not None
    assert consumer.context is not None
    [link] = consumer.links
    assert link.context.span_id == producer.context.span_id
    assert link.context.trace_id == producer.context.trace_id
    assert consumer.parent is None
    assert consumer.context.trace_id != producer.context.trace_id


class TestMessages:
    @pytest.mark.parametrize("keys", [None, ["secret"]], ids=["plain", "encrypted"])
    async def test_each_receiver_has_a_span_linked_to_the_senders(
        self, layers: Layers, made: Made, keys: list[str] | None
    ) -> None:
        config = {"tracing": True, "symmetric_encryption_keys": keys}
        here, there = layers("kinds", **config), layers("kinds", **config)
        members = [await there.new_channel() for _ in range(3)]
        for member in members:
            await there.group_add("room", member)
            await there.user_add("7", member)
        for send, topic in (
            (here.group_send("room", {"type": "a"}), "send-group"),
            (here.user_send("7", {"type": "a"}), "send-user"),
            (here.all_send({"type": "a"}), "send-all"),
        ):
            made.clear()
            await send
            for member in members:
                assert await handled(there, member) == {"type": "a"}
            producer = only(of_kind(made, SpanKind.PRODUCER))
            assert producer.name == f"send kinds-{topic}"
            consumers = of_kind(made, SpanKind.CONSUMER)
            assert len(consumers) == 3
            for consumer in consumers:
                assert consumer.name == f"process kinds-{topic}"
                assert_linked(consumer, producer)

    @pytest.mark.parametrize("where", ["another process", "this process"])
    async def test_a_message_to_one_channel(self, layers: Layers, made: Made, where: str) -> None:
        there = layers("one", tracing=True)
        here = there if where == "this process" else layers("one", tracing=True)
        channel = await there.new_channel()
        await here.send(channel, {"type": "a"})
        await handled(there, channel)
        producer = only(of_kind(made, SpanKind.PRODUCER))
        assert producer.name == "send one-send-conn"
        assert_linked(only(of_kind(made, SpanKind.CONSUMER)), producer)

    async def test_of_a_tracked_channel_and_one_that_lags(self, layers: Layers, made: Made) -> None:
        layer = layers("tracked", tracing=True, capacity=2)
        channel = await layer.new_channel()
        layer.track(channel)
        await layer.group_add("room", channel)
        for number in range(6):
            await layer.group_send("room", {"type": "a", "n": number})
        got = [await handled(layer, channel) for _ in range(6)]
        assert [each["n"] for each in got] == list(range(6))
        producers = of_kind(made, SpanKind.PRODUCER)
        for consumer, producer in zip(of_kind(made, SpanKind.CONSUMER), producers, strict=True):
            assert_linked(consumer, producer)

    async def test_the_attributes_are_those_of_the_semantic_conventions(
        self, layers: Layers, made: Made
    ) -> None:
        layer = layers("attributes", tracing=True, await_produce=True)
        channel = await layer.new_channel()
        await layer.group_add("a-group", channel)
        position = await layer.group_send("a-group", {"type": "chat.message"})
        assert position is not None
        await handled(layer, channel)
        place = {
            "messaging.destination.partition.id": str(position.partition),
            "messaging.kafka.offset": position.offset,
        }
        common = {"messaging.system": "kafka", "messaging.destination.name": position.topic}
        size = only(of_kind(made, SpanKind.PRODUCER)).attributes
        assert size == {
            **common,
            **place,
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.message.body.size": 19,
        }
        assert only(of_kind(made, SpanKind.CONSUMER)).attributes == {
            **common,
            **place,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "kafka_layer.message.type": "chat.message",
        }
        assert "a-group" not in str([each.to_json() for each in made.get_finished_spans()])

    async def test_a_send_is_a_child_of_what_sends(self, layers: Layers, made: Made) -> None:
        layer = layers("child", tracing=True)
        with spans._TRACER.start_as_current_span("request") as request:
            await layer.group_send("room", {})
            await asyncio.to_thread(layer.group_send_sync, "room", {})
        for producer in of_kind(made, SpanKind.PRODUCER):
            assert producer.parent is not None
            assert producer.parent.span_id == request.get_span_context().span_id

    async def test_a_send_that_is_refused_tells_why(self, layers: Layers, made: Made) -> None:
        layer = layers("refused", tracing=True, capacity=1)
        channel = await layer.new_channel()
        await layer.send(channel, {})
        with pytest.raises(layer.ChannelFull):
            await layer.send(channel, {})
        with pytest.raises(layer.MessageTooLarge):
            await layer.group_send("room", {"text": "x" * 3_000_000})
        _, full, large = of_kind(made, SpanKind.PRODUCER)
        for span, error in ((full, "ChannelFull"), (large, "MessageTooLarge")):
            assert span.status.status_code is StatusCode.ERROR
            assert span.attributes is not None
            assert span.attributes["error.type"] == error

    async def test_a_message_of_a_sender_without_traces_begins_one(
        self, layers: Layers, made: Made
    ) -> None:
        here, there = layers("mixed"), layers("mixed", tracing=True)
        channel = await there.new_channel()
        await here.send(channel, {"type": "a"})
        await handled(there, channel)
        consumer = only(list(made.get_finished_spans()))
        assert (consumer.kind, list(consumer.links), consumer.parent) == (
            SpanKind.CONSUMER,
            [],
            None,
        )

    @pytest.mark.parametrize("value", [b"nonsense", b"00-0-0-00", b"\xff\xfe", None])
    async def test_a_header_that_is_no_context_is_ignored(
        self, layers: Layers, made: Made, value: bytes | None
    ) -> None:
        layer = layers("odd", tracing=True)
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        payload, headers = Codec("msgpack").encode({"type": "a"}), [("traceparent", value)]
        record: Any = Topic.SEND_GROUP, "room", payload, None, headers
        server_of(layer).transport.produce(record)
        with spans._TRACER.start_as_current_span("of the receiver"):
            await handled(layer, channel)
        consumer = only(of_kind(made, SpanKind.CONSUMER))
        assert (list(consumer.links), consumer.parent) == ([], None)

    async def test_where_the_sender_is_not_sampled_the_handler_has_no_span(
        self, layers: Layers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = provide(monkeypatch, TracerProvider(sampler=ParentBased(ALWAYS_OFF)))
        layer = layers("unsampled", tracing=True)
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "a"})
        message = await next_message(layer, channel)
        made = provide(monkeypatch, TracerProvider())
        with handling(message):
            current = trace.get_current_span().get_span_context()
            # What the handler sends belongs to the trace that is not sampled.
            await layer.group_send("room", {})
        assert current.is_valid
        assert not current.trace_flags.sampled
        assert made.get_finished_spans() == ()

    async def test_off_it_adds_no_header_and_no_span(self, layers: Layers, made: Made) -> None:
        layer = layers("off")
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", {"type": "a"})
        mailbox = server_of(layer).registry.mailbox(channel)
        assert mailbox is not None
        await wait_until_async(lambda: len(mailbox), "the message")
        assert not hasattr(mailbox.first(), "trace")
        assert type(await handled(layer, channel)) is dict
        assert made.get_finished_spans() == ()

    async def test_a_traced_message_is_copied_as_a_dict(self, layers: Layers, made: Made) -> None:
        layer = layers("copied", tracing=True)
        channel = await layer.new_channel()
        await layer.send(channel, {"n": 1})
        message = await next_message(layer, channel)
        copied = pickle.loads(pickle.dumps(message))
        assert (copied, type(copied)) == ({"n": 1}, dict)
        # And it may be sent on.
        await layer.send(channel, message)
        assert await next_message(layer, channel) == {"n": 1}


class Handlers:
    """What handlers found, and how they end."""

    found: list[trace.SpanContext]

    def note(self) -> None:
        self.found.append(trace.get_current_span().get_span_context())


class Async(Handlers, AsyncConsumer):  # type: ignore[misc]
    async def good(self, message: dict[str, Any]) -> None:
        self.note()

    async def bad(self, message: dict[str, Any]) -> None:
        raise RuntimeError("fails on purpose")

    async def last(self, message: dict[str, Any]) -> None:
        raise StopConsumer


class Sync(Handlers, SyncConsumer):  # type: ignore[misc]
    def good(self, message: dict[str, Any]) -> None:
        self.note()

    def bad(self, message: dict[str, Any]) -> None:
        raise RuntimeError("fails on purpose")

    def last(self, message: dict[str, Any]) -> None:
        raise StopConsumer


@contextlib.asynccontextmanager
async def consuming(
    consumer: type[Any], layer: KafkaChannelLayer
) -> AsyncIterator[tuple[str, asyncio.Task[None]]]:
    """Run a consumer as Channels does; yields its channel's name, and its task."""
    names: list[str] = []
    consumer.found = []

    class Named(consumer):  # type: ignore[misc]
        async def dispatch(self, message: Any) -> None:
            if message["type"] == "begin":
                names.append(self.channel_name)
                return
            await super().dispatch(message)

    channel_layers.set("default", layer)
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    await inbox.put({"type": "begin"})

    async def send(message: Any) -> None:
        pass

    task = asyncio.create_task(Named.as_asgi()({"type": "test"}, inbox.get, send))
    await wait_until_async(lambda: names or task.done(), "the consumer to begin")
    yield names[0], task
    task.cancel()
    await asyncio.wait([task])
    del channel_layers.backends["default"]


class TestHandlers:
    @pytest.mark.parametrize("consumer", [Async, Sync])
    async def test_a_consumers_handler_runs_in_the_span(
        self, layers: Layers, made: Made, consumer: Any
    ) -> None:
        layer = layers("handlers", tracing=True)
        async with consuming(consumer, layer) as (channel, task):
            await layer.send(channel, {"type": "good"})
            await layer.send(channel, {"type": "last"})
            await asyncio.wait_for(task, PATIENCE)
        good, last = of_kind(made, SpanKind.CONSUMER)
        assert [each.span_id for each in consumer.found] == [good.get_span_context().span_id]
        # That is how a consumer ends.
        assert last.status.status_code is StatusCode.UNSET

    @pytest.mark.parametrize("consumer", [Async, Sync])
    async def test_an_error_of_the_handler_is_told(
        self, layers: Layers, made: Made, consumer: Any
    ) -> None:
        layer = layers("errors", tracing=True)
        async with consuming(consumer, layer) as (channel, task):
            await layer.send(channel, {"type": "bad"})
            with pytest.raises(RuntimeError, match="on purpose"):
                await asyncio.wait_for(task, PATIENCE)
        span = only(of_kind(made, SpanKind.CONSUMER))
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes is not None
        assert span.attributes["error.type"] == "RuntimeError"
        assert [event.name for event in span.events] == ["exception"]

    @pytest.mark.parametrize("consumer", [Async, Sync])
    async def test_a_job_is_a_child_of_its_send(
        self, layers: Layers, made: Made, consumer: Any
    ) -> None:
        layer = layers("jobs", tracing=True)
        consumer.found = []
        await layer.send("thumbs", {"type": "good"})
        worker = OneAtATimeWorker(consumer.as_asgi(), ["thumbs"], layer)
        task = asyncio.create_task(worker.handle())
        await wait_until_async(
            lambda: of_kind(made, SpanKind.CONSUMER), "the job to be done", timeout=PATIENCE
        )
        task.cancel()
        await asyncio.wait([task])
        producer = only(of_kind(made, SpanKind.PRODUCER))
        job = only(of_kind(made, SpanKind.CONSUMER))
        assert job.name == "process jobs-work.thumbs"
        assert job.parent is not None
        assert job.parent.span_id == producer.get_span_context().span_id
        assert job.get_span_context().trace_id == producer.get_span_context().trace_id
        assert not job.links
        assert consumer.found == [job.get_span_context()]


class TestStreams:
    @pytest.mark.parametrize("receivers", [1, 2])
    async def test_a_record_of_another_program_is_linked(
        self, layers: Layers, made: Made, receivers: int
    ) -> None:
        streams = {"prices": {"topic": "market", "group": "prices", "type": "price"}}
        layer = layers("streams", streams=streams, tracing=True)
        channels = [await layer.new_channel() for _ in range(receivers)]
        for channel in channels:
            await layer.group_add("prices", channel)
        theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        await layer.produce("prices", 1, headers={"traceparent": theirs})
        for channel in channels:
            message = await handled(layer, channel)
            assert message["headers"] == {"traceparent": theirs}
        consumers = of_kind(made, SpanKind.CONSUMER)
        assert len(consumers) == receivers
        for consumer in consumers:
            assert consumer.name == "process market"
            [link] = consumer.links
            assert format(link.context.span_id, "016x") == "b7ad6b7169203331"

    async def test_a_record_of_ours_carries_our_span(self, layers: Layers, made: Made) -> None:
        streams = {"prices": {"topic": "market", "group": "prices", "type": "price"}}
        layer = layers("ours", streams=streams, tracing=True, await_produce=True)
        channel = await layer.new_channel()
        await layer.group_add("prices", channel)
        await layer.produce("prices", 1, headers={"source": "test"})
        message = await handled(layer, channel)
        assert set(message["headers"]) == {"source", "traceparent"}
        producer = only(of_kind(made, SpanKind.PRODUCER))
        assert producer.name == "send market"
        assert_linked(only(of_kind(made, SpanKind.CONSUMER)), producer)

    async def test_a_record_for_a_worker_is_linked(self, layers: Layers, made: Made) -> None:
        """It has other readers beside the worker."""
        streams = {
            "orders": {
                "topic": "orders",
                "worker_channel": "billing",
                "type": "a",
                "start": "earliest",
            }
        }
        layer = layers("worker", streams=streams, tracing=True)
        taking = asyncio.create_task(layer.receive_job("billing"))
        await layer.produce("orders", 1)
        message, job = await asyncio.wait_for(taking, PATIENCE)
        with handling(message):
            job.done()
        assert_linked(
            only(of_kind(made, SpanKind.CONSUMER)), only(of_kind(made, SpanKind.PRODUCER))
        )


def test_a_layer_for_tests_takes_the_setting() -> None:
    assert InMemoryKafkaChannelLayer(tracing=True).config.tracing
