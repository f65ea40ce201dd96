"""The backplane, which carries the records of a server, as small protocols.

``kafka_layer.kafka.backplane.KafkaBackplane`` is the real one;
``kafka_layer.testing.InMemoryBackplane`` carries records inside one process.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

from .config.realtime import monotonic
from .config.threads import Nudge
from .config.timings import Timings
from .delivery.tickets import Ticket
from .exceptions import UnreadableRecord
from .messages import Position
from .transport_values import Backlog, Health, QueueFull, ReadFrom
from .wire.record_block import RecordBlock
from .wire.records import Place, ProducerRecord, Record, StreamProducerRecord
from .wire.topics import StreamTopic, Topic, Where, WorkTopic

if TYPE_CHECKING:
    from .config.streams import StreamSettings
    from .observe.counters import Stats

__all__ = [
    "Backlog",
    "Backplane",
    "BatchFacts",
    "CarriedJob",
    "Extent",
    "FetchedRecord",
    "Health",
    "JobSink",
    "Log",
    "OnEpoch",
    "OnPositions",
    "OnStreamPositions",
    "Past",
    "QueueFull",
    "ReadFrom",
    "Receiver",
    "RecordSink",
    "Sender",
    "StreamFacts",
    "StreamSender",
    "StreamSink",
    "StreamSource",
    "StreamStart",
    "StreamWriter",
    "Streams",
    "Topics",
    "WorkQueue",
    "answer_time",
]


OnPositions = Callable[[Mapping[Where, ReadFrom]], object]
"""Gets the position of each partition: the place from which it is read."""

OnStreamPositions = Callable[[Mapping[Where, ReadFrom], bool], object]
"""Gets the positions of partitions of a stream, and whether these are all that exist."""

OnEpoch = Callable[[Where, int, int], object]
"""Gets a partition, the offset of a record, and the leader epoch of that record."""


class RecordSink(Protocol):
    """Takes the records of a reading thread."""

    def deliver(self, records: Sequence[Record]) -> None:
        """Take records, each partition in order; called by the reading thread. May block.

        Args:
            records: At most a few hundred.
        """


class CarriedJob(Protocol):
    """A job as a backplane sees it."""

    @property
    def partition(self) -> int:
        """The partition of its record."""

    @property
    def offset(self) -> int:
        """The offset of its record."""

    @property
    def assignment(self) -> object:
        """The token given to ``JobSink.accept``: the assignment under which it was fetched."""


class FetchedRecord(Protocol):
    """A record of a worker channel, as a client fetched it."""

    def key(self) -> bytes | None:
        """Return the raw key."""

    def value(self) -> bytes | None:
        """Return the raw value."""

    def headers(self) -> Any:
        """Return Kafka's headers: pairs of a name and bytes or None, or None for no headers."""


J = TypeVar("J", bound=CarriedJob)
T = TypeVar("T")


