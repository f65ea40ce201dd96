"""The Kafka backplane of a server: composes producer, consumer and topics."""

from __future__ import annotations

import logging
import random
import threading
import time

from ..addressing import BROADCAST_TOPICS, INBOX_TOPICS, Topic, topic_name
from ..backplane import Delivered, Outgoing, RecordSink
from ..conf import LayerConfig
from ..exceptions import BrokerUnavailable, TopicError
from ..stats import Stats
from .admin import TopicAdmin, partition_counts, topic_specs
from .consumer import BroadcastConsumer
from .producer import RecordProducer

__all__ = ["KafkaBackplane"]

logger = logging.getLogger("kafka_layer")

_RETRY = 1.0


class KafkaBackplane:
    """Carries the records of one server through Kafka; see :class:`Backplane` for the methods.

    Args:
        config: The layer's settings.
        stats: The server's counters.
    """

    def __init__(self, config: LayerConfig, stats: Stats) -> None:
        self._config = config
        self._stats = stats
        self._names = {topic: topic_name(config.prefix, topic) for topic in Topic}
        self._producer = RecordProducer(config, self._names, stats)
        self._consumer: BroadcastConsumer | None = None
        self._lock = threading.Lock()
        self._partitions: dict[str, int] = {}
        self._inbox: int | None = None
        self._closed = threading.Event()

    def open_sender(self, timeout: float) -> None:
        self._producer.start()
        try:
            self._ensure_topics(timeout)
        except BrokerUnavailable as error:
            logger.warning("%s Messages wait in the producer's queue until then.", error)
            threading.Thread(
                target=self._ensure_topics_later, name="kafka-layer-topics", daemon=True
            ).start()

    def open_receiver(self, sink: RecordSink, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        if self._inbox is None:
            self._ensure_topics(timeout)
            self._inbox = random.randrange(
                min(self._partitions[self._names[topic]] for topic in INBOX_TOPICS)
            )
        if self._consumer is None:
            consumer = BroadcastConsumer(
                self._config,
                {name: topic for topic, name in self._names.items()},
                sink,
                self._stats,
            )
            consumer.start(self._to_read(self._inbox), deadline - time.monotonic())
            self._consumer = consumer
        return self._inbox

    def produce(self, record: Outgoing, delivered: Delivered | None = None) -> None:
        self._producer.produce(record, delivered)

    def refresh(self) -> None:
        before = dict(self._partitions)
        self._look_at_topics(_RETRY)
        added = [
            (name, number)
            for name in (self._names[topic] for topic in BROADCAST_TOPICS)
            for number in range(before.get(name, 0), self._partitions.get(name, 0))
        ]
        if added and self._consumer is not None:
            logger.info("Reading %d new partition(s) from their start", len(added))
            self._consumer.add(added)

    def close(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self._closed.set()
        if self._consumer is not None:
            self._consumer.stop()
        self._producer.close(timeout * 0.8)
        if self._consumer is not None:
            self._consumer.join(max(0.1, deadline - time.monotonic()))

    def abandon(self) -> None:
        self._closed.set()
        self._producer.abandon()
        if self._consumer is not None:
            self._consumer.abandon()

    def _to_read(self, inbox: int) -> list[tuple[str, int]]:
        everything = [
            (self._names[topic], number)
            for topic in BROADCAST_TOPICS
            for number in range(self._partitions[self._names[topic]])
        ]
        return everything + [(self._names[topic], inbox) for topic in INBOX_TOPICS]

    def _ensure_topics(self, timeout: float) -> None:
        """Learn the partition counts; create what is missing, where the settings allow it."""
        deadline = time.monotonic() + timeout
        self._look_at_topics(timeout)
        missing = [each for each in topic_specs(self._config) if each.name not in self._partitions]
        if not missing:
            return
        names = ", ".join(each.name for each in missing)
        if not self._config.auto_create_topics:
            raise TopicError(
                f"Topics are missing (or this client may not see them): {names}. "
                "Run 'manage.py kafka_setup_topics', or set auto_create_topics=True."
            )
        logger.info("Creating topics: %s", names)
        TopicAdmin(self._config, max(0.1, deadline - time.monotonic())).create(missing)
        while missing:
            self._look_at_topics(max(0.1, deadline - time.monotonic()))
            missing = [each for each in missing if each.name not in self._partitions]

    def _look_at_topics(self, timeout: float) -> None:
        counts = partition_counts(
            self._producer.client, self._names.values(), self._config.bootstrap_servers, timeout
        )
        with self._lock:
            self._partitions.update(counts)
        count = counts.get(self._names[Topic.SEND_ALL])
        if count:
            own = self._inbox if self._inbox is not None else self._producer.own_partition
            self._producer.own_partition = own % count

    def _ensure_topics_later(self) -> None:
        while not self._closed.wait(_RETRY):
            try:
                self._ensure_topics(_RETRY)
            except BrokerUnavailable:
                continue
            except Exception as error:
                logger.error("%s", error)
            return
