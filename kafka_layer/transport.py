"""What a server needs of the thing that carries its records, and nothing else.

``kafka_layer.kafka.backplane.KafkaBackplane`` is the real one;
``kafka_layer.testing.InMemoryBackplane`` carries records inside one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from .jobs.channel import WorkChannel
from .messages import Position
from .wire.records import ProducerRecord, Record
from .wire.topics import WorkTopic

__all__ = [
    "Backplane",
    "Delivered",
    "Health",
    "QueueFull",
    "RecordSink",
]


class Health(NamedTuple):
    """How a backplane is.

    Attributes:
        connected: Whether a broker can be reached, as far as is known.
        queued: Records that wait for an acknowledgement.
        lag: Records that were written and not read yet, some seconds ago.
    """

    connected: bool
    queued: int
    lag: int


Delivered = Callable[[Position | None, Exception | None], None]
"""Called once for a record, from a thread of the backplane or from one that sends: its position, or
what went wrong."""


class RecordSink(Protocol):
    """Where a backplane hands the records that it reads."""

    def deliver(self, records: Iterable[Record]) -> None:
        """Take records in the order of their partitions; one thread alone. May block.

        Each is made when it is asked for: hundreds that live at the same time would have Python's
        garbage collector look at them, again and again.
        """


class QueueFull(Exception):
    """The backplane's queue of records to be written is full."""


class Backplane(Protocol):
    """Carries records between servers. One belongs to one server and lives once."""

    def open_sender(self, timeout: float) -> None:
        """Get ready to write; blocks for at most ``timeout`` seconds.

        Returns normally, too, when no broker answers: records then wait in the queue.

        Raises:
            TopicError: If the topics are missing and cannot be created.
            ImproperlyConfigured: If the client refuses its configuration.
        """

    def open_receiver(self, sink: RecordSink, timeout: float) -> int:
        """Start to read; blocks for at most ``timeout`` seconds.

        Once it has returned, every record that is written from then on reaches ``sink``.

        Returns:
            The partition of the inbox topics that this server reads.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the topics are missing and cannot be created.
        """

    def produce(self, record: ProducerRecord, delivered: Delivered | None = None) -> None:
        """Hand a record over for writing; any thread, never blocks.

        Args:
            record: What to write.
            delivered: Called with the outcome. A failure is reported and counted without it, too.

        Raises:
            QueueFull: If the queue is full.
            ProduceFailed: If the record cannot be written at all.
        """

    def open_work_topic(self, topic: WorkTopic, timeout: float) -> None:
        """Get ready to write to a worker channel; blocks for at most ``timeout`` seconds.

        Returns normally, too, when no broker answers. The sender must be open.

        Raises:
            TopicError: If the topic is missing and cannot be created.
        """

    def open_work_channel(self, channel: WorkChannel, timeout: float) -> None:
        """Start to serve the receives of a worker channel, which share its messages with others.

        Blocks for at most ``timeout`` seconds; once it returned, receives are served as soon as
        this process has its share. The sender must be open.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the topic is missing and cannot be created, or may not be read.
        """

    def settle(self, timeout: float) -> bool:
        """Wait until everything that was handed over is written or failed.

        Args:
            timeout: Seconds that this may block.

        Returns:
            Whether that is so.
        """

    def clear_work(self, timeout: float) -> None:
        """Drop all messages that wait in the worker channels of the prefix.

        Args:
            timeout: Seconds that this may block.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the broker refuses.
        """

    def refresh(self) -> None:
        """Look for changes that nobody announces, such as new partitions; blocks briefly.

        Raises:
            BrokerUnavailable: If no broker answers.
        """

    def check_workers(self) -> None:
        """Replace what reads a worker channel and reaches no broker any more; blocks briefly."""

    def health(self) -> Health:
        """Tell how the backplane is; no I/O."""

    def close(self, timeout: float) -> None:
        """Write what is queued, stop reading and free everything, within ``timeout`` seconds."""

    def abandon(self) -> None:
        """Let go of everything without touching it, in a forked child."""