class JobSink(Protocol[J]):
    """The receives of one worker channel, to which a backplane assigns jobs.

    An assigned job belongs to this process alone, until it is returned. Any thread may read the
    properties.

    Attributes:
        topic: The channel's topic.
        source: The topic of a stream, which the channel shares in place of its own; its consumer
            group is named like the channel. None: it has its own topic.
        changed: Set when ``demand`` may have risen; the thread that serves the sink waits for it.
        on_demand: Called in an event loop when ``demand`` may have risen; must not block. A
            backplane sets it while no thread serves the sink; otherwise None.
        measured: Whether the thread that serves the sink updates ``backlog``, which costs requests.
        backlog: Records in this process's partitions that no receive has got, at the thread's last
            check; None before that, and if this process has no partitions.
    """

    topic: WorkTopic
    source: StreamTopic | None
    changed: Nudge
    on_demand: Callable[[], None] | None
    measured: bool
    backlog: int | None

    @property
    def demand(self) -> int:
        """The number of jobs that may be assigned now: 0 unless a receive waits."""

    @property
    def unclaimed(self) -> int:
        """The number of assigned jobs that no receive has taken yet."""

    @property
    def last_seen(self) -> float:
        """When a receive last began to wait or took a job, on ``time.monotonic()``."""

    def accept(self, record: FetchedRecord, place: Place, assignment: object) -> J | None:
        """Make a job of a record; the thread that serves the sink.

        Args:
            record: The record.
            place: Its place in the log.
            assignment: The token that the job carries.

        Returns:
            The job; None if it has expired, was flushed or cannot be read, all of which are
            counted, or if it has no receiver.

        Raises:
            RegistryAway: If it cannot be read yet: try again later.
            UnreadableRecord: If the channel has to stop before it: call ``stop``.
        """

    def stop(self, error: UnreadableRecord, place: Place) -> None:
        """Let every receive raise an error from now on; the thread that serves the sink.

        Args:
            error: The error that ``accept`` raised.
            place: The place of the record.
        """

    def assign(self, jobs: Sequence[J]) -> None:
        """Give jobs to the receives that wait; the thread that serves the sink."""

    def return_unclaimed(self, which: Callable[[J], bool]) -> list[J]:
        """Take back assigned jobs that no receive has taken yet.

        Args:
            which: Tells whether to take a job; the others stay.

        Returns:
            The jobs, in the order in which they were assigned.
        """


class Sender(Protocol):
    """Writes records; any thread."""

    def open_sender(self, timeout: float) -> None:
        """Get ready to write; blocks for at most ``timeout`` seconds.

        Without a broker it returns as well; records then wait in the queue.

        Raises:
            TopicError: If the topics are missing and cannot be created.
            ImproperlyConfigured: If the client refuses its configuration.
        """

    def open_work_topic(self, topic: WorkTopic, timeout: float) -> None:
        """Get ready to write to a worker channel; blocks for at most ``timeout`` seconds.

        Without a broker it returns as well. The sender must be open.

        Raises:
            TopicError: If the topic is missing and cannot be created.
        """

    def produce(
        self,
        record: ProducerRecord,
        ticket: Ticket[Position] | None = None,
        waited: bool = False,
    ) -> None:
        """Queue a record for writing; any thread, never blocks.

        Args:
            record: The record.
            ticket: Gets the record's position, or the error, in a thread of the backplane or in the
                calling thread; stays unresolved if this call raises. Failures are counted without a
                ticket as well.
            waited: Whether the sender has waited with ``when_room``. While others wait, the queue
                refuses senders that have not.

        Raises:
            QueueFull: If the queue is full, or other senders wait for room in it.
            ProduceFailed: If the record cannot be written at all.
            LayerClosed: If the backplane is closed; it did not take the record.
        """

    def when_room(self, waited: bool = False) -> Ticket[None]:
        """Wait for room in the queue, in the order of these calls; any thread, never blocks.

        Args:
            waited: Whether the sender has waited before, and found the queue full again: then it
                is first.

        Returns:
            A ticket: resolved when ``produce(..., waited=True)`` may succeed, failed with
            ``LayerClosed`` if the backplane is closed.
        """

    def partitions(self, topic: Topic) -> int:
        """Return the number of partitions of a topic, as far as is known; no I/O."""

    def settle(self, timeout: float) -> bool:
        """Wait until all queued records are written or have failed.

        Args:
            timeout: Seconds that this may block.

        Returns:
            False if some record is still on its way.
        """


class StreamWriter(Protocol):
    """Writes records to the topics of streams on one cluster; any thread."""

    def produce(
        self,
        record: StreamProducerRecord,
        ticket: Ticket[Position] | None = None,
        waited: bool = False,
    ) -> None:
        """Queue a record for writing; see ``Sender.produce``."""

    def when_room(self, waited: bool = False) -> Ticket[None]:
        """Wait for room in the queue; see ``Sender.when_room``."""


