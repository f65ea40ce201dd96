"""The producer of a server: writes records to their partitions and reports each one's outcome.

Records go one way: ``RecordProducer`` finds the partition, ``Batcher`` holds records back while
many are on their way, ``ProducerClient`` passes them to librdkafka and reports.

``RecordProducer.produce`` is a hot path: every send takes it.
"""

from __future__ import annotations

import itertools
import logging
import random
import threading
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import Producer

from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..config.threads import died, is_current, new_event, new_thread, require_native_threads
from ..delivery.tickets import Ticket
from ..exceptions import LayerClosed
from ..messages import Position
from ..observe.counters import Stats
from ..wire.records import ProducerRecord, StreamProducerRecord
from ..wire.topics import AnyTopic, StreamTopic, Topic, WorkTopic, kind_of
from .batching import Batcher
from .connection import Connection
from .liveness import Evidence, Liveness, Verdict
from .producer_client import ProducerClient
from .unknown_partitions import UnknownPartitions

__all__ = ["RecordProducer"]

logger = logging.getLogger("kafka_layer")

_PARTITIONER_DECIDES = -1
# Seconds. librdkafka checks once a second for expired records. A held-back record that enters its
# queue gets a new message.timeout.ms, so the batcher expires it a second early.
_EXPIRY_PRECISION = 1.0
# Unanswered requests of the client, about 2 s each, until another client is asked: longer than
# socket.timeout.ms, 10 s, in which librdkafka notices a connection that died in silence.
_PATIENCE = 6
# Seconds that close() waits for a thread that is passing a record on, and at least for the reports
# on records that were not written.
_CLOSE_PATIENCE = 0.5


