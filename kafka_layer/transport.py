"""The backplane, which carries the records of a server, as small protocols.

``kafka_layer.kafka.backplane.KafkaBackplane`` is the real one;
``kafka_layer.testing.InMemoryBackplane`` carries records inside one process.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

from .carried import Backlog, Health, QueueFull, ReadFrom
from .delivery.tickets import Ticket
from .exceptions import UnreadableRecord
from .messages import Position
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
]


OnPositions = Callable[[Mapping[Where, ReadFrom]], object]
"""Gets from where each partition is read on."""

OnStreamPositions = Callable[[Mapping[Where, ReadFrom], bool], object]
"""Gets from where each partition of a stream is read on, and whether these are all that exist."""

OnEpoch = Callable[[Where, int, int], object]
"""Gets a partition, the offset of a record, and the leader epoch of that record."""


class RecordSink(Protocol):
    """Takes the records of a reading thread."""

    def deliver(self, records: Sequence[Record]) -> None:
        """Take records, in the order of their partitions; the reading thread alone. May block.

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
        """The mark given to ``JobSink.accept``: the assignment under which the job was fetched."""


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
        changed: Set when ``demand`` may have risen; the thread that serves the sink clears it.
        on_demand: Called in an event loop when ``demand`` may have risen; must not block. A
            backplane sets it while no thread serves the sink; otherwise None.
        measured: Whether the thread that serves the sink is to keep ``backlog``, which costs
            requests.
        backlog: Records of this process's share of the partitions that no receive has got, at the
            thread's last look; None before, and where this process has no share.
    """

    topic: WorkTopic
    source: StreamTopic | None
    changed: threading.Event
    on_demand: Callable[[], None] | None
    measured: bool
    backlog: int | None

    @property
    def demand(self) -> int:
        """How many jobs may be assigned now: none unless a receive waits."""

    @property
    def unclaimed(self) -> int:
        """How many assigned jobs no receive has taken yet."""

    @property
    def last_seen(self) -> float:
        """When a receive last began to wait or took a job, on ``time.monotonic()``."""

    def accept(self, record: FetchedRecord, place: Place, assignment: object) -> J | None:
        """Make a job of a record; the thread that serves the sink.

        Args:
            record: The record.
            place: Its place in the log.
            assignment: The mark that the job carries.

        Returns:
            The job; None, counted, if it expired, was flushed or cannot be read, or if it is for
            nobody.

        Raises:
            RegistryAway: If it cannot be read yet: try again later.
            UnreadableRecord: If the channel has to stop before it: call ``stop``.
        """

    def stop(self, error: UnreadableRecord, place: Place) -> None:
        """Let every receive, from now on, raise that the channel stopped; the serving thread.

        Args:
            error: Why, as ``accept`` raised it.
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

        Without a broker it returns normally, too; records then wait in the queue.

        Raises:
            TopicError: If the topics are missing and cannot be created.
            ImproperlyConfigured: If the client refuses its configuration.
        """

    def open_work_topic(self, topic: WorkTopic, timeout: float) -> None:
        """Get ready to write to a worker channel; blocks for at most ``timeout`` seconds.

        Without a broker it returns normally, too. The sender must be open.

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
            record: What to write.
            ticket: Gets the record's position, or the error, in a thread of the backplane or in the
                calling one; stays open if this call raises. Failures are counted without a ticket,
                too.
            waited: Whether the sender's ticket of ``when_room`` was resolved. The queue refuses
                senders that did not wait while others wait.

        Raises:
            QueueFull: If the queue is full, or other senders wait for room in it.
            ProduceFailed: If the record cannot be written at all.
            LayerClosed: If the backplane is closed; it did not take the record.
        """

    def when_room(self, waited: bool = False) -> Ticket[None]:
        """Wait for room in the queue, in the order of these calls; any thread, never blocks.

        Args:
            waited: Whether the sender waited before and found the queue full again: it goes
                first.

        Returns:
            A ticket: resolved once ``produce(..., waited=True)`` is worth a try, failed with
            ``LayerClosed`` if the backplane is closed.
        """

    def partitions(self, topic: Topic) -> int:
        """Return how many partitions a topic has, as far as is known; no I/O."""

    def settle(self, timeout: float) -> bool:
        """Wait until every record so far is written or has failed.

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

        The sender must be open. Without a broker it returns normally, too.

        Raises:
            TopicError: If the topic does not exist. The layer creates no topic of a stream.
            ImproperlyConfigured: If a client refuses its configuration.
            LayerClosed: If the backplane is closed.
        """


class Receiver(Protocol):
    """Reads the records that are addressed to a server."""

    def open_receiver(self, data: RecordSink, control: RecordSink, timeout: float) -> int:
        """Start to read, in two threads; blocks for at most ``timeout`` seconds.

        Every record that is written after it returned reaches a sink. A thread of its own reads
        commands and their answers, so that they do not wait while ``data`` blocks.

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

        Blocks for at most ``timeout`` seconds; receives get jobs as soon as this process has its
        share of the partitions. The sender must be open.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the topic is missing and cannot be created, or may not be read; the topic
                of a stream is never created.
        """

    def work_shares(self) -> Mapping[str, int]:
        """Return how many partitions each worker channel has here, by its name; no I/O."""

    def backlogs(self, timeout: float) -> Sequence[Backlog]:
        """Return what waits in the worker channels that exist, also in those without a worker.

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
    """What the log of one partition holds.

    Attributes:
        topic_id: Kafka's id of the topic; None if it is unknown.
        start: The offset of its oldest record; greater than 0 where older ones were deleted.
        end: The offset of the next record to be written.
    """

    topic_id: str | None
    start: int
    end: int


