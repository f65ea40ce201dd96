"""The layer without a broker, inside one process."""

from __future__ import annotations

import queue
import random
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..config.streams import StreamSettings
from ..config.threads import Lock, SimpleQueue, is_current, new_thread
from ..delivery.tickets import Ticket, in_thread
from ..exceptions import LayerClosed
from ..layer import KafkaChannelLayer
from ..messages import Position
from ..observe.counters import Stats
from ..server.clock import BrokerClock
from ..transport import (
    Backlog,
    Backplane,
    Extent,
    Health,
    JobSink,
    OnEpoch,
    OnPositions,
    Past,
    ReadFrom,
    RecordSink,
    StreamSink,
    StreamWriter,
)
from ..wire.partitions import partition_of
from ..wire.records import ProducerRecord, Record, StreamProducerRecord
from ..wire.topics import (
    BROADCAST_TOPICS,
    CONTROL_TOPICS,
    INBOX_TOPICS,
    StreamTopic,
    Topic,
    Where,
    WorkTopic,
    kind_of,
    topic_name,
)
from .jobs import JobServer, Waiting, WaitingJobs
from .shared_log import LogPast, SharedLog
from .streams import InMemoryStream, InMemoryStreamPast, StreamTopics

__all__ = ["InMemoryBackplane", "InMemoryKafkaChannelLayer"]

T = TypeVar("T")

_Unread = queue.SimpleQueue["Record | Callable[[], object] | None"]

# Of each partition that has a history, the youngest records: at most so many, and so many bytes.
_KEPT_RECORDS = 10_000
_KEPT_BYTES = 5 * 1024 * 1024


class InMemoryKafkaChannelLayer(KafkaChannelLayer):
    """The layer without a broker, inside one process.

    Args:
        config: The CONFIG keywords; ``bootstrap_servers`` is not needed.
    """

    @classmethod
    def read_config(cls, **config: Any) -> LayerConfig:
        """Read the CONFIG keywords; ``bootstrap_servers`` may be missing."""
        return super().read_config(**{"bootstrap_servers": "in-memory:9092", **config})

    _shared: _Shared | None = None

    @property
    def _backplane_class(self) -> type[InMemoryBackplane]:
        return InMemoryBackplane

    def _warn_in_tests(self) -> None:
        """Do nothing: this is the layer for tests."""

    def _make_backplane(self, stats: Stats) -> Backplane:
        # Messages live as long as a layer of their prefix, so they do not reach the next test.
        self._shared = self._shared or _Shared.of(self.config.prefix)
        return self._backplane_class(self.config, stats, self._shared.log)


