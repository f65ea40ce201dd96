"""The Kafka backplane of a server: composes producer, readers, worker groups and topics."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..config.threads import Lock
from ..delivery.tickets import Ticket
from ..exceptions import BrokerUnavailable, KafkaLayerError, LayerClosed
from ..observe.counters import Stats
from ..transport_values import Backlog, Health
from ..wire.topics import (
    StreamTopic,
    Topic,
    WorkTopic,
    topic_name,
)
from .acls import require_read
from .assignment import CONTROL, DATA, Assignment, Share
from .connection import Connection
from .errors import no_topic, token_hint, unavailable
from .liveness import ANSWERED, UNANSWERED
from .producer import RecordProducer
from .properties import consumer_properties
from .read_positions import From
from .reader import Reader
from .topics import KnownTopic, LayerTopics, TopicWatch, read_answers, topic_admin

if TYPE_CHECKING:
    from ..config.streams import StreamSettings
    from ..transport import JobSink, OnEpoch, OnPositions, Past, RecordSink, StreamSink
    from .past import PastReader
    from .stream_producers import StreamProducers
    from .streams import StreamReader
    from .topic_ids import TopicIds
    from .worker_group.member import GroupMember

__all__ = ["KafkaBackplane"]

T = TypeVar("T")

logger = logging.getLogger("kafka_layer")

# Milliseconds of a fetch without records, each of which costs about 0.1 ms of the processor. The
# partitions of commands are two, and never change.
_FETCH_DATA, _FETCH_CONTROL = 250, 400

# Seconds that a failed start waits for a reader's thread: closing a client may block for ever.
_CLOSE_PATIENCE = 0.5


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
        self._connection = Connection(
            config.bootstrap_servers, stats, config.timings, token_hint(config.client_config)
        )
        self._producer = RecordProducer(
            config, self._names, stats, self._connection, lambda: self._topics.repair()
        )
        self._topics = LayerTopics(config, self._producer, self._connection, self._adopt)
        self.produce = self._producer.produce
        self.when_room = self._producer.when_room
        self._lock = Lock()
        # Read what was written before, by stream, and None for the layer's own topics; there from
        # the first question on.
        self._pasts: dict[str | None, PastReader] = {}
        self._closed = False
        self._assignment = Assignment(self._names)
        # The readers that have started, with their shares.
        self._readers: list[tuple[Reader, Share]] = []
        self._workers: dict[WorkTopic, GroupMember] = {}
        self._streams: list[StreamReader] = []
        # Clients that look at the topics of streams with client settings of their own, by stream.
        self._stream_watches: dict[str, TopicWatch] = {}
        # Tell of topics that are written to, or whose work is shared, by stream.
        self._topic_ids: dict[str, TopicIds] = {}
        # Writes to the topics of streams; None until the first record for one.
        self._stream_producers: StreamProducers | None = None
        # Whether records that are addressed to this server alone can reach it.
        self._addressable = True
        self._seed = random.randrange(1 << 16)
        self._next_look = 0.0

    def open_sender(self, timeout: float) -> None:
        self._producer.start()
        self._topics.ensure_or_later(tuple(Topic), timeout)

    def open_receiver(self, data: RecordSink, control: RecordSink, timeout: float) -> int:
        deadline = monotonic() + timeout
        if self._assignment.inbox is None:
            self._topics.ensure(tuple(Topic), timeout)
            self._assignment.choose_inbox(self._topics.known)
        if not self._readers:
            readers = [
                (self._reader("data", data, _FETCH_DATA), DATA),
                (self._reader("control", control, _FETCH_CONTROL), CONTROL),
            ]
            with self._allowed_to_read(tuple(Topic), [each for each, _ in readers], deadline):
                self._start(readers, deadline)
            # The start has just looked at the topics.
            self._next_look = monotonic() + self._config.timings.topics
            # From here on every change reaches them; pass on the changes since they started.
            self._readers = readers
            self._adopt(self._topics.known)
        return self._assignment.inbox or 0

    def follow(self, listener: OnPositions, on_epoch: OnEpoch) -> None:
        data, _ = self._readers[0]
        data.follow(listener, on_epoch)

    def open_work_topic(self, topic: WorkTopic, timeout: float) -> None:
        # Before ensure_or_later(): a missing topic is created later, while the producer writes to
        # it.
        name = self._topics.name(topic)
        known = self._topics.known.get(name)
        self._producer.set_round_robin(topic, name, 1 if known is None else known.partitions)
        self._topics.ensure_or_later((topic,), timeout)

    def open_work_channel(self, channel: JobSink[Any], timeout: float) -> None:
        deadline = monotonic() + timeout
        topic = channel.topic
        if channel.source is None:
            self._topics.ensure((topic,), timeout)
            name = self._topics.name(topic)
            worker = self._member(channel, self._config, self._connection, name, name)
            allowed: contextlib.AbstractContextManager[None] = self._allowed_to_read(
                (topic,), [worker], deadline
            )
        else:
            worker = self._worker_of_stream(channel, channel.source, timeout)
            allowed = contextlib.nullcontext()
        with self._lock:
            self._workers[topic] = worker
        try:
            with allowed:
                worker.start(deadline - monotonic())
        except Exception:
            worker.stop()
            with self._lock:
                del self._workers[topic]
            raise
        if channel.source is not None:
            topic_ids = self._topic_ids_of(channel.source)
            topic_ids.follow(channel.source.name, lambda told, _: worker.learn_id(told.topic_id))

    def open_stream_writer(self, topic: StreamTopic, timeout: float) -> RecordProducer:
        # Imported by the first record for a stream: most processes send none.
        from .stream_producers import StreamProducers

        with self._lock:
            if self._closed:
                raise LayerClosed("The channel layer is closed.")
            if self._stream_producers is None:
                self._stream_producers = StreamProducers(
                    self._config, self._producer, self._connection, self._stats
                )
            producers = self._stream_producers
        topic_ids = self._topic_ids_of(topic)
        topic_ids.ask([topic.name])
        producer = producers.open(topic, timeout)
        topic_ids.follow(
            topic.name, lambda _, moved: producer.leave_leaders([topic.name]) if moved else None
        )
        return producer

    def partitions(self, topic: Topic) -> int:
        known = self._topics.known.get(self._names[topic])
        return self._config.topics[topic].partitions if known is None else known.partitions

    def settle(self, timeout: float) -> bool:
        return self._producer.flush(timeout)

    def clear_work(self, timeout: float) -> None:
        every_work_topic = f"{self._config.prefix}-work."
        with topic_admin(self._config, timeout) as admin:
            admin.delete_records(every_work_topic)

    def refresh(self) -> None:
        if self._stream_producers is not None:
            self._stream_producers.refresh()
        try:
            self._topics.read_counts(self._config.timings.request)
        except BrokerUnavailable:
            self._connection.on_silence()
            self._producer.judge(UNANSWERED, self._topics.is_answered_elsewhere)
            raise
        self._producer.judge(ANSWERED, self._topics.is_answered_elsewhere)
        self._connection.on_answer()

    def ask_past(
        self,
        key: Hashable,
        question: Callable[[Past], Callable[[], T]],
        deadline: float,
        stream: str | None = None,
    ) -> Ticket[T]:
        # Imported by the first question: most processes ask none.
        from .past import PastReader

        with self._lock:
            past = self._pasts.get(stream)
            if past is None:
                settings = None if stream is None else self._config.streams[stream]
                config = self._config if settings is None else self._config.for_stream(settings)
                connection = self._connection_of(config, self._stats)
                past = self._pasts[stream] = PastReader(config, connection, settings)
                if self._closed:
                    past.stop()
        return past.ask(key, question, deadline)

    def open_stream(self, settings: StreamSettings, sink: StreamSink, stats: Stats) -> StreamReader:
        # Imported by the first stream: most processes read none.
        from .streams import StreamReader

        config = self._config.for_stream(settings)
        connection = self._connection_of(config, stats)
        watch = partial(self._watch_of, settings)
        reader = StreamReader(config, settings, sink, stats, connection, watch)
        with self._lock:
            self._streams.append(reader)
            if self._closed:
                reader.stop()
        return reader

    def check(self) -> None:
        for worker in tuple(self._workers.values()):
            worker.check()
        for topic_ids in tuple(self._topic_ids.values()):
            topic_ids.look()
        if monotonic() >= self._next_look and not self._connection.lost:
            self._next_look = monotonic() + self._config.timings.topics
            self._topics.look(self._config.timings.request)

    def health(self) -> Health:
        # No two readers read the same topic.
        lags = {topic: lag for reader, _ in self._readers for topic, lag in reader.lags.items()}
        connected, doubtful = not self._connection.lost, self._connection.doubtful
        queued = self._producer.queued
        if self._stream_producers is not None:
            queued += self._stream_producers.queued
        lag = sum(lags.values())
        return Health(connected, queued, lag, doubtful, self._addressable, lags, self._dead())

    def work_shares(self) -> Mapping[str, int]:
        return {topic.channel: each.share for topic, each in tuple(self._workers.items())}

    def backlogs(self, timeout: float) -> list[Backlog]:
        prefix = f"{self._config.prefix}-work."
        with topic_admin(self._config, timeout) as admin:
            found = [
                Backlog(lag.topic.removeprefix(prefix), lag.waiting, lag.members)
                for lag in admin.work_lags(prefix)
            ]
        return found + [
            self._backlog_of_stream(stream, stream.worker_channel, timeout)
            for stream in self._config.streams.values()
            if stream.worker_channel is not None
        ]

    def close(self, timeout: float) -> None:
        deadline = monotonic() + timeout
        with self._lock:
            self._closed = True
        readers = self._all_readers()
        for reader in readers:
            reader.stop()
        if self._stream_producers is None:
            self._producer.close(timeout * 0.8)
        else:
            self._stream_producers.close(timeout * 0.8)
        for reader in readers:
            reader.join(max(0.1, deadline - monotonic()))
        self._topics.close()
        with self._lock:
            watches, self._stream_watches = self._stream_watches, {}
        for watch in watches.values():
            watch.close()

    def abandon(self) -> None:
        # clients.py keeps all clients of the parent from being freed.
        self._topics.abandon()
        for past in self._pasts.values():
            past.abandon()

    def _worker_of_stream(
        self, channel: JobSink[Any], source: StreamTopic, timeout: float
    ) -> GroupMember:
        """Make the member of a consumer group that shares the topic of a stream.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the topic does not exist, or may not be read.
        """
        stream = self._config.streams[source.stream]
        config = self._config.for_stream(stream)
        answers = self._watch_of(stream).ask([source.name], timeout, rights=True)
        told, missing = read_answers(answers, timeout)
        require_read(answers, 0.0)
        if missing:
            raise no_topic(source, config.bootstrap_servers)
        if not told:
            raise unavailable(config.bootstrap_servers, f"look at {source.name}")
        connection = self._connection_of(config, self._stats)
        group = channel.topic.channel
        worker = self._member(channel, config, connection, source.name, group, stream)
        worker.learn_id(told[source.name].topic_id)
        return worker

    def _member(
        self,
        channel: JobSink[Any],
        config: LayerConfig,
        connection: Connection,
        topic: str,
        group: str,
        stream: StreamSettings | None = None,
    ) -> GroupMember:
        """Make a member of the consumer group of a worker channel."""
        # Imported in the thread of the first start: most processes receive on no worker channel.
        from .worker_group.client import GroupSource
        from .worker_group.member import GroupMember

        source = GroupSource(topic, group, stream)
        return GroupMember(config, source, channel, self._stats, connection)

    def _watch_of(self, stream: StreamSettings) -> TopicWatch:
        """Return the client that looks at the topics of a stream; the first call opens it."""
        config = self._config.for_stream(stream)
        if config is self._config:
            return self._topics.watch()
        with self._lock:
            if stream.name not in self._stream_watches:
                self._stream_watches[stream.name] = TopicWatch(config)
            return self._stream_watches[stream.name]

    def _topic_ids_of(self, topic: StreamTopic) -> TopicIds:
        """Return what tells of the topic of a stream; the first call makes it."""
        from .topic_ids import TopicIds

        watch = self._watch_of(self._config.streams[topic.stream])
        with self._lock:
            if topic.stream not in self._topic_ids:
                self._topic_ids[topic.stream] = TopicIds(watch, self._config.timings)
            return self._topic_ids[topic.stream]

    def _connection_of(self, config: LayerConfig, stats: Stats) -> Connection:
        """Return the connection of clients with these settings."""
        if config is self._config:
            return self._connection
        return Connection(config.bootstrap_servers, stats, config.timings, announces=False)

    def _reader(self, name: str, sink: RecordSink, fetch_wait: int) -> Reader:
        return Reader(
            name,
            consumer_properties(self._config, fetch_wait),
            {name: topic for topic, name in self._names.items()},
            sink,
            self._stats,
            self._connection,
            self._topics.repair,
            self._config.timings,
        )

    def _start(self, readers: Sequence[tuple[Reader, Share]], deadline: float) -> None:
        """Start readers at the present ends of their partitions, all at the same time."""
        known = self._topics.known
        # The server proves its start by a record that it writes to itself.
        opening = self._assignment.inbox_of(Topic.ACK)
        started: list[Ticket[None]] = []
        try:
            for reader, share in readers:
                wish = self._assignment.wish(share, known, From.END)
                started.append(reader.start(wish, max(0.1, deadline - monotonic()), opening))
        finally:
            # After an error, too, wait for all: no start may outlive this call.
            errors = [error for each in started if (error := _error_of(each)) is not None]
        if errors:
            for reader, _ in readers:
                reader.join(_CLOSE_PATIENCE)
            raise errors[0]

    @contextlib.contextmanager
    def _allowed_to_read(
        self,
        topics: Sequence[Topic | WorkTopic],
        readers: Sequence[Reader | GroupMember],
        deadline: float,
    ) -> Iterator[None]:
        """Run a start of readers; stop them if it fails or they may not read the topics.

        Meanwhile the broker answers which topics they may read.
        """
        try:
            timeout = max(0.1, deadline - monotonic())
            names = [self._topics.name(topic) for topic in topics]
            answers = self._topics.watch().ask(names, timeout, rights=True)
            yield
            timeout = max(0.1, deadline - monotonic())
            require_read(answers, timeout)
            self._topics.learn(answers, 0.0)
        except Exception:
            for reader in readers:
                reader.stop()
            raise

    def _adopt(self, known: Mapping[str, KnownTopic]) -> None:
        """Let producer and readers follow what is known of the topics now; never blocks."""
        for topic in self._topics.work_topics:
            name = topic_name(self._config.prefix, topic)
            if name in known:
                self._producer.set_round_robin(topic, name, known[name].partitions)
        everybody = self._names[Topic.SEND_ALL]
        if everybody in known:
            self._producer.keyless_partition = self._seed % known[everybody].partitions
        self._addressable = self._assignment.is_served(known)
        for topic, worker in tuple(self._workers.items()):
            name = self._topics.name(topic)
            if name in known:
                worker.learn_id(known[name].topic_id)
        for reader, share in self._readers:
            # A partition that is new since the reader's start is read from its beginning.
            reader.want(self._assignment.wish(share, known, From.BEGINNING))

    def _backlog_of_stream(self, stream: StreamSettings, channel: str, timeout: float) -> Backlog:
        try:
            with topic_admin(self._config.for_stream(stream), timeout) as admin:
                lag = None if stream.topic is None else admin.group_lag(channel, stream.topic)
        except KafkaLayerError as error:
            # It may be another cluster: the layer itself may be well.
            return Backlog(channel, None, 0, stream.name, str(error))
        if lag is None:
            return Backlog(channel, None, 0, stream.name, "The topic does not exist.")
        return Backlog(channel, lag.waiting, lag.members, stream.name)

    def _dead(self) -> tuple[str, ...]:
        """Return the names of the threads that have ended although they should run."""
        members = tuple(self._workers.items())
        died = {
            "kafka-layer-producer": self._producer.died,
            **{reader.thread_name: reader.died for reader, _ in self._readers},
            **{f"kafka-layer-work-{topic.channel}": each.died for topic, each in members},
        }
        return tuple(name for name, has_died in died.items() if has_died)

    def _all_readers(self) -> list[Reader | GroupMember | PastReader | StreamReader]:
        readers = [reader for reader, _ in self._readers]
        return [*readers, *self._workers.values(), *self._streams, *self._pasts.values()]


def _error_of(ticket: Ticket[None]) -> Exception | None:
    """Wait for a ticket; return its error, or None."""
    try:
        ticket.result()
    except Exception as error:
        return error
    return None