class StreamSender(Protocol):
    """Writes to topics that are not the layer's own; any thread."""

    def open_stream_writer(self, topic: StreamTopic, timeout: float) -> StreamWriter:
        """Get ready to write to the topic of a stream; blocks for at most ``timeout`` seconds.

        The sender must be open. Without a broker it returns as well.

        Raises:
            TopicError: If the topic does not exist. The layer creates no topic of a stream.
            ImproperlyConfigured: If a client refuses its configuration.
            LayerClosed: If the backplane is closed.
        """


class Receiver(Protocol):
    """Reads the records that are addressed to a server."""

    def open_receiver(self, data: RecordSink, control: RecordSink, timeout: float) -> int:
        """Start to read, in two threads; blocks for at most ``timeout`` seconds.

        Every record that is written after it has returned reaches a sink. Commands and their
        answers have a thread of their own, so that they do not wait while ``data`` blocks.

        Args:
            data: Gets the records with messages, and commands to everybody on ``send-all``.
            control: Gets the records of ``CONTROL_TOPICS``.
            timeout: Seconds.

        Returns:
            The partition of the inbox topics that this server reads.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the topics are missing and cannot be created.
        """

    def follow(self, listener: OnPositions, on_epoch: OnEpoch) -> None:
        """Report the positions of the topics that all servers read.

        Args:
            listener: Called soon, and whenever a partition continues at another offset than after
                its last record: a new partition, a topic that was created again, records that the
                log lost. Gets the positions of all these partitions. Runs in the thread that reads
                data, between two calls of its sink; must not block.
            on_epoch: Called just before the sink gets a record with a leader epoch that differs
                from that of the record before it, and before the first record of a partition after
                ``listener``. Gets the partition, the record's offset and its epoch. Otherwise as
                ``listener``.
        """


class WorkQueue(Protocol):
    """Shares the messages of worker channels among the processes that receive from them."""

    def open_work_channel(self, channel: JobSink[Any], timeout: float) -> None:
        """Start to serve the receives of a worker channel.

        Blocks for at most ``timeout`` seconds; receives get jobs as soon as this process has
        partitions. The sender must be open.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the topic is missing and cannot be created, or may not be read; the topic
                of a stream is never created.
        """

    def work_shares(self) -> Mapping[str, int]:
        """Return the number of this process's partitions, by worker channel; no I/O."""

    def backlogs(self, timeout: float) -> Sequence[Backlog]:
        """Return the backlogs of all existing worker channels, also of those without a worker.

        Args:
            timeout: Seconds that the brokers have to answer each request; this blocks.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the broker refuses.
        """

    def clear_work(self, timeout: float) -> None:
        """Drop all messages that wait in the worker channels of the prefix.

        Args:
            timeout: Seconds that this may block.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the broker refuses.
        """


class Extent(NamedTuple):
    """The extent of the log of one partition.

    Attributes:
        topic_id: Kafka's id of the topic; None if it is unknown.
        start: The offset of its oldest record; greater than 0 if older ones were deleted.
        end: The offset of the next record to be written.
    """

    topic_id: str | None
    start: int
    end: int