class Past(Protocol):
    """The records of the log, for one question; for the thread that carries the question out.

    Each method raises ``BrokerUnavailable`` if no broker answers in time, and ``TopicError`` if a
    topic is missing or may not be read.

    Attributes:
        deadline: When the question has to be answered, on ``monotonic()``.
    """

    deadline: float

    def topics(self) -> Sequence[StreamTopic]:
        """Return the topics of the stream that exist, where the question is for a stream's past."""

    def extents(self, topics: Sequence[Topic | StreamTopic]) -> Mapping[Where, Extent]:
        """Return what the log holds now of each partition of some topics."""

    def first_since(self, where: Where, extent: Extent, timestamp: float) -> int:
        """Return the offset of the first record of a partition since a time of the broker.

        Returns:
            The offset; the end if there is no such record.
        """

    def read_blocks(self, where: Where, first: int, end: int) -> tuple[int, Sequence[RecordBlock]]:
        """Do what ``read`` does, for very many records; none is kept for other questions."""

    def epochs(self, offsets: Mapping[Where, int]) -> Mapping[Where, int]:
        """Return the leader epochs of records.

        Args:
            offsets: For some partitions the offset of a record that the log holds.

        Returns:
            The epochs, of those partitions where there is such a record and its epoch is known.

        Raises:
            TimeoutError: If the deadline came before the last record.
        """

    def read(self, where: Where, first: int, end: int) -> tuple[int, Sequence[Record]]:
        """Read a part of a partition.

        Args:
            where: The partition.
            first: The first offset.
            end: The offset behind the last one.

        Returns:
            The first offset that the log still holds (``first``, if nothing was deleted
            meanwhile), and the records.

        Raises:
            TimeoutError: If the deadline came before the last record.
        """


class Log(Protocol):
    """Answers questions for records that were written before."""

    def ask_past(
        self,
        key: Hashable,
        question: Callable[[Past], Callable[[], T]],
        deadline: float,
        stream: str | None = None,
    ) -> Ticket[T]:
        """Have a question carried out, in a thread of the backplane.

        Args:
            key: Askers whose question has not begun share the one with this key.
            question: Asks; returns the function that makes the answer of each asker.
            deadline: When to give up, on ``monotonic()``.
            stream: The stream of the settings whose topics the question is for, which may be on
                another cluster, and of which committed records alone are read; None for the
                layer's own topics.

        Returns:
            The ticket of the answer. It fails with what the question raises, with
            ``BrokerUnavailable`` if the question was not begun in time, and with ``LayerClosed``
            if the backplane is closed.
        """


StreamStart = Literal["latest", "earliest"] | datetime.datetime
"""Where the partitions of a stream begin: at their ends, at their oldest records, or at the first
record since an aware time."""


