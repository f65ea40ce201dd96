"""The server of a layer with ``tracing``; takes the place of ``LayerServer``."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from ..delivery.mailbox import Envelope, Mailbox, Read
from ..delivery.tickets import Steps, Ticket
from ..jobs.ack import JobInHand
from ..jobs.channel import WorkChannel
from ..jobs.feature import Jobs
from ..jobs.job import Job
from ..messages import Message, Position
from ..observe.spans import TracedMessage, Tracing, fail
from ..server.sending import Sender
from ..server.traced_sending import TracedSender, in_span
from ..streams.producing import Producing
from ..transport import FetchedRecord
from ..wire.headers import TRACEPARENT, Headers, ProducedHeaders
from ..wire.records import Place, StreamProducerRecord
from ..wire.topics import Topic
from .current_server import LayerServer

__all__ = ["TracedServer"]


class _TracedWorkChannel(WorkChannel):
    """A worker channel whose jobs carry their headers."""

    def accept(self, record: FetchedRecord, place: Place, assignment: object) -> Job | None:
        """Do what ``WorkChannel.accept`` does."""
        job = super().accept(record, place, assignment)
        if job is not None:
            job.trace = record.headers() or ()
        return job


class _TracedJobs(Jobs):
    """Worker channels whose messages get a span, also those that are records of streams."""

    channel_class: ClassVar[type[WorkChannel]] = _TracedWorkChannel

    async def receive(self, channel: str) -> tuple[dict[str, Any], JobInHand]:
        """Do what ``Jobs.receive`` does."""
        message, in_hand = await super().receive(channel)
        return cast("TracedServer", self._server).carrying(message, in_hand.job), in_hand


class _TracedProducing(Producing):
    """Does what ``Producing`` does, and sends the context of a span along with each record.

    Args:
        server: As for ``Producing``.
        tracing: Makes the spans.
    """

    def __init__(self, server: LayerServer, tracing: Tracing) -> None:
        super().__init__(server)
        self._tracing = tracing

    def send(self, record: StreamProducerRecord) -> Steps[Ticket[Position] | None]:
        """Do what ``Producing.send`` does. A context that the caller gave goes as it is."""
        topic, key, value, partition, headers = record
        span, context = self._tracing.begin_send(topic, len(value or b""))
        # In another list: produce_failed carries the headers as the caller gave them.
        traced = ProducedHeaders(cast("ProducedHeaders", headers).produced)
        if not any(name == TRACEPARENT for name, _ in headers):
            traced.extend(context)
        return in_span(span, super().send((topic, key, value, partition, traced)))


class TracedServer(LayerServer):
    """A server that makes a span for each send, and messages from which their handlers get one."""

    sender_class: ClassVar[type[Sender]] = TracedSender

    @property
    def tracing(self) -> Tracing:
        """Makes the spans."""
        return cast("TracedSender", self.sender).tracing

    def deliver_locally(
        self, mailbox: Mailbox, payload: bytes, headers: Headers | tuple[()] = ()
    ) -> None:
        """Do what ``Server.deliver_locally`` does."""
        span, context = self.tracing.begin_send(Topic.SEND_CONN, len(payload))
        try:
            super().deliver_locally(mailbox, payload, context)
        except Exception as error:
            fail(span, error)
            raise
        finally:
            span.end()

    def decode_for_receive(self, mailbox: Mailbox, envelope: Envelope) -> dict[str, Any] | None:
        """Do what ``Server.decode_for_receive`` does."""
        message = super().decode_for_receive(mailbox, envelope)
        return None if message is None else self.carrying(message, envelope)

    def carrying(self, message: dict[str, Any], envelope: Envelope) -> dict[str, Any]:
        """Return a message with what the span of its handler needs."""
        is_own = isinstance(message, (Message, TracedMessage))
        traced: Any = message if is_own else TracedMessage(message)
        traced.envelope, traced.traced_by = envelope, self.tracing
        return cast("dict[str, Any]", traced)

    def _opened_by(self, read: Read) -> Read:
        read = super()._opened_by(read)

        def read_and_carry(mailbox: Mailbox, envelope: Envelope) -> dict[str, Any] | None:
            message = read(mailbox, envelope)
            return None if message is None else self.carrying(message, envelope)

        return read_and_carry

    def _jobs_class(self) -> type[Jobs]:
        return _TracedJobs

    def _new_producing(self) -> Producing:
        return _TracedProducing(self, self.tracing)
