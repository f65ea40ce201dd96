"""The producer of a server: writes records and reports, for each, what became of it.

``produce()`` is thread-safe and never blocks. A small thread polls for the delivery reports; it is
a daemon, has a name and ends with :meth:`RecordProducer.close`.
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from ..addressing import Topic, WorkTopic
from ..backplane import Delivered, Outgoing, Position, QueueFull
from ..conf import LayerConfig
from ..exceptions import ProduceFailed
from ..signals import produce_failed
from ..stats import Stats
from .clients import abandon, new_client
from .connection import Connection
from .errors import client_logger, kafka_error, produce_error
from .properties import producer_properties

__all__ = ["RecordProducer"]

logger = logging.getLogger("kafka_layer")

_POLL = 0.1
# Without a pause the thread fights with the sender for the interpreter over each single report:
# a send took 16 us instead of 7, measured. Awaited reports do not wait for it.
_PACE = 0.01
_PARTITIONER_DECIDES = -1
_EARLIEST = 1_000_000_000.0


class RecordProducer:
    """One producer of one server; the methods may be called from any thread.

    Args:
        config: The layer's settings.
        topics: Kafka's names of the topics.
        stats: Counts what was sent and what failed.
        connection: Is told of errors and answers.

    Attributes:
        own_partition: Where records without a key go, so that a sender's stay in order.
    """

    def __init__(
        self,
        config: LayerConfig,
        topics: Mapping[Topic, str],
        stats: Stats,
        connection: Connection,
    ) -> None:
        self.own_partition = 0
        self._topics = topics
        self._work: dict[WorkTopic, tuple[str, itertools.count[int], int]] = {}
        self._stats = stats
        self._connection = connection
        self._properties: dict[str, Any] = {
            **producer_properties(config),
            "error_cb": self._on_error,
            "logger": client_logger,
        }
        self._lock = threading.Lock()
        self._client: Producer | None = None
        self._failed = threading.Event()
        self._awaited = threading.Event()
        self._outstanding = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def client(self) -> Producer:
        """The client, for metadata requests."""
        if self._client is None:
            raise ProduceFailed("The channel layer is closed.")
        return self._client

    @property
    def queued(self) -> int:
        """Records that wait for the broker's acknowledgement."""
        client = self._client
        return 0 if client is None else len(client)

    def start(self) -> None:
        """Create the client; no I/O in this thread. Idempotent.

        Raises:
            ImproperlyConfigured: If librdkafka refuses a property.
            ProduceFailed: If it was closed already.
        """
        with self._lock:
            if self._stop.is_set():
                raise ProduceFailed("The channel layer is closed.")
            if self._client is None:
                self._client = new_client(Producer, self._properties, "producer_config")
                self._thread = threading.Thread(
                    target=self._run, name="kafka-layer-producer", daemon=True
                )
                self._thread.start()

    def produce(self, record: Outgoing, delivered: Delivered | None = None) -> None:
        """Queue a record; see :meth:`kafka_layer.backplane.Backplane.produce`."""
        topic, key, value, partition, headers = record
        if isinstance(topic, WorkTopic):
            name, partition = self._turn_of(topic)
        else:
            name = self._topics[topic]
            if partition is None:
                partition = self.own_partition if key is None else _PARTITIONER_DECIDES
        try:
            if headers or delivered is not None:
                self._produce_with(record, name, partition, delivered)
            else:
                self.client.produce(name, value, key, partition, self._report)
        except BufferError:
            raise QueueFull from None
        except KafkaException as exception:
            error = kafka_error(exception)
            if error.fatal():
                self._failed.set()
            refused = Message(topic=name, partition=partition, key=_bytes(key))
            refused.set_value(value)
            self._report(error, refused, record, delivered)
        else:
            self._stats.count("sent")

    def settle(self, timeout: float) -> bool:
        """Wait until everything that was queued so far is written, or failed.

        Args:
            timeout: Seconds that this may block.

        Returns:
            Whether that is so.
        """
        return self.client.flush(timeout) == 0

    def spread(self, topic: WorkTopic, name: str, partitions: int) -> None:
        """Let the messages of a worker channel go to its partitions in turn.

        librdkafka's own choice stays with one partition for a while: a burst of jobs would leave
        workers idle.

        Args:
            topic: The channel's topic.
            name: Kafka's name of it.
            partitions: How many it has.
        """
        present = self._work.get(topic)
        if present is None or present[2] != partitions:
            self._work[topic] = (name, itertools.count(random.randrange(partitions)), partitions)

    def work_topics(self) -> list[WorkTopic]:
        """Return the topics of the worker channels that this producer has written to."""
        return list(self._work)

    def _turn_of(self, topic: WorkTopic) -> tuple[str, int]:
        name, turns, partitions = self._work[topic]
        return name, next(turns) % partitions

    def _produce_with(
        self, record: Outgoing, name: str, partition: int, delivered: Delivered | None
    ) -> None:
        # A report does not carry the headers, so the record goes with it.
        report = partial(self._report_with, record, delivered)
        self.client.produce(
            name,
            record.value,
            record.key,
            partition,
            on_delivery=report,
            headers=list(record.headers),
        )
        if delivered is not None:
            self._await_reports(1)

    def close(self, timeout: float) -> None:
        """Write what is queued, give up the rest, free the client; at most ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        self._stop.set()
        with self._lock:
            client, self._client = self._client, None
        if client is None:
            return
        _dispose(client, timeout)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, deadline - time.monotonic()))

    def abandon(self) -> None:
        """Keep the client from ever being freed: in a forked child that aborts the process."""
        abandon(self._client)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                client = self._client
                if client is None:
                    return
                client.poll(_POLL)
                self._awaited.wait(_PACE)
                if self._failed.is_set():
                    self._replace(client)
            except Exception:
                if self._stop.wait(_POLL):
                    return
                self._stats.count("errors.producer")
                logger.exception("The producer's thread goes on after an error")

    def _replace(self, failed: Producer) -> None:
        # After a fatal error every produce of a client raises: only a new one helps.
        with self._lock:
            if self._client is None:
                return
            self._failed.clear()
            self._client = new_client(Producer, self._properties, "producer_config")
        self._stats.count("producer.replaced")
        logger.error("The Kafka producer failed for good and was replaced by a new one")
        _dispose(failed, 0.0)

    def _report_with(
        self,
        record: Outgoing,
        delivered: Delivered | None,
        error: KafkaError | None,
        message: Message,
    ) -> None:
        if delivered is not None:
            self._await_reports(-1)
        self._report(error, message, record, delivered)

    def _await_reports(self, change: int) -> None:
        with self._lock:
            self._outstanding += change
            if self._outstanding > 0:
                self._awaited.set()
            else:
                self._awaited.clear()

    def _on_error(self, error: KafkaError) -> None:
        self._connection.on_error(error)
        if error.fatal():
            self._failed.set()

    def _report(
        self,
        error: KafkaError | None,
        message: Message,
        record: Outgoing | None = None,
        delivered: Delivered | None = None,
    ) -> None:
        # An exception here would come out of poll() as a SystemError on Python < 3.12.
        try:
            if error is None:
                self._connection.on_answer()
                if delivered is not None:
                    delivered(_position(message), None)
            else:
                failure = produce_error(message.topic() or "", message.key(), error)
                self._fail(failure, message, list(record.headers) if record else [])
                if delivered is not None:
                    delivered(None, failure)
        except Exception:
            logger.exception("A delivery report could not be handled")

    def _fail(self, failure: Exception, message: Message, headers: list[tuple[str, bytes]]) -> None:
        self._stats.count("failed")
        self._stats.dropped("produce", str(failure))
        produce_failed.send_robust(
            sender=RecordProducer,
            prefix=self._stats.prefix,
            error=failure,
            topic=message.topic(),
            key=message.key(),
            value=message.value(),
            headers=headers,
        )


def _bytes(key: str | None) -> bytes | None:
    return None if key is None else key.encode()


def _position(message: Message) -> Position:
    timestamp = message.timestamp()[1] / 1000
    return Position(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        # The embedded broker reports a constant from 1970 as the time of every record.
        timestamp if timestamp > _EARLIEST else time.time(),
    )


def _dispose(client: Producer, timeout: float) -> None:
    # close() alone would flush without end while the broker is down.
    client.flush(timeout)
    client.purge()
    client.flush(0.1)
    client.close()
