"""The producer of a server: writes records and reports, for each, what became of it.

``produce()`` is thread-safe and never blocks. A small thread polls for the delivery reports; it is
a daemon, has a name and ends with ``RecordProducer.close``.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    KafkaError,
    KafkaException,
    Message,
    Producer,
)
from django.core.exceptions import ImproperlyConfigured

from ..config.librdkafka import Properties
from ..config.realtime import wall_clock
from ..config.settings import LayerConfig
from ..delivery.tickets import Ticket
from ..exceptions import ProduceFailed
from ..messages import Position, SelfTimedPosition
from ..observe.counters import Stats
from ..signals import produce_failed
from ..transport import QueueFull
from ..wire.records import ProducerRecord
from ..wire.topics import Topic, WorkTopic
from .batching import Hold, Pending
from .clients import abandon, new_client
from .connection import Connection
from .errors import UNKNOWN_TOPIC, kafka_error, produce_error
from .log import client_logger
from .properties import producer_properties

__all__ = ["RecordProducer"]

logger = logging.getLogger("kafka_layer")

# How long the thread rests where nothing is on its way, and how long it pauses between two polls.
# Without a pause it fights with the sender for the interpreter over each single report: a send took
# 16 us instead of 7, measured. And the report of a lone record comes at the moment when others
# receive it, with whom the processor is better. Awaited reports do not wait for either.
_REST = 0.1
_PACE = 0.01
_PARTITIONER_DECIDES = -1
_QUEUE_LIMIT = 100_000  # librdkafka's default
_EARLIEST = 1_000_000_000.0
# Where every new client fails for good as well, another is not made more often than that.
_REPLACE_INTERVAL = 1.0
# librdkafka looks for what expired once a second. Held back records that got into its queue when
# those before them expired would have as long once more.
_EXPIRY_PRECISION = 1.0
# What another thread hands over while this one closes takes no longer.
_GIVE_UP_PATIENCE = 0.5
_GIVEN_UP = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._FATAL})
# A call out of C, which always looks whether an exception is pending.
_CHECKED_CALL = partial(bool)


class RecordProducer:
    """One producer of one server; the methods may be called from any thread.

    Args:
        config: The layer's settings.
        topics: Kafka's names of the topics.
        stats: Counts what was sent and what failed.
        connection: Is told of errors and answers.
        on_unknown_topic: Called, from any thread, when a topic or partition is not there.

    Attributes:
        own_partition: Where records without a key go, so that a sender's stay in order.
    """

    def __init__(
        self,
        config: LayerConfig,
        topics: Mapping[Topic, str],
        stats: Stats,
        connection: Connection,
        on_unknown_topic: Callable[[], None],
    ) -> None:
        self.own_partition = 0
        self._topics = topics
        self._work: dict[WorkTopic, tuple[str, itertools.count[int], int]] = {}
        self._stats = stats
        self._connection = connection
        self._on_unknown_topic = on_unknown_topic
        self._properties = Properties(
            {
                **producer_properties(config),
                "error_cb": self._on_error,
                "logger": client_logger,
            }
        )
        # Ends the thread's rest: something is awaited or held back.
        self._roused = threading.Event()
        self._hold = Hold(
            _queue_limit(self._properties),
            max(config.expiry - _EXPIRY_PRECISION, config.expiry / 2),
            self._hand_over,
            self._roused.set,
            partial(self._refuse, error=KafkaError(KafkaError._MSG_TIMED_OUT)),
        )
        # One for all: a bound method for each record on its way would be the garbage collector's.
        self._on_delivery = self._report
        self._lock = threading.Lock()
        self._client: Producer | None = None
        self._failed = threading.Event()
        self._forbidden: KafkaError | None = None
        self._retired: list[Producer] = []
        self._next_replacement = 0.0
        # Senders that wait for room in the queue, the first to be served first.
        self._waiting: deque[Ticket[None]] = deque()
        self._awaited = threading.Event()
        self._outstanding = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def client(self) -> Producer:
        """The client, for metadata requests."""
        if self._client is None:
            raise _closed()
        return self._client

    @property
    def queued(self) -> int:
        """Records that wait for the broker's acknowledgement."""
        client = self._client
        return 0 if client is None else len(client) + len(self._hold)

    def start(self) -> None:
        """Create the client; no I/O in this thread. Idempotent.

        Raises:
            ImproperlyConfigured: If librdkafka refuses a property.
            ProduceFailed: If it was closed already.
        """
        with self._lock:
            if self._stop.is_set():
                raise _closed()
            if self._client is None:
                self._client = new_client(Producer, self._properties, "producer_config")
                self._thread = threading.Thread(
                    target=self._run, name="kafka-layer-producer", daemon=True
                )
                self._thread.start()

    def produce(
        self,
        record: ProducerRecord,
        ticket: Ticket[Position] | None = None,
        waited: bool = False,
    ) -> None:
        """Queue a record; see ``kafka_layer.transport.Backplane.produce``."""
        if self._waiting and not waited:
            raise QueueFull
        client = self._client
        if client is None:
            raise _closed()
        topic, key, value, partition, headers = record
        if isinstance(topic, WorkTopic):
            name, partition = self._turn_of(topic)
        else:
            name = self._topics[topic]
            if partition is None:
                partition = self.own_partition if key is None else _PARTITIONER_DECIDES
        self._hold.put(client, (name, value, key, partition, headers, ticket))
        self._stats.sent.add()

    def when_room(self, waited: bool = False) -> Ticket[None]:
        """Wait for room; see ``kafka_layer.transport.Backplane.when_room``."""
        ticket: Ticket[None] = Ticket()
        if waited:
            self._waiting.appendleft(ticket)
        else:
            self._waiting.append(ticket)
        self._roused.set()
        if self._stop.is_set():
            self._refuse_waiting()
        return ticket

    def _admit_waiting(self, client: Producer) -> None:
        room = self._hold.room(client) if self._waiting else 0
        while room > 0 and self._waiting:
            room -= 1
            with contextlib.suppress(IndexError):
                self._waiting.popleft().resolve(None)

    def _refuse_waiting(self) -> None:
        while self._waiting:
            with contextlib.suppress(IndexError):
                self._waiting.popleft().fail(_closed())

    def _hand_over(self, client: Producer, pending: Pending) -> None:
        """Give a record to the client; what goes wrong is reported as the record's own failure.

        Raises:
            QueueFull: If the client takes no more.
        """
        name, value, key, partition, headers, ticket = pending
        try:
            if headers or ticket is not None:
                self._produce_with(client, pending)
            else:
                client.produce(name, value, key, partition, self._on_delivery)
        except BufferError:
            raise QueueFull from None
        except KafkaException as exception:
            self._hand_on(client, pending, kafka_error(exception))
        except Exception as exception:
            self._refuse(pending, KafkaError(KafkaError._FAIL, repr(exception)))

    def _hand_on(self, client: Producer, pending: Pending, error: KafkaError) -> None:
        """Give a record to the client that takes the place of one that failed for good."""
        another = self._replace(client) if _is_fatal(error) else None
        if another is not None:
            self._hand_over(another, pending)
        else:
            self._refuse(pending, error)

    def _refuse(self, pending: Pending, error: KafkaError) -> None:
        name, value, key, partition, headers, ticket = pending
        refused = Message(topic=name, partition=partition, key=_bytes(key))
        refused.set_value(value)
        self._report(error, refused, headers, ticket)

    def settle(self, timeout: float) -> bool:
        """Wait until everything that was queued so far is written, or failed.

        Args:
            timeout: Seconds that this may block.

        Returns:
            Whether that is so.
        """
        client = self.client
        try:
            return self._flush(client, time.monotonic() + timeout)
        except KafkaException as exception:
            if not _is_fatal(kafka_error(exception)):
                raise
        except SystemError:
            if not self._failed.is_set():
                raise
        self._failed.set()
        return False

    def _flush(self, client: Producer, deadline: float) -> bool:
        self._hold.release(client)
        while self._hold and time.monotonic() < deadline:
            client.flush(_PACE)
            self._hold.release(client)
        return client.flush(max(0.0, deadline - time.monotonic())) == 0 and not self._hold

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

    def replace(self) -> None:
        """Go on with another client; what the present one still holds is reported as failed."""
        self._replace(self.client)

    def work_topics(self) -> list[WorkTopic]:
        """Return the topics of the worker channels that this producer has written to."""
        return list(self._work)

    def _turn_of(self, topic: WorkTopic) -> tuple[str, int]:
        name, turns, partitions = self._work[topic]
        return name, next(turns) % partitions

    def _produce_with(self, client: Producer, pending: Pending) -> None:
        name, value, key, partition, headers, ticket = pending
        # A report does not carry the headers, so they go with it.
        report = partial(self._report_with, headers, ticket)
        client.produce(name, value, key, partition, on_delivery=report, headers=list(headers))
        if ticket is not None:
            self._await_reports(1)

    def close(self, timeout: float) -> None:
        """Write what is queued, give up the rest, free the client; at most ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        self._stop.set()
        self._roused.set()
        self._refuse_waiting()
        with self._lock:
            client, self._client = self._client, None
        if client is None:
            return
        with contextlib.suppress(KafkaException, SystemError):
            self._flush(client, deadline)
        patience = min(_GIVE_UP_PATIENCE, max(0.0, deadline - time.monotonic()))
        for pending in self._hold.give_up(patience):
            self._refuse(pending, KafkaError(KafkaError._PURGE_QUEUE))
        _dispose(client, max(0.0, deadline - time.monotonic()))
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, deadline - time.monotonic()))

    def abandon(self) -> None:
        """Keep the client from ever being freed: in a forked child that aborts the process."""
        for client in (self._client, *self._retired):
            abandon(client)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                client = self._client
                if client is None:
                    break
                self._hold.release(client)
                if not self._poll(client) and not self.queued and not self._waiting:
                    self._roused.wait(_REST)
                    self._roused.clear()
                self._admit_waiting(client)
                self._awaited.wait(_PACE)
                if self._failed.is_set() and self._replace(client) is not None:
                    self._failed.clear()
                self._dispose_retired()
            except Exception:
                if self._stop.wait(_REST):
                    break
                self._stats.count("errors.producer")
                logger.exception("The producer's thread goes on after an error")
        self._dispose_retired()

    def _poll(self, client: Producer) -> int:
        """Serve the reports that have come; returns how many there were."""
        # A fatal error does not come to error_cb: it is raised here, once.
        try:
            return client.poll(_PACE if self._outstanding else 0)
        except KafkaException as exception:
            error = kafka_error(exception)
            if not _is_fatal(error):
                raise
            self._note_fatal(error)
        except SystemError:
            # A callback took the exception.
            if not self._failed.is_set():
                raise
        return 0

    def _note_fatal(self, error: KafkaError) -> None:
        self._stats.count(f"errors.{error.name()}")
        self._failed.set()
        if error.code() == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
            self._forbidden = error
        logger.error("The Kafka producer failed for good: %s", error.str())

    def _take_pending(self) -> None:
        """Take the exception of a fatal error, with which confluent_kafka runs later callbacks.

        Whatever such a callback calls first would end in a SystemError.
        """
        try:
            _CHECKED_CALL()
        except SystemError as raised:
            cause = raised.__cause__
            if not isinstance(cause, KafkaException):
                raise
            self._note_fatal(kafka_error(cause))

    def _replace(self, failed: Producer) -> Producer | None:
        """Make a new client in the place of one that failed for good.

        Returns:
            The client that there is now, or None where it is too early for another, or closed.
        """
        with self._lock:
            if self._client is not failed:
                return self._client
            now = time.monotonic()
            if now < self._next_replacement:
                self._failed.set()
                return None
            self._next_replacement = now + _REPLACE_INTERVAL
            try:
                another = new_client(Producer, self._properties, "producer_config")
            except ImproperlyConfigured as error:
                # They were good before: files or memory may have run out.
                logger.error("No new Kafka producer could be made: %s", error)
                self._failed.set()
                return None
            self._client = another
            self._retired.append(failed)
        self._stats.count("producer.replaced")
        logger.error("The Kafka producer was replaced by a new one")
        return another

    def _dispose_retired(self) -> None:
        # What they still hold is reported as failed: the broker may have it, and nothing comes
        # twice. They close by themselves, once no other thread is in a call of them.
        while self._retired:
            _empty(self._retired.pop(), 0.0)

    def _report_with(
        self,
        headers: Sequence[tuple[str, bytes]],
        ticket: Ticket[Position] | None,
        error: KafkaError | None,
        message: Message,
    ) -> None:
        try:
            self._take_pending()
            if ticket is not None:
                self._await_reports(-1)
        finally:
            self._report(error, message, headers, ticket)

    def _await_reports(self, change: int) -> None:
        with self._lock:
            self._outstanding += change
            if self._outstanding > 0:
                self._awaited.set()
                self._roused.set()
            else:
                self._awaited.clear()

    def _on_error(self, error: KafkaError) -> None:
        self._take_pending()
        self._connection.on_error(error)
        if _is_fatal(error):
            self._failed.set()

    def _report(
        self,
        error: KafkaError | None,
        message: Message,
        headers: Sequence[tuple[str, bytes]] = (),
        ticket: Ticket[Position] | None = None,
    ) -> None:
        # An exception here would come out of poll() as a SystemError on Python < 3.12.
        failure: Exception | None = None
        try:
            self._take_pending()
            if error is None:
                self._note_written(message)
            else:
                failure = self._failure(error, message)
                self._fail(failure, message, list(headers))
        except Exception:
            logger.exception("A delivery report could not be handled")
        finally:
            # Whatever else goes wrong: the ticket's holder waits for it without end.
            if ticket is None:
                pass
            elif error is None:
                ticket.resolve(_position(message))
            else:
                ticket.fail(failure or ProduceFailed(error.str()))

    def _note_written(self, message: Message) -> None:
        self._connection.on_answer()
        self._forbidden = None
        if (message.offset() or 0) < 0:
            # The broker called it a duplicate of one whose acknowledgement was lost. It may say so
            # of a first record, too, that it refused and never wrote.
            self._stats.dropped(
                "doubtful", f"{message.topic()} {message.key()!r} was taken for a duplicate"
            )

    def _failure(self, error: KafkaError, message: Message) -> Exception:
        if error.code() in UNKNOWN_TOPIC:
            self._on_unknown_topic()
        if error.code() in _GIVEN_UP:
            # What became of the record tells less than why.
            error = self._forbidden or error
        return produce_error(message.topic() or "", message.key(), error, self._connection.refusal)

    def _fail(self, failure: Exception, message: Message, headers: list[tuple[str, bytes]]) -> None:
        self._stats.count("failed")
        self._stats.dropped("produce", str(failure))
        self._stats.signal(
            produce_failed,
            RecordProducer,
            error=failure,
            topic=message.topic(),
            key=message.key(),
            value=message.value(),
            headers=headers,
        )


def _closed() -> ProduceFailed:
    return ProduceFailed("The channel layer is closed.")


def _is_fatal(error: KafkaError) -> bool:
    # What produce() raises afterwards has the code and not the flag.
    return error.fatal() or error.code() == KafkaError._FATAL


def _queue_limit(properties: Mapping[str, Any]) -> int:
    # 0 is no limit there, and what is no number librdkafka refuses itself.
    limit = str(properties.get("queue.buffering.max.messages", _QUEUE_LIMIT))
    return (int(limit) if limit.isdecimal() else _QUEUE_LIMIT) or sys.maxsize


def _bytes(key: str | None) -> bytes | None:
    return None if key is None else key.encode()


def _position(message: Message) -> Position:
    kind, milliseconds = message.timestamp()
    place = message.topic() or "", message.partition() or 0, message.offset() or 0
    timestamp = milliseconds / 1000
    if timestamp < _EARLIEST:
        # The embedded broker reports a constant from 1970 as the time of every record.
        return SelfTimedPosition(*place, wall_clock())
    if kind != TIMESTAMP_LOG_APPEND_TIME:
        return SelfTimedPosition(*place, timestamp)
    return Position(*place, timestamp)


def _dispose(client: Producer, timeout: float) -> None:
    # close() alone would flush without end while the broker is down.
    _empty(client, timeout)
    with contextlib.suppress(KafkaException, SystemError):
        client.close()


def _empty(client: Producer, timeout: float) -> None:
    for step in (partial(client.flush, timeout), client.purge, partial(client.flush, 0.1)):
        # One that failed for good says so once more, out of whichever is the first.
        with contextlib.suppress(KafkaException, SystemError):
            step()
