"""From a record to the transport: its size, and its way into the queue.

Hot path: ``Sender.try_publish`` is called for every message that is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from channels.exceptions import ChannelFull, MessageTooLarge

from ..config.settings import LayerConfig
from ..delivery.tickets import Steps, Ticket
from ..exceptions import LayerClosed
from ..messages import Position
from ..observe.counters import Stats
from ..transport_values import QueueFull
from ..wire.records import ProducerRecord
from ..wire.topics import Topic, WorkTopic
from .overflow import OverflowPolicy, put

if TYPE_CHECKING:
    from ..transport import Backplane

__all__ = ["RECORD_OVERHEAD", "Sender", "size_of"]

RECORD_OVERHEAD = 1024
"""Bytes for the key and for Kafka's overhead of a record and its batch."""

# Bytes that Kafka adds to a header: the lengths of its name and value, as varints.
_HEADER_OVERHEAD = 10


class Sender:
    """Passes the records of one server to its transport; any thread.

    Args:
        config: The layer's settings.
        transport: Takes the records.
        stats: Counts refused and dropped records.

    Attributes:
        channel_limit: The largest message to one channel, in bytes.
    """

    def __init__(self, config: LayerConfig, transport: Backplane, stats: Stats) -> None:
        self._config = config
        self._transport = transport
        self._produce = transport.produce
        self._stats = stats
        self._await_produce = config.await_produce
        # By open topic: the largest value in bytes, and the dict in which keys are noted; None:
        # none.
        self._open: dict[Topic | WorkTopic, tuple[int, dict[str, None] | None]] = {}
        # The topics to which try_publish may write: all of _open, or none.
        self._at_once: Mapping[Topic | WorkTopic, tuple[int, dict[str, None] | None]] = {}
        self.is_open = False
        for topic in Topic:
            self.open_topic(topic)
        self.channel_limit = self.limit_of(Topic.SEND_CONN)

    @property
    def is_open(self) -> bool:
        """Whether it takes records; the server sets it."""
        return self._is_open

    @is_open.setter
    def is_open(self, is_open: bool) -> None:
        self._is_open = is_open
        self._at_once = self._open if is_open and not self._await_produce else {}

    def open_topic(self, topic: Topic | WorkTopic) -> None:
        """Allow records for a topic that the transport has opened."""
        self._open[topic] = self.limit_of(topic), None

    def note_keys(self, topic: Topic, keys: dict[str, None]) -> None:
        """Note the key of every record of a topic from now on.

        Args:
            topic: A topic whose records all have keys.
            keys: Gets each key before its record goes to the transport.
        """
        self._open[topic] = self.limit_of(topic), keys

    def writes_to(self, topic: Topic | WorkTopic) -> bool:
        """Tell whether it takes records for a topic."""
        return self._is_open and topic in self._open

    def require_size(
        self, topic: Topic | WorkTopic, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        """Check the size of a record.

        Args:
            topic: Its topic.
            value: Its value.
            headers: Its headers, which count as well.

        Raises:
            MessageTooLarge: If the record is larger than the topic allows.
        """
        limit = self.limit_of(topic)
        size = size_of(value, headers)
        if size > limit:
            raise MessageTooLarge(
                f"A message of {size} bytes is larger than {topic.value} allows ({limit} bytes); "
                f"raise its max.message.bytes, or send a reference.{_of_which(headers)}"
            )

    def try_publish(self, record: ProducerRecord) -> bool:
        """Queue a record, if that needs no wait and no position.

        Returns:
            False, without any effect, if the server does not write to the topic (yet, or any more),
            if the queue is full, or with ``await_produce``.

        Raises:
            MessageTooLarge: If the record is larger than its topic allows.
            ProduceFailed: If the record cannot be written at all.
        """
        # publish(), inlined: a further call costs a cold send 2 us.
        topic, key, value, _, headers = record
        try:
            limit, keys = self._at_once[topic]
        except KeyError:
            return False
        size = len(value)
        if headers:
            for name, each in headers:
                size += len(name) + len(each) + _HEADER_OVERHEAD
        if size > limit:
            self.require_size(topic, value, headers)
        if keys is not None and key is not None:
            keys[key] = None
        try:
            self._produce(record)
        except (QueueFull, LayerClosed):
            return False
        return True

    def publish(
        self,
        record: ProducerRecord,
        ticket: Ticket[Position] | None = None,
        waited: bool = False,
    ) -> None:
        """Queue a record; never blocks.

        Args:
            record: The record, of an open topic.
            ticket: Gets the record's position, or the error.
            waited: Whether the caller has waited for room.

        Raises:
            MessageTooLarge: If the record is larger than its topic allows.
            QueueFull: If the transport's queue is full.
            ProduceFailed: If the record cannot be written at all.
            LayerClosed: If the server closes meanwhile.
        """
        topic, key, value, _, headers = record
        limit, keys = self._open[topic]
        if (size_of(value, headers) if headers else len(value)) > limit:
            self.require_size(topic, value, headers)
        if keys is not None and key is not None:
            keys[key] = None
        self._produce(record, ticket, waited)

    def request(self, record: ProducerRecord) -> Ticket[Position]:
        """Queue a record that is no message; never blocks. ``overflow`` does not apply.

        Raises:
            ChannelFull: If the transport's queue is full.
            ProduceFailed, LayerClosed: As for ``publish``.
        """
        ticket: Ticket[Position] = Ticket()
        try:
            self.publish(record, ticket)
        except QueueFull:
            raise ChannelFull("the producer's queue is full") from None
        return ticket

    def send(self, record: ProducerRecord) -> Steps[Ticket[Position] | None]:
        """Queue a record; while the queue is full, do what ``overflow`` says.

        Returns:
            The ticket of its position with ``await_produce``; None without, and if the record was
            discarded.

        Raises:
            ChannelFull: If the queue is full, at once or for ``expiry`` seconds.
            MessageTooLarge, ProduceFailed, LayerClosed: As for ``publish``.
        """
        ticket: Ticket[Position] | None = Ticket() if self._await_produce else None
        topic, key, _, _, _ = record
        queued = yield from put(
            partial(self.publish, record, ticket),
            self._transport.when_room,
            partial(OverflowPolicy, self._config, self._stats, topic, key),
        )
        return ticket if queued else None

    def limit_of(self, topic: Topic | WorkTopic) -> int:
        """Return the largest value that a topic allows, in bytes."""
        opened = self._open.get(topic)
        if opened is not None:
            return opened[0]
        return self._config.max_message_bytes(topic) - RECORD_OVERHEAD


def size_of(value: bytes, headers: Sequence[tuple[str, bytes]]) -> int:
    """Return the size of a record's value and headers, in bytes."""
    size = len(value)
    for name, each in headers:
        size += len(name) + len(each) + _HEADER_OVERHEAD
    return size


def _of_which(headers: Sequence[tuple[str, bytes]]) -> str:
    if not headers:
        return ""
    size, names = size_of(b"", headers), " and ".join(f"'{name}'" for name, _ in headers)
    return f" {size} of these bytes are in {names}."