class StreamFacts(NamedTuple):
    """What is known of the topics of a stream.

    Attributes:
        topics: Kafka's names of the topics that exist.
        partitions: How many partitions they have together.
        lag: Records in the log that were not read yet, some seconds ago.
        trouble: Why topics cannot be read, in words; empty if they can.
    """

    topics: tuple[str, ...] = ()
    partitions: int = 0
    lag: int = 0
    trouble: str = ""


class BatchFacts(NamedTuple):
    """What is known of messages without reading each.

    Attributes:
        ends: For each of their partitions the offset behind the last one.
        size: Bytes of their values and headers.
    """

    ends: Mapping[Where, int]
    size: int


class StreamSink(Protocol):
    """Takes the records of one stream; the thread that reads it calls every method."""

    def deliver(self, messages: Sequence[Any]) -> None:
        """Take records as the source has them, in the order of their partitions. May block.

        Args:
            messages: At most a few hundred; ``StreamSource.key`` and ``record`` read them.
        """

    def turn(self) -> None:
        """Do what is due; after each batch, and several times a second without records."""

    def caught_up(self) -> None:
        """Take note that all is read that was there when reading began; each time it begins.

        Only of a stream with ``last_value``.
        """

    def sought(self) -> None:
        """Take note that a ``seek`` takes effect: further records are from there on."""

    def made_anew(self, topic: str, partition: int) -> None:
        """Take note that a topic was created again; the partition is read from its start."""

    def missed(self, topic: str, partition: int) -> None:
        """Take note that a partition lost records before they were read; it goes on behind them."""

    def failed(self, error: BaseException) -> None:
        """Take note that the stream cannot be read; its thread ends."""


class StreamSource(Protocol):
    """Reads the topics of one stream in a thread of its own; any thread.

    It reads committed records only. Partitions and topics that are new since the first look are
    read from their start.

    Attributes:
        key: Returns the raw key of a message; most concern nobody, and nothing else is read of
            those.
        value: Returns the raw value of a message.
    """

    key: Callable[[Any], bytes | None]
    value: Callable[[Any], bytes | None]

    def where(self, message: Any) -> tuple[StreamTopic, int]:
        """Return the partition of a message."""

    def offset(self, message: Any) -> int:
        """Return the offset of a message."""

    def facts_of(self, messages: Sequence[Any]) -> BatchFacts:
        """Return what is known of messages at once."""

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
        """Read, from where reading stopped, or stop reading.

        Returns:
            A ticket, resolved when it is done: after a stop no record is delivered any more.
        """

    def seek(self, start: StreamStart) -> Ticket[None]:
        """Begin again elsewhere.

        Returns:
            A ticket, resolved when all partitions that are read have their new starts.
        """

    def follow(self, listener: OnStreamPositions, on_epoch: OnEpoch) -> None:
        """Tell from where the partitions are read on, and leader epochs, as ``Receiver.follow``.

        Args:
            listener: Called as there; once more when all topics are known, and when reading begins
                or ends: partitions that are not read are told by where they were left.
            on_epoch: As there.
        """

    def leave(self, messages: Sequence[Any]) -> None:
        """Take back the rest of a batch; within ``StreamSink.deliver``.

        Args:
            messages: Those that were not delivered, in order. Their partitions are read from there
                again.
        """

    def wait(self, seconds: float) -> bool:
        """Wait within ``StreamSink.deliver``.

        Returns:
            False, at once, if something else is to be done: ``leave`` the records then.
        """

    def facts(self) -> StreamFacts:
        """Return what is known of the topics; no I/O."""

    def stop(self) -> None:
        """Ask the thread to end, without waiting for it."""

    def join(self, timeout: float) -> None:
        """Wait for the thread to end, at most ``timeout`` seconds."""

    def abandon(self) -> None:
        """Drop the parent's clients without freeing them, in a forked child."""


class Streams(Protocol):
    """Reads topics that are not the layer's own."""

    def open_stream(self, settings: StreamSettings, sink: StreamSink, stats: Stats) -> StreamSource:
        """Return what reads a stream; no I/O. ``close`` and ``abandon`` end it.

        Args:
            settings: Those of the stream.
            sink: Gets its records.
            stats: Counts what happens to the stream.
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
