"""Sends that make spans: takes the place of ``Sender`` where the settings ask for traces."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..config.settings import LayerConfig
from ..delivery.tickets import Steps, Ticket
from ..messages import Position
from ..observe.counters import Stats
from ..observe.spans import Tracing, fail
from ..transport import Backplane
from ..wire.records import ProducerRecord
from .sending import Sender

if TYPE_CHECKING:
    from opentelemetry.trace import Span

__all__ = ["TracedSender", "in_span"]


class TracedSender(Sender):
    """Does what ``Sender`` does, and sends the context of a span along with each message.

    Commands are sent by ``publish`` and ``request``, which make no span.

    Args:
        config: As for ``Sender``.
        transport: As for ``Sender``.
        stats: As for ``Sender``.

    Attributes:
        tracing: Makes the spans.
    """

    def __init__(self, config: LayerConfig, transport: Backplane, stats: Stats) -> None:
        super().__init__(config, transport, stats)
        self.tracing = Tracing(config)

    def try_publish(self, record: ProducerRecord) -> bool:
        """Do what ``Sender.try_publish`` does."""
        topic, key, value, partition, headers = record
        if topic not in self._at_once:
            return False
        span, context = self.tracing.begin_send(topic, len(value))
        try:
            queued = super().try_publish((topic, key, value, partition, [*headers, *context]))
        except Exception as error:
            fail(span, error)
            span.end()
            raise
        if queued:
            span.end()
        # Otherwise the caller calls send() next, which makes another span. A span that is never
        # ended is not exported.
        return queued

    def send(self, record: ProducerRecord) -> Steps[Ticket[Position] | None]:
        """Do what ``Sender.send`` does; with ``await_produce`` the span ends with the ticket."""
        topic, key, value, partition, headers = record
        span, context = self.tracing.begin_send(topic, len(value))
        return in_span(span, super().send((topic, key, value, partition, [*headers, *context])))


def in_span(span: Span, steps: Steps[Ticket[Position] | None]) -> Steps[Ticket[Position] | None]:
    """Do the steps of a send, and end its span; with an awaited record when that is acknowledged.

    Args:
        span: The span.
        steps: The steps.
    """
    try:
        ticket = yield from steps
    except BaseException as error:
        fail(span, error)
        span.end()
        raise
    if ticket is None:
        span.end()
    else:
        ticket.on_done(partial(_end, span))
    return ticket


def _end(span: Span, written: Ticket[Position]) -> None:
    if written.error is None:
        position = written.result()
        span.set_attribute("messaging.destination.partition.id", str(position.partition))
        span.set_attribute("messaging.kafka.offset", position.offset)
    else:
        fail(span, written.error)
    span.end()
