"""For the tests of projects that use the layer: no broker, or one inside the process.

In the settings of a test run::

    CHANNEL_LAYERS = {"default": {"BACKEND": "kafka_layer.testing.InMemoryKafkaChannelLayer"}}

Every layer with the same prefix is a server of its own on the same topics, so two layers act as
two servers. Only Kafka is missing; everything else is the code that runs in production.
"""

from __future__ import annotations

import itertools
import queue
import random
import threading
import time
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar

from .addressing import BROADCAST_TOPICS, INBOX_TOPICS, Topic, WorkTopic, topic_name
from .backplane import Backplane, Delivered, Health, Outgoing, Position, Record, RecordSink
from .conf import LayerConfig
from .exceptions import ProduceFailed
from .kafka.embedded import EmbeddedBroker
from .layer import KafkaChannelLayer
from .stats import Stats
from .work import WorkChannel

__all__ = ["EmbeddedBroker", "InMemoryBackplane", "InMemoryKafkaChannelLayer"]

_POLL = 0.1

_QueuedJob = tuple[Outgoing, int, float]


class InMemoryKafkaChannelLayer(KafkaChannelLayer):
    """The layer without a broker, inside one process.

    Args:
        config: The CONFIG keywords; ``bootstrap_servers`` is not needed.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__(**{"bootstrap_servers": "in-memory:9092", **config})

    def _make_backplane(self, stats: Stats) -> Backplane:
        return InMemoryBackplane(self.config, stats)


class InMemoryBackplane:
    """Carries records between the servers of one process that share a prefix.

    See :class:`kafka_layer.backplane.Backplane` for the methods. Each server has a thread that
    reads, as with Kafka, so that back-pressure and ordering behave the same.
    """

    def __init__(self, config: LayerConfig, stats: Stats) -> None:
        self._config = config
        self._stats = stats
        self._log = _Log.of(config.prefix)
        self._inbox: int | None = None
        self._unread: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def open_sender(self, timeout: float) -> None:
        """Nothing has to be opened."""

    def open_receiver(self, sink: RecordSink, timeout: float) -> int:
        """Start the thread that reads."""
        if self._inbox is None:
            self._inbox = random.randrange(
                min(self._config.topics[topic].partitions for topic in INBOX_TOPICS)
            )
            thread = threading.Thread(
                target=_read, args=(self._unread, sink), name="kafka-layer-memory", daemon=True
            )
            thread.start()
            self._thread = thread  # only now may close() join it
            self._log.attach(self)
        return self._inbox

    def open_work_topic(self, topic: WorkTopic, timeout: float) -> None:
        """Nothing has to be opened."""

    def open_work_channel(self, channel: WorkChannel, timeout: float) -> None:
        """Start the thread that takes jobs for the receives."""
        threading.Thread(
            target=self._work, args=(channel,), name="kafka-layer-memory-work", daemon=True
        ).start()

    def produce(self, record: Outgoing, delivered: Delivered | None = None) -> None:
        """Append a record to the log and so to every server's queue."""
        if self._closed:
            raise ProduceFailed("The channel layer is closed.")
        partition = record.partition
        if partition is None:
            count = self._config.topic_settings(record.topic).partitions
            partition = zlib.crc32((record.key or "").encode()) % count
        timestamp = time.time()
        offset = self._log.append(record, partition, timestamp)
        self._stats.count("sent")
        if delivered is not None:
            name = topic_name(self._config.prefix, record.topic)
            delivered(Position(name, partition, offset, timestamp), None)

    def health(self) -> Health:
        """Tell what a broker would: nothing waits and nothing is cut off."""
        return Health(connected=True, queued=0, lag=0)

    def refresh(self) -> None:
        """Nothing changes behind this backplane."""

    def close(self, timeout: float) -> None:
        """Stop reading."""
        self._closed = True
        self._log.detach(self)
        self._unread.put(None)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def abandon(self) -> None:
        """Leave the log, of which a forked child has a copy for itself."""
        self._closed = True
        self._log.abandon(self)

    def offer(self, topic: Topic, partition: int, record: Record) -> None:
        """Take a record if this server reads it."""
        if topic in BROADCAST_TOPICS or partition == self._inbox:
            self._unread.put(record)

    def _work(self, channel: WorkChannel) -> None:
        jobs = self._log.jobs(channel.topic)
        while not self._closed:
            if not channel.wanted:
                channel.waiting.wait(_POLL)
                channel.waiting.clear()
                continue
            try:
                record, offset, timestamp = jobs.get(timeout=_POLL)
            except queue.Empty:
                continue
            if not channel.wanted:
                # The receive was cancelled meanwhile: somebody else may wait for it.
                jobs.put((record, offset, timestamp))
                continue
            job = channel.job(record.value, timestamp, 0, offset)
            if job is not None:
                channel.hand_out([job])


class _Log:
    """The topics of one prefix: an order of records, and who reads them."""

    _by_prefix: ClassVar[dict[str, _Log]] = {}

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[tuple[Topic, int], int] = {}
        self._readers: list[InMemoryBackplane] = []
        self._jobs: dict[WorkTopic, queue.SimpleQueue[_QueuedJob]] = {}
        self._job_numbers = itertools.count()

    @classmethod
    def of(cls, prefix: str) -> _Log:
        return cls._by_prefix.setdefault(prefix, cls())

    def attach(self, reader: InMemoryBackplane) -> None:
        with self._lock:
            self._readers.append(reader)

    def detach(self, reader: InMemoryBackplane) -> None:
        with self._lock:
            if reader in self._readers:
                self._readers.remove(reader)

    def abandon(self, reader: InMemoryBackplane) -> None:
        # A thread of the parent may have held the lock at the fork.
        self._lock = threading.Lock()
        self.detach(reader)

    def jobs(self, topic: WorkTopic) -> queue.SimpleQueue[_QueuedJob]:
        with self._lock:
            return self._jobs.setdefault(topic, queue.SimpleQueue())

    def append(self, outgoing: Outgoing, partition: int, timestamp: float) -> int:
        topic = outgoing.topic
        if isinstance(topic, WorkTopic):
            offset = next(self._job_numbers)
            self.jobs(topic).put((outgoing, offset, timestamp))
            return offset
        key = None if outgoing.key is None else outgoing.key.encode()
        record = Record(topic, key, outgoing.value, outgoing.headers, timestamp)
        with self._lock:
            offset = self._ends.get((topic, partition), 0)
            self._ends[topic, partition] = offset + 1
            for reader in self._readers:
                reader.offer(topic, partition, record)
        return offset


def _read(unread: queue.SimpleQueue[Record | None], sink: RecordSink) -> None:
    while True:
        records: list[Record] = []
        record = unread.get()
        while record is not None:
            records.append(record)
            if unread.empty():
                break
            record = unread.get()
        _deliver(sink, records)
        if record is None:
            return


def _deliver(sink: RecordSink, records: Sequence[Record]) -> None:
    if records:
        sink.deliver(records)
