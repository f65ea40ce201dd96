"""Records that are ready for librdkafka, and the protocol of what passes them to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from confluent_kafka import KafkaError, Message, Producer

from ..delivery.tickets import Ticket
from ..messages import Position

__all__ = ["TICKET", "VALUE", "NumberedProducer", "Pending", "PendingSink", "UnknownPartition"]

Pending = tuple[
    str,
    "bytes | None",
    "str | bytes | None",
    int,
    Sequence[tuple[str, bytes]],
    "Ticket[Position] | None",
]
"""A record that is ready for librdkafka: Kafka's name of its topic, its value (None: a tombstone),
its key, the number of its partition (-1: librdkafka decides), its headers, and the ticket for its
outcome.

Python makes a plain tuple in a seventh of the time of a named one, and the garbage collector does
not track one of text and numbers only.
"""

VALUE: Final = 1
TICKET: Final = 5


class UnknownPartition(Exception):
    """The client does not know the partition of a record."""


class NumberedProducer(Producer):
    """A librdkafka producer, with what its callbacks need: a sender reads all in one step.

    Attributes:
        generation: Its number. Callbacks carry it, because an old client reports its fatal error
            again when a new one has taken its place.
        report: Its delivery callback. Bound once: one object less per record on its way for the
            garbage collector to track.
    """

    __slots__ = ("generation", "report")

    generation: int
    report: Callable[[KafkaError | None, Message], None]


class PendingSink(Protocol):
    """Passes records to librdkafka, for a ``Batcher``."""

    @property
    def current(self) -> NumberedProducer | None:
        """The client that takes records; its length is the number of records on their way."""

    def enqueue(self, client: NumberedProducer, pending: Pending) -> None:
        """Pass a record to the client.

        Raises:
            QueueFull: If the client takes no more.
            UnknownPartition: If it does not know the record's partition.
        """

    def ask_for_partitions(self, topic: str) -> None:
        """Have the client learn the partitions of a topic; returns at once."""

    def reject(self, pending: Pending, error: KafkaError) -> None:
        """Report a record as failed."""
