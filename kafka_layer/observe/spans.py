"""Spans of OpenTelemetry: one for each send, and one for each handler that gets the message.

The first layer with ``"tracing": True`` imports this module. Spans and attributes have the names of
the semantic conventions for messaging. No span has the name of a group, the id of a user or the
content of a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from channels.exceptions import StopConsumer
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .. import __version__
from ..config.settings import LayerConfig
from ..wire.headers import TRACE_HEADERS, TRACEPARENT, Headers
from ..wire.topics import AnyTopic, Topic, WorkTopic, topic_name

__all__ = ["TracedMessage", "Tracing", "fail"]

_PROPAGATOR = TraceContextTextMapPropagator()
_TRACER = trace.get_tracer("kafka_layer", __version__)


class TracedMessage(dict[str, Any]):
    """A message with the means to make the span of its handler; otherwise a plain dict.

    Attributes:
        envelope: The envelope or the job that it was decoded from.
        traced_by: Makes the span of its handler.
    """

    __slots__ = ("envelope", "traced_by")

    envelope: Any
    traced_by: Tracing

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


class Tracing:
    """Makes the spans of one layer; any thread.

    Args:
        config: The layer's settings.
    """

    def __init__(self, config: LayerConfig) -> None:
        self._prefix = config.prefix
        self._streams = config.streams

    def begin_send(self, topic: AnyTopic, size: int) -> tuple[Span, Headers]:
        """Begin the span of a send.

        Args:
            topic: Where the record goes.
            size: The bytes of its value.

        Returns:
            The span, which the caller ends, and the headers that carry its context.
        """
        name = topic_name(self._prefix, topic)
        span = _TRACER.start_span(
            f"send {name}",
            kind=SpanKind.PRODUCER,
            attributes={**_attributes("send", name), "messaging.message.body.size": size},
        )
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
        return span, [(header, value.encode()) for header, value in carrier.items()]

    @contextmanager
    def process(self, message: Any) -> Iterator[None]:
        """Run the handler of a message in a span of its own.

        A message may have many receivers, so the span starts a new trace, with a link to the span
        of the send. A job has one receiver, so its span is a child of the span of the send. If the
        trace of the send is not sampled, the handler has no span, and its sends belong to that
        trace.

        Args:
            message: The message, as a receive returned it.
        """
        envelope = message.envelope
        source = self._source(envelope, message)
        origin: SpanContext | None
        if isinstance(source.headers, SpanContext):
            origin = source.headers
        else:
            origin = _origin(source.headers)
            if hasattr(envelope, "trace"):
                # Other receivers share the envelope, so parse the headers once.
                envelope.trace = origin or ()
        context = Context()
        if origin is not None and source.is_job:
            context = trace.set_span_in_context(NonRecordingSpan(origin), context)
        if origin is not None and not origin.trace_flags.sampled:
            with trace.use_span(NonRecordingSpan(origin)):
                yield
            return
        attributes = _attributes("process", source.name)
        if source.at is not None:
            partition, offset = source.at
            attributes["messaging.destination.partition.id"] = str(partition)
            attributes["messaging.kafka.offset"] = offset
        if isinstance(message.get("type"), str):
            attributes["kafka_layer.message.type"] = message["type"]
        span = _TRACER.start_span(
            f"process {source.name}",
            context=context,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=[Link(origin)] if origin is not None and not source.is_job else None,
        )
        with trace.use_span(
            span, end_on_exit=True, record_exception=False, set_status_on_exception=False
        ):
            try:
                yield
            except StopConsumer:
                raise
            except Exception as error:
                fail(span, error)
                raise

    def _source(self, envelope: Any, message: Mapping[str, Any]) -> _Source:
        topic, record = envelope.topic, envelope.payload
        at = None if topic is None else (envelope.partition, envelope.offset)
        if type(record) is dict or hasattr(envelope, "message"):
            # A record of a stream with one receiver: its envelope has the decoded message.
            stream = self._streams[message["stream"]]
            name = stream.topic or str(stream.name)
            return _Source(name, message["headers"].items(), at, is_job=False)
        if hasattr(record, "raw_headers"):
            at = record.partition, record.offset
            return _Source(record.topic, record.raw_headers, at, is_job=False)
        headers = getattr(envelope, "trace", ())
        # A message that stayed in this process has no place: it would have gone to SEND_CONN.
        name = topic_name(self._prefix, Topic.SEND_CONN if topic is None else topic)
        return _Source(name, headers, at, isinstance(topic, WorkTopic))


class _Source(NamedTuple):
    """The origin of a message.

    Attributes:
        name: Kafka's name of the topic.
        headers: The headers of its record, or the trace context that was read from them.
        at: The partition and the offset of its record; None if they are unknown.
        is_job: Whether it is a job, which has one receiver.
    """

    name: str
    headers: Iterable[tuple[str, Any]] | SpanContext
    at: tuple[int, int] | None
    is_job: bool


def fail(span: Span, error: BaseException) -> None:
    """Mark a span as failed."""
    span.record_exception(error)
    span.set_status(StatusCode.ERROR, str(error))
    span.set_attribute("error.type", type(error).__qualname__)


def _attributes(operation: str, destination: str) -> dict[str, str | int]:
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": destination,
    }


def _origin(headers: Iterable[tuple[str, Any]]) -> SpanContext | None:
    """Return the context of the span that sent a record; None if the headers have none."""
    carrier = {
        name: value.decode("ascii", "replace") if isinstance(value, bytes) else value
        for name, value in headers
        if name in TRACE_HEADERS and value is not None
    }
    if TRACEPARENT not in carrier:
        return None
    found = trace.get_current_span(_PROPAGATOR.extract(carrier, Context())).get_span_context()
    return found if found.is_valid else None
