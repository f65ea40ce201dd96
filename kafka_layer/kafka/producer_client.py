"""The librdkafka producer of a server, and its replacements.

After a fatal error a librdkafka producer refuses everything, so a new one takes its place; the same
if it never finds a broker again after an outage. The layer reports the records that the old one
still holds as failed: a broker may have them, and no record is written twice.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import (
    KafkaError,
    KafkaException,
    Message,
)
from django.core.exceptions import ImproperlyConfigured

from ..config.librdkafka import Properties
from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..config.threads import RLock, new_event, new_thread
from ..delivery.tickets import Ticket
from ..exceptions import LayerClosed
from ..messages import Position
from ..observe.counters import Stats
from ..transport_values import QueueFull
from .clients import new_client
from .connection import Connection
from .delivery_reports import RAISE_PENDING, DeliveryReports
from .errors import kafka_error
from .log import client_logger
from .pending import NumberedProducer, Pending, UnknownPartition
from .properties import producer_properties

__all__ = ["ClientState", "ProducerClient"]

logger = logging.getLogger("kafka_layer")

_QUEUE_LIMIT = 100_000  # librdkafka's default
# Seconds of one round of reports on purged records: a report takes some 20 µs.
_REPORT_TIME = 0.05


class ClientState(enum.Enum):
    """The states of a ``ProducerClient``."""

    NEW = "new"
    LIVE = "live"
    FAILED = "failed"
    CLOSED = "closed"


class ProducerClient:
    """Passes records to librdkafka and reports the outcome of each; any thread.

    Only ``tend`` reports the records of replaced or closed clients, in its caller's thread: no
    sender waits for that, and no report is lost, however long the reports take.

    ====== ============================================== ======
    state  event                                          next
    ====== ============================================== ======
    NEW    open()                                         LIVE
    LIVE   a fatal error of the current client            FAILED
    LIVE   replace(): a new client                        LIVE
    LIVE   replace(), just after another replacement      FAILED
    FAILED replace(), tend() or enqueue(): a new client   LIVE
    FAILED the same, just after another replacement       FAILED
    any    close()                                        CLOSED
    ====== ============================================== ======

    Args:
        config: The layer's settings.
        stats: Counts failed records.
        connection: Gets errors and answers.
        on_unknown_topic: Called, from any thread, when a topic or partition is missing.
        roused: Set when ``poll`` or ``tend`` is due at once.

    Attributes:
        current: The client that takes records; None before ``open`` and after ``close``.
        queue_limit: How many records its queue holds.
        keep_reported: Keeps a record that a client reports because it does not know the partition;
            returns whether it does. The producer sets it.
    """

    def __init__(
        self,
        config: LayerConfig,
        stats: Stats,
        connection: Connection,
        on_unknown_topic: Callable[[], None],
        roused: threading.Event,
    ) -> None:
        self.current: NumberedProducer | None = None
        self._properties = producer_properties(config)
        self.queue_limit = _queue_limit(self._properties)
        self.keep_reported: Callable[[Pending], bool] = lambda pending: False
        self._replace_interval = config.timings.producer_replace
        self._stats = stats
        self._connection = connection
        self._reports = DeliveryReports(
            config.prefix, stats, connection, on_unknown_topic, self._note_pending
        )
        self._settle = self._reports.settle
        self._roused = roused
        # Guards the fields down to _next_replacement. Re-entrant, for callbacks of a client.
        self._lock = RLock()
        self._closed = False
        # The number of the last client that was made.
        self._generation = 0
        # Replaced and closed clients that may hold records.
        self._retired: list[NumberedProducer] = []
        # Whether tend() has returned True, so that nobody calls it again.
        self._tended = False
        self._next_replacement = float("-inf")
        # The generation that had a fatal error; 0: none.
        self._failed = 0
        # How many awaited reports are outstanding; the event is set while there are any.
        self._outstanding = 0
        self._awaited = new_event()

    @property
    def state(self) -> ClientState:
        """The present state."""
        client = self.current
        if self._closed:
            return ClientState.CLOSED
        if client is None:
            return ClientState.NEW
        return ClientState.FAILED if self._failed == client.generation else ClientState.LIVE

    def open(self) -> None:
        """Create the client, if there is none; no I/O in this thread.

        Raises:
            ImproperlyConfigured: If librdkafka refuses a property.
            LayerClosed: After ``close``.
        """
        with self._lock:
            if self._closed:
                raise LayerClosed("The channel layer is closed.")
            if self.current is None:
                self._make()

    def enqueue(self, client: NumberedProducer, pending: Pending) -> None:
        """Pass a record to librdkafka; any error becomes the failure of the record.

        Args:
            client: The value of ``current`` a moment ago.
            pending: The record.

        Raises:
            QueueFull: If librdkafka's queue is full.
            UnknownPartition: If the client does not know the record's partition.
        """
        name, value, key, partition, headers, ticket = pending
        try:
            if headers or ticket is not None:
                # A report does not carry the headers, so the callback keeps them.
                report = partial(self._on_delivery_with, client.generation, headers, ticket)
                client.produce(name, value, key, partition, report, headers=list(headers))
                if ticket is not None:
                    self._await_reports(1)
            else:
                client.produce(name, value, key, partition, client.report)
        except BufferError:
            raise QueueFull from None
        except KafkaException as exception:
            error = kafka_error(exception)
            if error.code() == KafkaError._UNKNOWN_PARTITION and partition >= 0:
                raise UnknownPartition from None
            self._enqueue_on_replacement(client, pending, error)
        except Exception as exception:
            self.reject(pending, KafkaError(KafkaError._FAIL, repr(exception)))
        if client is not self.current:
            # Another thread has replaced or closed the client, and may have emptied it already.
            self._retire(client)

    def ask_for_partitions(self, topic: str) -> None:
        """Have the current client learn the partitions of a topic; returns at once.

        Args:
            topic: Kafka's name of it.
        """
        client = self.current
        if client is not None:
            # The request leaves all the same, and the client takes its answer.
            with contextlib.suppress(KafkaException):
                client.list_topics(topic, timeout=0)

    def reject(self, pending: Pending, error: KafkaError) -> None:
        """Report a record that never reached librdkafka as failed."""
        name, value, key, partition, headers, ticket = pending
        raw = key.encode() if isinstance(key, str) else key
        message = Message(topic=name, partition=partition, key=raw)
        message.set_value(value)
        self._settle(self._generation, error, message, headers, ticket)

    def poll(self, timeout: float) -> int:
        """Serve delivery reports, in the calling thread.

        Args:
            timeout: Seconds to wait for a report, if one is awaited.

        Returns:
            How many reports there were.
        """
        client = self.current
        if client is None:
            return 0
        with self._noting_failure(client.generation):
            return client.poll(timeout if self._outstanding else 0)
        return 0

    def pause(self, seconds: float) -> None:
        """Wait, until a report is awaited."""
        self._awaited.wait(seconds)

    def flush(self, timeout: float) -> bool:
        """Wait until librdkafka has written or given up every record.

        Args:
            timeout: Seconds that this may block.

        Returns:
            Whether it holds no record any more; False after a fatal error.
        """
        client = self.current
        if client is None:
            return True
        with self._noting_failure(client.generation):
            return client.flush(timeout) == 0
        return False

    def replace(self) -> None:
        """Go on with a new client; the old one's records are reported as failed."""
        client = self.current
        if client is not None:
            self._replace(client)

    def tend(self) -> bool:
        """Replace a client after a fatal error; report the records of replaced or closed clients.

        It takes some 50 µs a record, and leaves records that librdkafka has not given up yet to the
        next call.

        Returns:
            Whether no other call is needed: all is closed and reported.
        """
        client = self.current
        if client is not None and self.state is ClientState.FAILED:
            self._replace(client)
        with self._lock:
            retired, self._retired = self._retired, []
        for client in retired:
            # The client frees itself when no thread is in a call of it any more.
            if not _is_reported(client):
                self._retire(client)
        with self._lock:
            self._tended = self._closed and not self._retired
            return self._tended

    def close(self) -> None:
        """Take no more records; ``tend`` reports the queued ones as failed."""
        with self._lock:
            self._closed = True
            client, self.current = self.current, None
        if client is not None:
            self._retire(client)

    def _make(self) -> None:
        generation = self._generation + 1
        properties = Properties(
            {
                **self._properties,
                "error_cb": partial(self._on_error, generation),
                "logger": client_logger,
            }
        )
        client = new_client(NumberedProducer, properties, "producer_config")
        client.generation = generation
        client.report = partial(self._on_delivery, generation)
        self._generation = generation
        self.current = client

    def _enqueue_on_replacement(
        self, client: NumberedProducer, pending: Pending, error: KafkaError
    ) -> None:
        another = self._replace(client) if _is_fatal(error) else None
        if another is not None:
            self.enqueue(another, pending)
        else:
            self.reject(pending, error)

    def _replace(self, failed: NumberedProducer) -> NumberedProducer | None:
        """Make a new client in place of one with a fatal error.

        Returns:
            The current client; None if it is too early for another one, or after ``close``.
        """
        with self._lock:
            if self.current is not failed:
                return self.current
            now = monotonic()
            if now < self._next_replacement:
                self._failed = self._generation
                return None
            self._next_replacement = now + self._replace_interval
            try:
                self._make()
            except ImproperlyConfigured as error:
                # The properties worked before, so file handles or memory may have run out.
                logger.error("No new Kafka producer could be made: %s", error)
                self._failed = self._generation
                return None
            self._retire(failed)
            another = self.current
        self._stats.count("producer.replaced")
        logger.error("The Kafka producer was replaced by a new one")
        return another

    def _retire(self, client: NumberedProducer) -> None:
        """Let ``tend`` report the records of a client that is not the current one."""
        with self._lock:
            if client not in self._retired:
                self._retired.append(client)
            tended, self._tended = self._tended, False
        self._roused.set()
        if tended:
            # A sender passed on a record during the close, and nobody calls tend() any more.
            new_thread(target=self._tend_to_the_end, name="kafka-layer-producer").start()

    def _tend_to_the_end(self) -> None:
        while not self.tend():
            pass

    @contextlib.contextmanager
    def _noting_failure(self, generation: int) -> Iterator[None]:
        """Note a fatal error that a call of the client raises, and go on."""
        # poll or flush raises a fatal error, once; librdkafka does not pass it to error_cb.
        try:
            yield
        except KafkaException as exception:
            error = kafka_error(exception)
            if not _is_fatal(error):
                raise
            self._note_fatal(generation, error)
        except SystemError:
            # A callback ran with the exception pending, and noted it.
            if self._failed != generation:
                raise

    def _note_fatal(self, generation: int, error: KafkaError) -> None:
        self._failed = max(self._failed, generation)
        if generation != self._generation:
            return
        self._stats.count(f"errors.{error.name()}")
        if error.code() == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
            self._reports.forbidden = error
        logger.error("The Kafka producer failed for good: %s", error.str())

    def _clear_pending_exception(self, generation: int) -> None:
        """Note and clear the exception of a fatal error, which is pending in later callbacks.

        The first call in such a callback would raise a SystemError.
        """
        try:
            RAISE_PENDING()
        except SystemError as raised:
            self._note_pending(generation, raised)

    def _note_pending(self, generation: int, raised: SystemError) -> None:
        cause = raised.__cause__
        if not isinstance(cause, KafkaException):
            raise raised
        self._note_fatal(generation, kafka_error(cause))

    def _on_error(self, generation: int, error: KafkaError) -> None:
        self._clear_pending_exception(generation)
        self._connection.on_error(error)
        if _is_fatal(error):
            self._failed = max(self._failed, generation)

    def _on_delivery(self, generation: int, error: KafkaError | None, message: Message) -> None:
        if error is None or not self._keeps(generation, error, message, (), None):
            self._settle(generation, error, message)

    def _on_delivery_with(
        self,
        generation: int,
        headers: Sequence[tuple[str, bytes]],
        ticket: Ticket[Position] | None,
        error: KafkaError | None,
        message: Message,
    ) -> None:
        try:
            self._clear_pending_exception(generation)
            if ticket is not None:
                self._await_reports(-1)
        finally:
            if error is None or not self._keeps(generation, error, message, headers, ticket):
                self._settle(generation, error, message, headers, ticket)

    def _keeps(
        self,
        generation: int,
        error: KafkaError,
        message: Message,
        headers: Sequence[tuple[str, bytes]],
        ticket: Ticket[Position] | None,
    ) -> bool:
        """Keep a failed record whose partition the client did not know; raises nothing."""
        try:
            self._clear_pending_exception(generation)
            name, partition, key = message.topic(), message.partition(), message.key()
            if error.code() != KafkaError._UNKNOWN_PARTITION or name is None or partition is None:
                return False
            return self.keep_reported((name, message.value(), key, partition, headers, ticket))
        except Exception:
            logger.exception("A record of an unknown partition could not be kept")
            return False

    def _await_reports(self, change: int) -> None:
        with self._lock:
            self._outstanding += change
            if self._outstanding > 0:
                self._awaited.set()
                self._roused.set()
            else:
                self._awaited.clear()


def _is_fatal(error: KafkaError) -> bool:
    # The error that produce() raises after a fatal error has the code and not the flag.
    return error.fatal() or error.code() == KafkaError._FATAL


def _is_reported(client: NumberedProducer) -> bool:
    """Report the records of a client as failed; return False if some are not reported yet.

    This does not close the client: ``Producer.close`` waits for calls of other threads, and without
    a bound for a record that another thread queues meanwhile while no broker answers. The client
    frees itself with its last reference.
    """
    # A blocking purge would wait for librdkafka's threads, which may be looking up a host name.
    _served(partial(client.purge, blocking=False))
    _served(partial(client.flush, _REPORT_TIME))
    return not len(client)


def _served(call: Callable[[], object]) -> None:
    # After a fatal error the first call raises it again.
    with contextlib.suppress(KafkaException, SystemError):
        call()


def _queue_limit(properties: Mapping[str, Any]) -> int:
    # 0 means no limit in librdkafka, which itself refuses a value that is no number.
    limit = str(properties.get("queue.buffering.max.messages", _QUEUE_LIMIT))
    return (int(limit) if limit.isdecimal() else _QUEUE_LIMIT) or sys.maxsize