class InMemoryBackplane:
    """Carries records between the servers of one process that share a prefix.

    See ``kafka_layer.transport.Backplane`` for the methods. Each server has a thread that
    reads, as with Kafka, so that back-pressure and ordering behave the same.
    """

    def __init__(self, config: LayerConfig, stats: Stats, log: _Log) -> None:
        self._config = config
        self._stats = stats
        self._log = log
        self._inbox: int | None = None
        # Records that the two reading threads have not taken yet, and functions that they call
        # when they have delivered those before; None ends a thread.
        self._data: _Unread = SimpleQueue()
        self._control: _Unread = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._job_servers: list[JobServer] = []
        self._streams: list[InMemoryStream] = []
        self._closed = False

    def open_sender(self, timeout: float) -> None:
        """Nothing has to be opened."""

    def open_receiver(self, data: RecordSink, control: RecordSink, timeout: float) -> int:
        """Start the threads that read."""
        if self._inbox is None:
            self._inbox = random.randrange(
                min(self._config.topics[topic].partitions for topic in INBOX_TOPICS)
            )
            for name, unread, sink in (
                ("data", self._data, data),
                ("control", self._control, control),
            ):
                thread = new_thread(target=_read, args=(unread, sink), name=f"kafka-layer-{name}")
                thread.start()
                self._threads.append(thread)  # only now may close() join it
            self._log.attach(self)
        return self._inbox

    def follow(self, listener: OnPositions, on_epoch: OnEpoch) -> None:
        """Tell the listener once: no topic ever changes here, and there are no leaders."""
        counts = {topic: self.partitions(topic) for topic in BROADCAST_TOPICS}
        self._log.tell_ends(counts, self._data, listener)

    def open_work_topic(self, topic: WorkTopic, timeout: float) -> None:
        """Nothing has to be opened."""

    def open_work_channel(self, channel: JobSink[Any], timeout: float) -> None:
        """Start the thread that gives jobs to the receives."""
        if channel.source is None:
            jobs: Waiting = self._log.jobs(channel.topic)
        else:
            start = self._config.streams[channel.source.stream].start
            group, topic = channel.topic.channel, channel.source.name
            jobs = self._log.stream_topics.group(group, topic, start)
        server = JobServer(jobs, channel, self._config.timings)
        server.start()
        self._job_servers.append(server)

    @property
    def stream_topics(self) -> StreamTopics:
        """The topics of streams, which the layers of the prefix share."""
        return self._log.stream_topics

    def open_stream(
        self, settings: StreamSettings, sink: StreamSink, stats: Stats
    ) -> InMemoryStream:
        """Return what reads a stream."""
        stream = InMemoryStream(self._log.stream_topics, settings, sink)
        self._streams.append(stream)
        return stream

    def produce(
        self,
        record: ProducerRecord,
        ticket: Ticket[Position] | None = None,
        waited: bool = False,
    ) -> None:
        """Append a record to the log, which offers it to every server."""
        if self._closed:
            raise LayerClosed("The channel layer is closed.")
        topic, key, _, partition, _ = record
        if partition is None:
            partition = partition_of(key or "", self._config.topic_settings(topic).partitions)
        offset, timestamp = self._log.append(record, partition)
        self._stats.sent(kind_of(topic)).add()
        if ticket is not None:
            name = topic_name(self._config.prefix, topic)
            ticket.resolve(Position(name, partition, offset, timestamp))

    def open_stream_writer(self, topic: StreamTopic, timeout: float) -> StreamWriter:
        """Nothing has to be opened: every topic of a stream exists."""
        return _InMemoryWriter(self)

    def write(self, record: StreamProducerRecord, ticket: Ticket[Position] | None) -> None:
        """Append a record to the topic of a stream, which offers it to everybody who reads it."""
        if self._closed:
            raise LayerClosed("The channel layer is closed.")
        topic, key, value, partition, headers = record
        position = self._log.stream_topics.write(topic, key, value, partition, list(headers))
        self._stats.sent(kind_of(topic)).add()
        if ticket is not None:
            ticket.resolve(position)

    def when_room(self, waited: bool = False) -> Ticket[None]:
        """There is always room."""
        return Ticket.resolved(None)

    def health(self) -> Health:
        """Return the health of a broker that always answers."""
        return Health(connected=True, queued=0, lag=0)

    def partitions(self, topic: Topic) -> int:
        """Return how many partitions the settings name."""
        return self._config.topics[topic].partitions

    def settle(self, timeout: float) -> bool:
        """Nothing is on its way: ``produce`` appends a record at once."""
        return True

    def work_shares(self) -> Mapping[str, int]:
        """There are no partitions to share."""
        return {}

    def backlogs(self, timeout: float) -> Sequence[Backlog]:
        """Return none: backlogs are not counted here."""
        return ()

    def clear_work(self, timeout: float) -> None:
        """Drop the jobs that wait."""
        self._log.clear_jobs()

    def refresh(self) -> None:
        """No topic ever changes here."""

    def ask_past(
        self,
        key: Hashable,
        question: Callable[[Past], Callable[[], T]],
        deadline: float,
        stream: str | None = None,
    ) -> Ticket[T]:
        """Carry out the question in a thread, each asker's by itself."""
        if self._closed:
            return Ticket.failed(LayerClosed("The channel layer is closed."))
        past: Past
        if stream is None:
            counts = {topic: self.partitions(topic) for topic in BROADCAST_TOPICS}
            past = _InMemoryPast(self._log, counts, deadline)
        else:
            settings = self._config.streams[stream]
            past = InMemoryStreamPast(self._log.stream_topics, settings, deadline)
        return in_thread("kafka-layer-past", lambda: question(past)())

    def check(self) -> None:
        """There is no broker to lose."""

    def close(self, timeout: float) -> None:
        """Stop reading."""
        deadline = monotonic() + timeout
        self._closed = True
        self._log.detach(self)
        self._data.put(None)
        self._control.put(None)
        for server in self._job_servers:
            server.stop()
        for stream in self._streams:
            stream.stop()
        for thread in self._threads:
            if not is_current(thread):
                thread.join(max(0.0, deadline - monotonic()))
        for server in self._job_servers:
            server.join(max(0.0, deadline - monotonic()))
        for stream in self._streams:
            stream.join(max(0.0, deadline - monotonic()))

    def abandon(self) -> None:
        """Leave the log; a forked child has a copy of its own."""
        self._closed = True
        for stream in self._streams:
            stream.abandon()
        self._log.abandon()
        self._log.detach(self)

    def offer(self, topic: Topic, partition: int, record: Record) -> None:
        """Take a record if this server reads it."""
        if topic in BROADCAST_TOPICS or partition == self._inbox:
            (self._control if topic in CONTROL_TOPICS else self._data).put(record)


class _InMemoryWriter:
    """Writes to the topics of streams; see ``kafka_layer.transport.StreamWriter``."""

    def __init__(self, backplane: InMemoryBackplane) -> None:
        self._backplane = backplane

    def produce(
        self,
        record: StreamProducerRecord,
        ticket: Ticket[Position] | None = None,
        waited: bool = False,
    ) -> None:
        self._backplane.write(record, ticket)

    def when_room(self, waited: bool = False) -> Ticket[None]:
        return Ticket.resolved(None)


