"""Traces between two processes on a real Kafka, as a collector gets them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from kafka_layer.observe import spans
from kafka_layer.tracing import handling
from tests.support.layers import Layers, next_message
from tests.support.otlp import SpanReceiver
from tests.support.patience import PATIENT
from tests.support.processes import RemoteLayer
from tests.support.records import create_topic
from tests.support.waiting import wait_until_async

KEYS = ["a-key-of-the-tests"]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[SpanReceiver]:
    """Gets the spans of this process, and of those that it starts."""
    with SpanReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.address)
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
        monkeypatch.setattr(spans, "_TRACER", provider.get_tracer("test"))
        yield receiver
        provider.shutdown()


async def only(receiver: SpanReceiver, name: str) -> Span:
    found = await wait_until_async(lambda: receiver.named(name), f"the span {name}")
    assert len(found) == 1, name
    return found[0]


async def test_from_a_send_to_its_handlers_in_another_process(
    make_layer: Layers, kafka: str, prefix: str, receiver: SpanReceiver
) -> None:
    """Encrypted, beside a server without traces, which gets the same messages."""
    topic = f"{prefix}-market"
    create_topic(kafka, topic)
    streams = {"prices": {"topic": topic, "group": "prices", "type": "price"}}
    config: dict[str, Any] = {"symmetric_encryption_keys": KEYS, "streams": streams}
    make_layer.timings = PATIENT
    there = make_layer(prefix, tracing=True, **config)
    untraced = make_layer(prefix, **config)
    channel, other = await there.new_channel(), await untraced.new_channel()
    for layer, name in ((there, channel), (untraced, other)):
        await layer.group_add("room", name)
        await layer.group_add("prices", name)
        await layer.user_add("7", name)
    remote = RemoteLayer(
        **make_layer.backend.config, prefix=prefix, tracing=True, await_produce=True, **config
    )
    async with remote:
        for call, arguments, name in (
            ("group_send", ["room", {"type": "a"}], f"{prefix}-send-group"),
            ("user_send", ["7", {"type": "a"}], f"{prefix}-send-user"),
            ("all_send", [{"type": "a"}], f"{prefix}-send-all"),
            ("send", [channel, {"type": "a"}], f"{prefix}-send-conn"),
            ("produce", ["prices", 1], topic),
        ):
            await remote.call(call, *arguments)
            with handling(await next_message(there, channel)):
                pass
            if call != "send":
                assert type(await next_message(untraced, other)) is dict
            sent = await only(receiver, f"send {name}")
            handled = await only(receiver, f"process {name}")
            assert (sent.kind, handled.kind) == (Span.SPAN_KIND_PRODUCER, Span.SPAN_KIND_CONSUMER)
            assert [(each.trace_id, each.span_id) for each in handled.links] == [
                (sent.trace_id, sent.span_id)
            ]
            assert not handled.parent_span_id
            # Of a stream's record with one receiver the place is not kept.
            assert call == "produce" or place_of(sent) == place_of(handled)
        taking = asyncio.create_task(there.receive_job("thumbs"))
        await remote.call("send", "thumbs", {"type": "a"})
        message, job = await asyncio.wait_for(taking, 60)
        with handling(message):
            job.done()
    sent = await only(receiver, f"send {prefix}-work.thumbs")
    handled = await only(receiver, f"process {prefix}-work.thumbs")
    assert (handled.trace_id, handled.parent_span_id) == (sent.trace_id, sent.span_id)
    assert not handled.links


def place_of(span: Span) -> tuple[str, int]:
    attributes = {each.key: each.value for each in span.attributes}
    assert attributes["messaging.system"].string_value == "kafka"
    return (
        attributes["messaging.destination.partition.id"].string_value,
        attributes["messaging.kafka.offset"].int_value,
    )