class Past(Protocol):
    """The records of the log, for one query; for the thread that runs the query.

    Each method raises ``BrokerUnavailable`` if no broker answers in time, and ``TopicError`` if a
    topic is missing or may not be read.

    Attributes:
        deadline: When the query has to be answered, on ``monotonic()``.
    """

    deadline: float

    def topics(self) -> Sequence[StreamTopic]:
        """Return the existing topics of the stream, for a query of a stream's past."""

    def extents(self, topics: Sequence[Topic | StreamTopic]) -> Mapping[Where, Extent]:
        """Return the present extent of each partition of some topics."""

    def first_since(self, where: Where, extent: Extent, timestamp: float) -> int:
        """Return the offset of the first record of a partition since a time of the broker.

        Returns:
            The offset; the end if there is no such record.
        """

    def read_blocks(self, where: Where, first: int, end: int) -> tuple[int, Sequence[RecordBlock]]:
        """Do what ``read`` does, for very many records; none is kept for other queries."""

    def epochs(self, offsets: Mapping[Where, int]) -> Mapping[Where, int]:
        """Return the leader epochs of records.

        Args:
            offsets: For some partitions the offset of a record that the log holds.

        Returns:
            The epochs, by partition; only if the log has the record and its epoch is known.

        Raises:
            TimeoutError: If the deadline came before the last record.
        """

    def read(self, where: Where, first: int, end: int) -> tuple[int, Sequence[Record]]:
        """Read a part of a partition.

        Args:
            where: The partition.
            first: The first offset.
            end: The offset after the last one.

        Returns:
            The first offset that the log still holds (``first``, if no record was deleted
            meanwhile), and the records.

        Raises:
            TimeoutError: If the deadline came before the last record.
        """


class Log(Protocol):
    """Answers queries for records that were written earlier."""

    def ask_past(
        self,
        key: Hashable,
        question: Callable[[Past], Callable[[], T]],
        deadline: float,
        stream: str | None = None,
    ) -> Ticket[T]:
        """Run a query in a thread of the backplane.

        Args:
            key: Callers with the same key share a query that has not begun.
            question: The query. It returns a function that makes the answer for each caller.
            deadline: When to give up, on ``monotonic()``.
            stream: The stream whose topics the query reads, which may be on another cluster; only
                committed records are read. None: the layer's own topics.

        Returns:
            The ticket of the answer. It fails with the error of the query, with
            ``BrokerUnavailable`` if the query was not begun in time, and with ``LayerClosed`` if
            the backplane is closed.
        """


def answer_time(deadline: float, timings: Timings) -> float:
    """Return how many seconds to wait for the answer to a query of the past.

    Args:
        deadline: When the query gives up, on ``monotonic()``.
        timings: The server's times.
    """
    return max(0.0, deadline - monotonic()) + timings.hand_over


StreamStart = Literal["latest", "earliest"] | datetime.datetime
"""Where the partitions of a stream begin: at their ends, at their oldest records, or at the first
record since an aware time."""


class StreamFacts(NamedTuple):
    """The known facts of the topics of a stream.

    Attributes:
        topics: Kafka's names of the topics that exist.
        partitions: The number of their partitions.
        lag: Records in the log that were not read yet, a few seconds ago.
        trouble: Why topics cannot be read, as text; empty if they can.
    """

    topics: tuple[str, ...] = ()
    partitions: int = 0
    lag: int = 0
    trouble: str = ""


class BatchFacts(NamedTuple):
    """Facts of messages that are known without decoding them.

    Attributes:
        ends: For each of their partitions the offset after the last message.
        size: Bytes of their values and headers.
    """

    ends: Mapping[Where, int]
    size: int


class StreamSink(Protocol):
    """Takes the records of one stream; the thread that reads it calls every method."""

    def deliver(self, messages: Sequence[Any]) -> None:
        """Take records as the source has them, each partition in order. May block.

        Args:
            messages: At most a few hundred; ``StreamSource.key`` and ``record`` read them.
        """

    def turn(self) -> None:
        """Do what is due; after each batch, and several times a second without records."""

    def caught_up(self) -> None:
        """Note that the topics are read to the ends that they had when reading began.

        Called each time that reading begins; only for a stream with ``last_value``.
        """

    def sought(self) -> None:
        """Note that a ``seek`` has taken effect: the next records are from there on."""

    def made_anew(self, topic: str, partition: int) -> None:
        """Note that a topic was created again; the partition is read from its start."""

    def missed(self, topic: str, partition: int) -> None:
        """Note that a partition lost unread records; it is read from the next record on."""

    def failed(self, error: BaseException) -> None:
        """Note that the stream cannot be read; its thread ends."""