class _Shared:
    """The log that the layers of one prefix share; it ends with the last of these layers."""

    _by_prefix: ClassVar[weakref.WeakValueDictionary[str, _Shared]] = weakref.WeakValueDictionary()
    _lock: ClassVar[threading.Lock] = Lock()

    def __init__(self) -> None:
        # The servers hold the log only, so one that still closes does not keep this alive.
        self.log = _Log()

    @classmethod
    def of(cls, prefix: str) -> _Shared:
        with cls._lock:
            shared = cls._by_prefix.get(prefix)
            if shared is None:
                shared = cls._by_prefix[prefix] = cls()
            return shared


class _Kept:
    """The youngest records of one partition; for the log, under its lock."""

    def __init__(self) -> None:
        self.records: deque[Record] = deque()
        self._bytes = 0

    def append(self, record: Record) -> None:
        self.records.append(record)
        self._bytes += len(record[2] or b"")
        while len(self.records) > _KEPT_RECORDS or (
            self._bytes > _KEPT_BYTES and len(self.records) > 1
        ):
            self._bytes -= len(self.records.popleft()[2] or b"")


class _InMemoryPast(LogPast):
    """``Past`` for one question."""

    def __init__(self, log: _Log, counts: Mapping[Topic, int], deadline: float) -> None:
        super().__init__(deadline)
        self._log = log
        self._counts = counts

    def topics(self) -> tuple[StreamTopic, ...]:
        return ()

    def extents(self, topics: Sequence[Any]) -> dict[tuple[Any, int], Extent]:
        return {
            (topic, number): self._log.extent(topic, number)
            for topic in topics
            for number in range(self._counts[topic])
        }

    def first_since(self, where: tuple[Any, int], extent: Extent, timestamp: float) -> int:
        records = self._log.kept(*where)
        return next((each[6] for each in records if each[4] >= timestamp), extent.end)

    def read(self, where: tuple[Any, int], first: int, end: int) -> tuple[int, list[Record]]:
        kept = self._log.kept(*where)
        start = max(first, min(end, kept[0][6])) if kept else end
        return start, [record for record in kept if first <= record[6] < end]


class _Log(SharedLog["InMemoryBackplane"]):
    """The topics of one prefix: it orders records and offers them to the servers."""

    def __init__(self) -> None:
        super().__init__()
        # Starts with this machine's time and then ignores its changes, as a broker's clock.
        self._clock = BrokerClock()
        self._ends: dict[tuple[Topic, int], int] = {}
        self._kept: dict[tuple[Topic, int], _Kept] = {}
        self._jobs: dict[WorkTopic, WaitingJobs] = {}
        self.stream_topics = StreamTopics()

    def abandon(self) -> None:
        super().abandon()
        self.stream_topics.abandon()

    def jobs(self, topic: WorkTopic) -> WaitingJobs:
        with self._lock:
            return self._jobs.setdefault(topic, WaitingJobs())

    def clear_jobs(self) -> None:
        with self._lock:
            for jobs in self._jobs.values():
                jobs.clear()

    def append(self, outgoing: ProducerRecord, partition: int) -> tuple[int, float]:
        topic, key, value, _, headers = outgoing
        timestamp = self._clock.now()
        if isinstance(topic, WorkTopic):
            return self.jobs(topic).send(value, timestamp, headers), timestamp
        raw_key = None if key is None else key.encode()
        with self._lock:
            offset = self._ends.get((topic, partition), 0)
            self._ends[topic, partition] = offset + 1
            record = topic, raw_key, value, headers, timestamp, partition, offset
            if topic in BROADCAST_TOPICS:
                self._kept.setdefault((topic, partition), _Kept()).append(record)
            for reader in self._readers:
                reader.offer(topic, partition, record)
        return offset, timestamp

    def kept(self, topic: Topic, partition: int) -> list[Record]:
        with self._lock:
            kept = self._kept.get((topic, partition))
            return [] if kept is None else list(kept.records)

    def tell_ends(
        self,
        counts: Mapping[Topic, int],
        unread: _Unread,
        listener: OnPositions,
    ) -> None:
        with self._lock:
            ends: dict[Where, ReadFrom] = {
                (topic, number): ReadFrom(self._ends.get((topic, number), 0), None)
                for topic in counts
                for number in range(counts[topic])
            }
            unread.put(partial(listener, ends))

    def extent(self, topic: Topic, partition: int) -> Extent:
        with self._lock:
            end = self._ends.get((topic, partition), 0)
            return Extent(None, end - len(self.kept(topic, partition)), end)


def _read(unread: _Unread, sink: RecordSink) -> None:
    while True:
        records: list[Record] = []
        record = unread.get()
        while isinstance(record, tuple):
            records.append(record)
            if unread.empty():
                break
            record = unread.get()
        _deliver(sink, records)
        if record is None:
            return
        if not isinstance(record, tuple):
            record()


def _deliver(sink: RecordSink, records: Sequence[Record]) -> None:
    if records:
        sink.deliver(records)