class RecordProducer:
    """One producer of one server; the methods may be called from any thread.

    Its thread has one job, the clients' upkeep: it serves delivery reports, releases held-back
    records and those of partitions that were unknown, admits senders that wait for room, and
    replaces a client after a fatal error.

    ======= ================================================= =======
    thread  event                                             next
    ======= ================================================= =======
    serving every ``producer_pace`` seconds, or as each       serving
            report comes while one is awaited
    serving no record is queued and no sender waits           resting
    resting a record is held back or awaited, a sender waits, serving
            or ``producer_rest`` seconds have passed
    any     close(): it reports records that were not written ended
    ======= ================================================= =======

    Args:
        config: The layer's settings.
        topics: Kafka's names of the layer's topics that it writes to.
        stats: Counts sent and failed records.
        connection: Gets errors and answers.
        on_unknown_topic: Called, from any thread, when one of them, or a partition, is missing.

    Attributes:
        keyless_partition: The partition of records without a key, so that they stay in order.
    """

    def __init__(
        self,
        config: LayerConfig,
        topics: Mapping[Topic, str],
        stats: Stats,
        connection: Connection,
        on_unknown_topic: Callable[[], None],
    ) -> None:
        self.keyless_partition = 0
        # By topic that it writes to: Kafka's name, and what counts its records.
        self._ways: dict[AnyTopic, tuple[str, Callable[[], object]]] = {}
        # By worker topic: the turns so far, and the number of partitions.
        self._turns: dict[WorkTopic, tuple[itertools.count[int], int]] = {}
        self._stats = stats
        for topic, name in topics.items():
            self._write_to(topic, name)
        self._timings = config.timings
        # Ends the thread's rest.
        self._roused = new_event()
        self._client = ProducerClient(config, stats, connection, on_unknown_topic, self._roused)
        timeout = max(config.expiry - _EXPIRY_PRECISION, config.expiry / 2)
        self._unknown = UnknownPartitions(
            self._client,
            min(self._timings.unknown_partition, timeout),
            self._timings.partition_question,
            self._roused,
        )
        self._batcher = Batcher(
            self._client,
            self._client.queue_limit,
            timeout,
            self._unknown,
            self._roused,
        )
        self._client.keep_reported = self._batcher.keep_reported
        self._put = self._batcher.put
        self.when_room = self._batcher.when_room
        # For the thread that calls judge(). Not a Replacement: the client has its successor made by
        # any thread, and while all brokers are down its requests tell when one is back.
        self._liveness = Liveness(_PATIENCE, config.timings.upkeep)
        self._ended = new_event()
        self._thread: threading.Thread | None = None

    @property
    def client(self) -> Producer:
        """The client, for metadata requests.

        Raises:
            LayerClosed: Before ``start`` and after ``close``.
        """
        client = self._client.current
        if client is None:
            raise LayerClosed("The channel layer is closed.")
        return client

    @property
    def queued(self) -> int:
        """Records that wait for the broker's acknowledgement."""
        client = self._client.current
        # In this order a record that moves to the client in between is not missed.
        return 0 if client is None else len(self._batcher) + len(client)

    @property
    def died(self) -> bool:
        """Whether its thread has ended although nobody closed it."""
        return died(self._thread) and not self._ended.is_set()

    def start(self) -> None:
        """Create the client; no I/O in this thread. Idempotent.

        Raises:
            ImproperlyConfigured: If librdkafka refuses a property, or eventlet replaced threads.
            LayerClosed: After ``close``.
        """
        require_native_threads()
        self._client.open()
        if self._thread is None:
            thread = new_thread(target=self._run, name="kafka-layer-producer")
            thread.start()
            self._thread = thread  # only now may close() join it

    def produce(
        self,
        record: ProducerRecord | StreamProducerRecord,
        ticket: Ticket[Position] | None = None,
        waited: bool = False,
    ) -> None:
        """Queue a record; see ``kafka_layer.transport.Backplane.produce``."""
        topic, key, value, partition, headers = record
        name, count_sent = self._ways[topic]
        if partition is None:
            if key is not None:
                partition = _PARTITIONER_DECIDES
            elif isinstance(topic, WorkTopic):
                partition = self._next_in_turn(topic)
            elif isinstance(topic, StreamTopic):
                partition = _PARTITIONER_DECIDES
            else:
                partition = self.keyless_partition
        self._put((name, value, key, partition, headers, ticket), waited)
        count_sent()

    def flush(self, timeout: float) -> bool:
        """Wait until every record so far is written or has failed.

        Args:
            timeout: Seconds that this may block.

        Returns:
            False if some record is still on its way.
        """
        deadline = monotonic() + timeout
        self._batcher.release()
        while self._batcher and monotonic() < deadline:
            if self._client.flush(self._timings.producer_pace):
                # Only records of unknown partitions wait, which the producer's thread hands over.
                self._client.pause(self._timings.producer_pace)
            self._batcher.release()
        return self._client.flush(max(0.0, deadline - monotonic())) and not self._batcher

    def set_round_robin(self, topic: WorkTopic, name: str, partitions: int) -> None:
        """Send the messages of a worker channel to its partitions in turn.

        librdkafka itself would stay with one partition for a while, and a burst of jobs would leave
        workers idle.

        Args:
            topic: The channel's topic.
            name: Kafka's name of it.
            partitions: How many partitions it has.
        """
        present = self._turns.get(topic)
        if present is None or present[1] != partitions:
            self._turns[topic] = (itertools.count(random.randrange(partitions)), partitions)
            self._write_to(topic, name)

    def open_stream(self, topic: StreamTopic) -> None:
        """Write records for the topic of a stream, too; its partitioner is Kafka's default."""
        self._write_to(topic, topic.name)

    def judge(self, evidence: Evidence, is_answered_elsewhere: Callable[[], bool]) -> None:
        """Replace the client if it does not work; one thread alone.

        Args:
            evidence: Whether a broker answered a request of ``client``.
            is_answered_elsewhere: As for ``Liveness.judge``.
        """
        verdict = self._liveness.judge(evidence, monotonic(), is_answered_elsewhere)
        if verdict is Verdict.REPLACE:
            logger.error("The Kafka producer reaches no broker, as another client does")
            self.replace()

    def leave_leaders(self, topics: Iterable[str]) -> None:
        """Replace the client, because topics were created again with leaders on other brokers.

        The present client considers the lower leader epochs of the new topics outdated, and would
        send to the old leaders until every record expires.

        Args:
            topics: Kafka's names of the topics.
        """
        logger.warning("%s: created again on other brokers", ", ".join(sorted(topics)))
        self.replace()

    def replace(self) -> None:
        """Go on with a new client; report what the old one still holds as failed."""
        self._client.replace()

    def close(self, timeout: float) -> None:
        """Write queued records, report the rest as failed, free the client.

        Args:
            timeout: Seconds for writing; half a second more for the reports.
        """
        deadline = monotonic() + timeout
        self._batcher.stop_taking()
        self.flush(timeout)
        self._batcher.close(min(_CLOSE_PATIENCE, max(0.0, deadline - monotonic())))
        self._client.close()
        self._ended.set()
        self._roused.set()
        # The thread reports records that were not written, if need be after this call.
        if self._thread is not None and not is_current(self._thread):
            self._thread.join(max(_CLOSE_PATIENCE, deadline - monotonic()))

    def _write_to(self, topic: AnyTopic, name: str) -> None:
        self._ways[topic] = name, self._stats.sent(kind_of(topic)).add

    def _next_in_turn(self, topic: WorkTopic) -> int:
        turns, partitions = self._turns[topic]
        return next(turns) % partitions

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._serve()
            except Exception:
                self._stats.count("errors.producer")
                logger.exception("The producer's thread goes on after an error")
                self._ended.wait(self._timings.producer_rest)
        while not self._client.tend():
            pass

    def _serve(self) -> None:
        self._batcher.release()
        self._unknown.hand_over()
        reports = self._client.poll(self._timings.producer_pace)
        self._batcher.admit()
        if not reports and not self.queued and not self._batcher.has_waiting:
            self._roused.wait(self._timings.producer_rest)
            self._roused.clear()
        else:
            # Without a pause the thread competes with the sender for the interpreter over each
            # report: a send takes 16 µs instead of 7. And the report of a lone record comes just
            # when its receivers wake; serving it then delays them.
            self._client.pause(self._timings.producer_pace)
        self._client.tend()
