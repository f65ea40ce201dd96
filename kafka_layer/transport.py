"""What a server needs of the thing that carries its records, and nothing else: small protocols.

``kafka_layer.kafka.backplane.KafkaBackplane`` is the real one;
``kafka_layer.testing.InMemoryBackplane`` carries records inside one process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from .delivery.tickets import Ticket
from .messages import Position
from .wire.records import Place, ProducerRecord, Record
from .wire.topics import Topic, WorkTopic

__all__ = [
    "Backplane",
    "CarriedJob",
    "Health",
    "JobSink",
    "QueueFull",
    "Receiver",
    "RecordSink",
    "Sender",
    "Topics",
    "WorkQueue",
]


class Health(NamedTuple):
    """How a backplane is.

    Attributes:
        connected: Whether a broker can be reached, as far as is known.
        doubtful: Whether that is to be asked now: a client found no broker, and none was answered
            since.
        queued: Records that wait for an acknowledgement.
        lag: Records that were written and not read yet, some seconds ago.
    """

    connected: bool
    queued: int
    lag: int
    doubtful: bool = False


class RecordSink(Protocol):
    """Takes the records that a reading thread reads."""

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
        """What ``JobSink.accept`` was given: the time in which the backplane had the partition."""


J = TypeVar("J", bound=CarriedJob)


class JobSink(Protocol[J]):
    """The receives of one worker channel, to which a backplane hands jobs.

    A job that was assigned belongs to this process and to nobody else, until it is returned.
    The properties may be read by any thread.

    Attributes:
        topic: The channel's topic.
        changed: Set when ``demand`` may have risen; the thread that serves the sink clears it.
        on_demand: Called when ``demand`` may have risen, in an event loop; must not block. None: no
            call. For a backplane that serves the sink in no thread at the moment.
    """

    topic: WorkTopic
    changed: threading.Event
    on_demand: Callable[[], None] | None

    @property
    def demand(self) -> int:
        """How many jobs may be assigned at this moment: none unless a receive waits."""

    @property
    def unclaimed(self) -> int:
        """How many jobs were assigned that no receive has taken yet."""

    @property
    def last_seen(self) -> float:
        """When a receive last began to wait or took a job, on ``time.monotonic()``."""

    def accept(self, value: bytes | None, place: Place, assignment: object) -> J | None:
        """Make a job of a record; the thread that serves the sink.

        Args:
            value: The record's value.
            place: Where it stands.
            assignment: The mark that the job is to carry.

        Returns:
            The job, or None if it expired, was flushed or cannot be read; that is counted.
        """

    def assign(self, jobs: Sequence[J]) -> None:
        """Give jobs to the receives that wait; the thread that serves the sink."""

    def return_unclaimed(self, which: Callable[[J], bool]) -> list[J]:
        """Take jobs back that were assigned and that no receive has taken yet.

        Args:
            which: Tells which ones; the others stay.

        Returns:
            These jobs, in the order in which they were assigned.
        """


class QueueFull(Exception):
    """The backplane's queue of records to be written is full."""


class Sender(Protocol):
    """Writes records; any thread."""

    def open_sender(self, timeout: float) -> None:
        """Get ready to write; blocks for at most ``timeout`` seconds.

        Returns normally, too, when no broker answers: records then wait in the queue.

        Raises:
            TopicError: If the topics are missing and cannot be created.
            ImproperlyConfigured: If the client refuses its configuration.
        """

    def open_work_topic(self, topic: WorkTopic, timeout: float) -> None:
        """Get ready to write to a worker channel; blocks for at most ``timeout`` seconds.

        Returns normally, too, when no broker answers. The sender must be open.

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
            ticket: Gets the record's position, or the error; decided in a thread of the backplane
                or in the one that calls. Failures are counted without a ticket as well. It is left
                open if this call raises.
            waited: Whether the sender's ticket of ``when_room`` was resolved. Senders that did not
                wait are refused while others wait.

        Raises:
            QueueFull: If the queue is full, or others wait for room in it.
            ProduceFailed: If the record cannot be written at all.
            LayerClosed: If the backplane is closed; it took nothing of the record.
        """

    def when_room(self, waited: bool = False) -> Ticket[None]:
        """Wait for room in the queue, in the order of these calls; any thread, never blocks.

        Args:
            waited: Whether the sender waited before and found the queue full again: it is served
                before the others.

        Returns:
            A ticket: resolved once ``produce(..., waited=True)`` is worth a try, failed with
            ``LayerClosed`` if the backplane is closed.
        """

    def partitions(self, topic: Topic) -> int:
        """Return how many partitions a topic has, as far as is known; no I/O."""

    def settle(self, timeout: float) -> bool:
        """Wait until everything that was handed over is written or failed.

        Args:
            timeout: Seconds that this may block.

        Returns:
            Whether that is so.
        """


class Receiver(Protocol):
    """Reads what is addressed to a server."""

    def open_receiver(self, data: RecordSink, control: RecordSink, timeout: float) -> int:
        """Start to read, in two threads; blocks for at most ``timeout`` seconds.

        Once it has returned, every record that is written from then on reaches a sink. Commands
        and their answers are read apart, so that they do not wait while ``data`` blocks.

        Args:
            data: Gets the records with messages, and the commands among them that are for all.
            control: Gets the records of ``CONTROL_TOPICS``.
            timeout: Seconds.

        Returns:
            The partition of the inbox topics that this server reads.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the topics are missing and cannot be created.
        """


class WorkQueue(Protocol):
    """Shares the messages of worker channels among those who receive from them."""

    def open_work_channel(self, channel: JobSink[Any], timeout: float) -> None:
        """Start to serve the receives of a worker channel, which share its messages with others.

        Blocks for at most ``timeout`` seconds; once it returned, receives are served as soon as
        this process has its share. The sender must be open.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the topic is missing and cannot be created, or may not be read.
        """

    def clear_work(self, timeout: float) -> None:
        """Drop all messages that wait in the worker channels of the prefix.

        Args:
            timeout: Seconds that this may block.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the broker refuses.
        """


class Topics(Protocol):
    """Notices what nobody announces: new partitions, topics made anew, clients that are silent."""

    def refresh(self) -> None:
        """Look at the topics that records are written to; blocks briefly.

        Raises:
            BrokerUnavailable: If no broker answers.
        """

    def check(self) -> None:
        """Look after everything that reads; blocks briefly. To be called every second or so."""


class Backplane(Sender, Receiver, WorkQueue, Topics, Protocol):
    """All of it: carries the records of one server, and lives once."""

    def health(self) -> Health:
        """Tell how the backplane is; no I/O."""

    def close(self, timeout: float) -> None:
        """Write what is queued, stop reading and free everything, within ``timeout`` seconds."""

    def abandon(self) -> None:
        """Let go of everything without touching it, in a forked child."""
