"""The Kafka backplane of a server: composes producer, consumer and topics."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from confluent_kafka import KafkaException

from ..config.settings import LayerConfig
from ..exceptions import BrokerUnavailable, TopicError
from ..observe.counters import Stats
from ..transport import Health, JobSink, RecordSink
from ..wire.topics import BROADCAST_TOPICS, INBOX_TOPICS, Topic, WorkTopic, topic_name
from .acls import ReadRights
from .admin import TopicAdmin, partition_counts, topic_spec
from .connection import Connection
from .errors import UNKNOWN_TOPIC
from .member import GroupMember
from .producer import RecordProducer
from .reader import BroadcastConsumer

__all__ = ["KafkaBackplane"]

logger = logging.getLogger("kafka_layer")

_RETRY = 1.0
_REPAIR_TIMEOUT = 5.0
# How often in a row the producer's client is not answered before another client asks: about 12 s,
# as a connection that dies in silence is noticed after 10 (socket.timeout.ms).
_PATIENCE = 6


class KafkaBackplane:
    """Carries the records of one server through Kafka; see ``Backplane`` for the methods.

    Args:
        config: The layer's settings.
        stats: The server's counters.
    """

    def __init__(self, config: LayerConfig, stats: Stats) -> None:
        self._config = config
        self._stats = stats
        self._names = {topic: topic_name(config.prefix, topic) for topic in Topic}
        self._connection = Connection(config.bootstrap_servers, stats, config.timings)
        self._producer = RecordProducer(
            config, self._names, stats, self._connection, self._repair_topics
        )
        self.produce = self._producer.produce
        self.when_room = self._producer.when_room
        self._consumer: BroadcastConsumer | None = None
        self._lock = threading.Lock()
        self._partitions: dict[str, int] = {}
        self._workers: list[GroupMember] = []
        self._inbox: int | None = None
        self._unanswered = 0
        self._seed = random.randrange(1 << 16)
        self._closed = threading.Event()
        self._repairing = threading.Lock()

    def open_sender(self, timeout: float) -> None:
        self._producer.start()
        self._ensure_or_later(tuple(Topic), timeout)

    def open_receiver(self, sink: RecordSink, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        if self._inbox is None:
            self._ensure_topics(tuple(Topic), timeout)
            self._inbox = random.randrange(
                min(self._partitions[self._names[topic]] for topic in INBOX_TOPICS)
            )
        if self._consumer is None:
            consumer = BroadcastConsumer(
                self._config,
                {name: topic for topic, name in self._names.items()},
                sink,
                self._stats,
                self._connection,
                self._repair_topics,
            )
            with self._allowed_to_read(tuple(Topic), consumer, deadline):
                consumer.start(self._to_read(self._inbox), deadline - time.monotonic())
            self._consumer = consumer
        return self._inbox

    def open_work_topic(self, topic: WorkTopic, timeout: float) -> None:
        # Known first: what is not there yet is made later, with all that the producer writes to.
        self._producer.set_round_robin(topic, self._name(topic), 1)
        self._ensure_or_later((topic,), timeout)

    def open_work_channel(self, channel: JobSink[Any], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self._ensure_topics((channel.topic,), timeout)
        worker = GroupMember(
            self._config, self._name(channel.topic), channel, self._stats, self._connection
        )
        with self._lock:
            self._workers.append(worker)
        try:
            with self._allowed_to_read((channel.topic,), worker, deadline):
                worker.start(deadline - time.monotonic())
        except Exception:
            with self._lock:
                self._workers.remove(worker)
            raise

    def settle(self, timeout: float) -> bool:
        return self._producer.flush(timeout)

    def clear_work(self, timeout: float) -> None:
        every_work_topic = f"{self._config.prefix}-work."
        with TopicAdmin(self._config, timeout) as admin:
            admin.delete_records(every_work_topic)

    def refresh(self) -> None:
        before = dict(self._partitions)
        try:
            missing = self._look_at(self._written(), _RETRY)
        except BrokerUnavailable:
            self._unanswered += 1
            if self._unanswered % _PATIENCE == 0 and self._producer_is_deaf():
                logger.error("The Kafka producer reaches no broker, as another client does")
                self._producer.replace()
            raise
        self._unanswered = 0
        if missing:
            self._repair_topics()
        self._connection.on_answer()
        added = [
            (name, number)
            for name in (self._names[topic] for topic in BROADCAST_TOPICS)
            for number in range(before.get(name, 0), self._partitions.get(name, 0))
        ]
        if added and self._consumer is not None:
            logger.info("Reading %d new partition(s) from their start", len(added))
            self._consumer.add(added)

    def check_workers(self) -> None:
        for worker in tuple(self._workers):
            worker.check()

    def health(self) -> Health:
        lag = 0 if self._consumer is None else self._consumer.lag
        connected, doubtful = not self._connection.lost, self._connection.doubtful
        return Health(connected, self._producer.queued, lag, doubtful)

    def close(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self._closed.set()
        readers = self._readers()
        for reader in readers:
            reader.stop()
        self._producer.close(timeout * 0.8)
        for reader in readers:
            reader.join(max(0.1, deadline - time.monotonic()))

    def abandon(self) -> None:
        self._closed = threading.Event()
        self._closed.set()
        self._repairing = threading.Lock()
        self._producer.abandon()
        for reader in self._readers():
            reader.abandon()

    @contextlib.contextmanager
    def _allowed_to_read(
        self,
        topics: Sequence[Topic | WorkTopic],
        reader: BroadcastConsumer | GroupMember,
        deadline: float,
    ) -> Iterator[None]:
        """Start a reader inside; it is stopped where that fails or it may not read the topics."""
        names = [self._name(topic) for topic in topics]
        try:
            with ReadRights(self._config, names, max(0.1, deadline - time.monotonic())) as rights:
                yield
                rights.require()
        except Exception:
            reader.stop()
            raise

    def _readers(self) -> list[BroadcastConsumer | GroupMember]:
        consumer = [] if self._consumer is None else [self._consumer]
        return [*consumer, *self._workers]

    def _name(self, topic: Topic | WorkTopic) -> str:
        return topic_name(self._config.prefix, topic)

    def _to_read(self, inbox: int) -> list[tuple[str, int]]:
        everything = [
            (self._names[topic], number)
            for topic in BROADCAST_TOPICS
            for number in range(self._partitions[self._names[topic]])
        ]
        return everything + [(self._names[topic], inbox) for topic in INBOX_TOPICS]

    def _ensure_or_later(self, topics: Sequence[Topic | WorkTopic], timeout: float) -> None:
        """Do what ``_ensure_topics`` does, in the background where no broker answers."""
        try:
            self._ensure_topics(topics, timeout)
        except BrokerUnavailable as error:
            logger.warning("%s Messages wait in the producer's queue until then.", error)
            self._repair_topics()

    def _ensure_topics(self, topics: Sequence[Topic | WorkTopic], timeout: float) -> None:
        """Learn the partition counts; create what is missing, where the settings allow it."""
        deadline = time.monotonic() + timeout
        missing = self._look_at(topics, timeout)
        if not missing:
            return
        self._read_anew(missing, deadline)
        names = ", ".join(map(self._name, missing))
        if not self._config.auto_create_topics:
            raise TopicError(
                f"Topics are missing (or this client may not see them): {names}. "
                "Run 'manage.py kafka_setup_topics', or set auto_create_topics=True."
            )
        logger.info("Creating topics: %s", names)
        with TopicAdmin(self._config, max(0.1, deadline - time.monotonic())) as admin:
            admin.create([topic_spec(self._config, topic) for topic in missing])
        self._look_at_until_there(missing, names, deadline)

    def _look_at_until_there(
        self, topics: Sequence[Topic | WorkTopic], names: str, deadline: float
    ) -> None:
        """Return once this client sees topics that were created."""
        missing = topics
        while missing:
            missing = self._look_at(missing, max(0.1, deadline - time.monotonic()))
            if missing and time.monotonic() >= deadline:
                raise TopicError(
                    f"Topics were created, but this client does not see them: {names}. "
                    "Grant it DESCRIBE on them, or look at the brokers' logs."
                )

    def _read_anew(self, missing: Sequence[Topic | WorkTopic], deadline: float) -> None:
        """Let the consumer start at 0 in topics that were deleted while it read them."""
        consumer, inbox = self._consumer, self._inbox
        if consumer is None or inbox is None:
            return
        names = {self._name(topic) for topic in missing}
        gone = {name for name in names if self._is_gone(name, deadline)}
        consumer.read_anew([each for each in self._to_read(inbox) if each[0] in gone])

    def _is_gone(self, name: str, deadline: float) -> bool:
        # Not one that this client may not see for a while: it would be read a second time.
        client, left = self._producer.client, max(0.1, deadline - time.monotonic())
        try:
            error = client.list_topics(name, timeout=left).topics[name].error
        except KafkaException:
            return False
        return error is not None and error.code() in UNKNOWN_TOPIC

    def _look_at(
        self, topics: Sequence[Topic | WorkTopic], timeout: float
    ) -> list[Topic | WorkTopic]:
        """Learn the partition counts of topics; returns those that do not exist."""
        names = {topic: self._name(topic) for topic in topics}
        counts = partition_counts(self._producer.client, names.values(), self._connection, timeout)
        with self._lock:
            self._partitions.update(counts)
        for topic, name in names.items():
            if name in counts and isinstance(topic, WorkTopic):
                self._producer.set_round_robin(topic, name, counts[name])
            elif name in counts and topic is Topic.SEND_ALL:
                self._producer.keyless_partition = self._seed % counts[name]
        return [topic for topic, name in names.items() if name not in counts]

    def _repair_topics(self) -> None:
        """Look whether topics are gone, and make them anew; in a thread, once at a time."""
        if not self._closed.is_set() and self._repairing.acquire(blocking=False):
            threading.Thread(target=self._repair, name="kafka-layer-topics", daemon=True).start()

    def _written(self) -> tuple[Topic | WorkTopic, ...]:
        return (*Topic, *self._producer.work_topics())

    def _repair(self) -> None:
        try:
            while not (self._closed.is_set() or self._was_answered()):
                self._closed.wait(_RETRY)
            # Not at once again: what it was asked for took effect by then.
            self._closed.wait(_RETRY)
        finally:
            self._repairing.release()

    def _producer_is_deaf(self) -> bool:
        """Tell whether another client is answered, and the producer's is not, given time.

        After an outage librdkafka may leave a client without a broker for good.
        """
        try:
            # To be refused is an answer, too.
            with contextlib.suppress(TopicError), TopicAdmin(self._config, _RETRY) as admin:
                admin.inspect(list(self._names.values()))
        except BrokerUnavailable:
            return False
        try:
            self._look_at(tuple(Topic), _REPAIR_TIMEOUT)
        except BrokerUnavailable:
            return not self._closed.is_set()
        return False

    def _was_answered(self) -> bool:
        """Make what is missing; False where no broker answers, so that it is worth another try."""
        try:
            # It also tells the producer, which would believe for minutes that they are missing.
            self._ensure_topics(self._written(), _REPAIR_TIMEOUT)
        except BrokerUnavailable:
            return False
        except Exception as error:
            if not self._closed.is_set():
                logger.error("%s", error)
                self._closed.wait(_REPAIR_TIMEOUT)
        return True
