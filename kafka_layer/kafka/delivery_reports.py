"""The delivery reports of a producer: a record is written, a duplicate, or failed.

Hot path: ``DeliveryReports.settle`` is called for every record that is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, KafkaError, Message

from ..config.realtime import wall_clock
from ..delivery.tickets import Ticket
from ..exceptions import ProduceFailed
from ..messages import Position, SelfTimedPosition
from ..observe.counters import Stats
from ..signals import produce_failed
from ..wire.headers import Produced, ProducedHeaders, has_command
from ..wire.topics import Topic, topic_name
from .connection import Connection
from .errors import UNKNOWN_TOPIC, produce_error

__all__ = ["RAISE_PENDING", "DeliveryReports"]

logger = logging.getLogger("kafka_layer")

RAISE_PENDING = partial(bool)
"""A call into C, after which CPython raises a pending exception."""

# Seconds since the epoch (2001). The embedded broker reports a constant from 1970 for every record.
_EARLIEST = 1_000_000_000.0
_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._FATAL})


class DeliveryReports:
    """Takes the delivery reports of one server's producer; any thread.

    Args:
        prefix: The layer's prefix.
        stats: Counts failed records.
        connection: Gets answers.
        on_unknown_topic: Called when a topic or partition is missing.
        on_pending: Called with the number of the record's client and what ``RAISE_PENDING`` raised:
            a fatal error of the client may be pending as an exception.

    Attributes:
        forbidden: The error with which a broker refuses the idempotent producer; None since a
            written record.
    """

    def __init__(
        self,
        prefix: str,
        stats: Stats,
        connection: Connection,
        on_unknown_topic: Callable[[], None],
        on_pending: Callable[[int, SystemError], None],
    ) -> None:
        self.forbidden: KafkaError | None = None
        # Kafka's names of the topics that carry no messages.
        self._internal = {topic_name(prefix, topic) for topic in (Topic.GROUP_MGMT, Topic.ACK)}
        self._stats = stats
        self._connection = connection
        self._on_unknown_topic = on_unknown_topic
        self._on_pending = on_pending

    def settle(
        self,
        generation: int,
        error: KafkaError | None,
        message: Message,
        headers: Sequence[tuple[str, bytes]] = (),
        ticket: Ticket[Position] | None = None,
    ) -> None:
        """Report the outcome of a record to its ticket, the counters and the receivers of signals.

        Raises nothing: on Python < 3.12 poll() would raise the exception as a SystemError.

        Args:
            generation: The number of its client.
            error: Why the record was not written; None if it was.
            message: The record.
            headers: Its headers, which the message lacks.
            ticket: Gets its position, or the error.
        """
        failure: Exception | None = None
        try:
            # Few calls, because most reports only say that a record was written.
            try:
                RAISE_PENDING()
            except SystemError as raised:
                self._on_pending(generation, raised)
            if error is None:
                self._connection.on_answer()
                self.forbidden = None
                if (message.offset() or 0) < 0:
                    self._note_doubtful(message)
            else:
                produced = headers.produced if isinstance(headers, ProducedHeaders) else None
                failure = self._failure(error, message, produced and produced.stream)
                if produced is None:
                    self._record_failure(failure, message, headers)
                else:
                    self._note_failed(failure, message, produced)
        except Exception:
            logger.exception("A delivery report could not be handled")
        finally:
            # In any case: the holder of the ticket waits for it without a time-out.
            if ticket is None:
                pass
            elif error is None:
                ticket.resolve(_position(message))
            else:
                ticket.fail(failure or ProduceFailed(error.str()))

    def _note_doubtful(self, message: Message) -> None:
        # The broker took the record for a duplicate of one whose acknowledgement was lost. It may
        # also do so with a first record, which it then never wrote.
        where = f"{message.topic()} {message.key()!r}"
        self._stats.dropped("doubtful", f"{where} was taken for a duplicate")

    def _failure(self, error: KafkaError, message: Message, stream: str | None) -> Exception:
        if error.code() in UNKNOWN_TOPIC and stream is None:
            self._on_unknown_topic()
        if error.code() in _PURGED:
            # Report the cause (not authorized), not its consequence (purged).
            error = self.forbidden or error
        refusal = self._connection.refusal
        return produce_error(message.topic() or "", message.key(), error, refusal, stream)

    def _record_failure(
        self, failure: Exception, message: Message, headers: Sequence[tuple[str, bytes]]
    ) -> None:
        if message.topic() in self._internal or has_command(headers):
            # A measurement, a command or an answer: its caller gets the error, and no message is
            # lost.
            self._stats.count("errors.command")
            logger.debug("%s", failure)
            return
        self._note_failed(
            failure, message, Produced(None, message.key(), message.value(), list(headers))
        )

    def _note_failed(self, failure: Exception, message: Message, lost: Produced) -> None:
        self._stats.count("failed")
        self._stats.dropped("produce", str(failure))
        self._stats.signal(
            produce_failed, DeliveryReports, error=failure, topic=message.topic(), **lost._asdict()
        )


def _position(message: Message) -> Position:
    kind, milliseconds = message.timestamp()
    place = message.topic() or "", message.partition() or 0, message.offset() or 0
    timestamp = milliseconds / 1000
    if timestamp < _EARLIEST:
        return SelfTimedPosition(*place, wall_clock())
    if kind != TIMESTAMP_LOG_APPEND_TIME:
        return SelfTimedPosition(*place, timestamp)
    return Position(*place, timestamp)