class StreamSource(Protocol):
    """Reads the topics of one stream in a thread of its own; any thread.

    It reads committed records only. Partitions and topics that appear after the first check are
    read from their start.

    Attributes:
        key: Returns the raw key of a message. Most messages have no receiver, and only their key is
            read.
        value: Returns the raw value of a message.
    """

    key: Callable[[Any], bytes | None]
    value: Callable[[Any], bytes | None]

    def where(self, message: Any) -> tuple[StreamTopic, int]:
        """Return the partition of a message."""

    def offset(self, message: Any) -> int:
        """Return the offset of a message."""

    def facts_of(self, messages: Sequence[Any]) -> BatchFacts:
        """Return the facts of messages that are known without decoding them."""

    def record(self, message: Any) -> Record:
        """Return the record that a message carries, with a ``StreamTopic`` and its own timestamp.

        Raises:
            UnreadableRecord: If the client cannot read it.
        """

    def begin(self, start: StreamStart) -> Ticket[None]:
        """Begin to read, in the thread; to be called once.

        Returns:
            A ticket, resolved when all partitions have their starts, or no topic exists yet.
        """

    def read(self, on: bool) -> Ticket[None]:
        """Continue to read, or stop reading.

        Returns:
            A ticket, resolved when that is done: after a stop no record is delivered any more.
        """

    def seek(self, start: StreamStart) -> Ticket[None]:
        """Read from another place on.

        Returns:
            A ticket, resolved when all partitions that are read have their new starts.
        """

    def follow(self, listener: OnStreamPositions, on_epoch: OnEpoch) -> None:
        """Report the positions and the leader epochs, as ``Receiver.follow`` does.

        Args:
            listener: Called as there, and also when all topics are known, and when reading begins
                or stops. It gets partitions that are not read, too, with the place where they
                continue.
            on_epoch: As there.
        """

    def leave(self, messages: Sequence[Any]) -> None:
        """Return the rest of a batch; within ``StreamSink.deliver``.

        Args:
            messages: The messages that were not delivered, in order. Their partitions are read
                again from there.
        """

    def wait(self, seconds: float) -> bool:
        """Wait within ``StreamSink.deliver``.

        Returns:
            False, at once, if a pause, a seek or the end interrupts: then ``leave`` the records.
        """

    def facts(self) -> StreamFacts:
        """Return the facts of the topics; no I/O."""

    def stop(self) -> None:
        """Ask the thread to end, without waiting for it."""

    def join(self, timeout: float) -> None:
        """Wait for the thread to end, at most ``timeout`` seconds."""


class Streams(Protocol):
    """Reads topics that are not the layer's own."""

    def open_stream(self, settings: StreamSettings, sink: StreamSink, stats: Stats) -> StreamSource:
        """Return the source of a stream; no I/O. ``close`` and ``abandon`` end it.

        Args:
            settings: The settings of the stream.
            sink: Gets the records.
            stats: Counts errors and replaced clients of the stream.
        """


class Topics(Protocol):
    """Notices new partitions, topics that were created again, and clients that are silent."""

    def refresh(self) -> None:
        """Read the partition counts of the topics that this server writes to; blocks briefly.

        Raises:
            BrokerUnavailable: If no broker answers.
        """

    def check(self) -> None:
        """Check readers and worker groups, and replace dead clients; blocks briefly.

        The server calls it about once a second.
        """


class Backplane(Sender, StreamSender, Receiver, WorkQueue, Log, Streams, Topics, Protocol):
    """Carries the records of one server; it opens and closes once."""

    def health(self) -> Health:
        """Return the health of the backplane; no I/O."""

    def close(self, timeout: float) -> None:
        """Write queued records, stop reading and free everything, within ``timeout`` seconds."""

    def abandon(self) -> None:
        """Drop the parent's clients without freeing them, in a forked child."""
