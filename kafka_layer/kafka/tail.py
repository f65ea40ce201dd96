"""Reads topics for the console: all records that arrive, not decoded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from ..config.librdkafka import Properties
from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..config.streams import Start
from ..config.threads import new_thread
from .clients import abandon, new_client
from .errors import is_refusal, kafka_error, topic_error
from .log import client_logger
from .properties import consumer_properties
from .starts import start_offsets

__all__ = ["Tail", "TailedRecord"]

# Seconds within which an interrupt gets through.
_POLL = 0.2
_MOST = 500
# Seconds for the client's close.
_CLOSE_PATIENCE = 2.0

_REFUSALS = frozenset(
    {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED}
)


class TailedRecord(NamedTuple):
    """A record as it lies in its topic.

    Attributes:
        topic: Kafka's name of the topic.
        partition: Number of the partition.
        offset: The record's offset in it.
        timestamp: The record's time, in seconds since the epoch.
        key: The raw key, or None.
        value: The raw value, or None.
        headers: Kafka's headers, in their order.
    """

    topic: str
    partition: int
    offset: int
    timestamp: float
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Tail:
    """Reads topics from a place on, without a consumer group; one thread, as a context manager.

    Topics and partitions that are added later are read from their start.

    Args:
        config: The settings with which its client is made.
        topic: Kafka's name of the topic, or a function that tells whether a topic is read.
        start: Where to begin, or an offset.
        partition: The only partition to read; None: all.
        timeout: Seconds that brokers have to answer a request.

    Attributes:
        trouble: What keeps it from reading at the moment; empty if nothing is known.

    Raises:
        ImproperlyConfigured: If librdkafka refuses a property.
    """

    def __init__(
        self,
        config: LayerConfig,
        topic: str | Callable[[str], bool],
        start: Start | int,
        partition: int | None = None,
        timeout: float = 5.0,
    ) -> None:
        self.trouble = ""
        self._servers = config.bootstrap_servers
        self._topic = topic
        self._start = start
        self._partition = partition
        self._timeout = timeout
        self._interval = config.timings.topics
        self._next_look = 0.0
        # The partitions of the first look, which begin at the start; None before.
        self._first: set[tuple[str, int]] | None = None
        self._assigned: set[tuple[str, int]] = set()
        properties = Properties(
            {
                **consumer_properties(config),
                # Continue after records that the broker deleted by age meanwhile.
                "auto.offset.reset": "earliest",
                "error_cb": self._on_error,
                "logger": client_logger,
            }
        )
        self._client: Consumer = new_client(Consumer, properties, "consumer_config")

    def __enter__(self) -> Tail:  # noqa: PYI034 (Self needs Python 3.11)
        return self

    def __exit__(self, *exception: object) -> None:
        # In a thread of its own, because close() may block for long, or for ever.
        closing = new_thread(target=self._client.close, name="kafka-layer-closing")
        closing.start()
        closing.join(_CLOSE_PATIENCE)
        if closing.is_alive():
            abandon(self._client)

    @property
    def partitions(self) -> Collection[tuple[str, int]]:
        """The partitions that are read, each as Kafka's name of the topic and the number."""
        return self._assigned

    def look(self) -> None:
        """Find the topics and partitions, and begin to read them; blocks.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If a broker refuses.
        """
        self._next_look = monotonic() + self._interval
        try:
            found = self._partitions()
            if self._first is None:
                self._first = found
            new = found - self._assigned
            if new:
                places = self._places(new & self._first, self._start)
                places.update(self._places(new - self._first, "earliest"))
                self._client.incremental_assign(
                    [TopicPartition(*where, offset) for where, offset in places.items()]
                )
                self._assigned |= places.keys()
        except KafkaException as exception:
            raise topic_error("look at the topics", kafka_error(exception), self._servers) from None

    def read(self) -> list[TailedRecord]:
        """Return the next records; waits briefly if there is none.

        Raises:
            BrokerUnavailable, TopicError: As ``look``; if a broker does not let this client read.
        """
        if monotonic() >= self._next_look:
            self.look()
        message = self._client.poll(_POLL)
        if message is None:
            return []
        messages = [message, *self._client.consume(_MOST, 0)]
        return [record for each in messages if (record := self._record(each)) is not None]

    def _partitions(self) -> set[tuple[str, int]]:
        wanted = self._topic
        if isinstance(wanted, str):
            topics = self._client.list_topics(wanted, self._timeout).topics
        else:
            listed = self._client.list_topics(timeout=self._timeout).topics
            topics = {name: topic for name, topic in listed.items() if wanted(name)}
        return {
            (name, number)
            for name, topic in topics.items()
            if topic.error is None
            for number in topic.partitions
            if self._partition is None or number == self._partition
        }

    def _places(
        self, partitions: Collection[tuple[str, int]], start: Start | int
    ) -> dict[tuple[str, int], int]:
        if not isinstance(start, int):
            return start_offsets(self._client, partitions, start, self._timeout)
        places = {}
        for where in partitions:
            asked = TopicPartition(*where)
            first, end = self._client.get_watermark_offsets(asked, self._timeout, cached=False)
            places[where] = min(max(first, start), end)
        return places

    def _record(self, message: Message) -> TailedRecord | None:
        error = message.error()
        if error is not None:
            self._on_error(error)
            if error.code() in _REFUSALS or is_refusal(error):
                raise topic_error(f"read {message.topic()}", error, self._servers)
            return None
        self.trouble = ""
        return TailedRecord(
            message.topic() or "",
            message.partition() or 0,
            message.offset() or 0,
            message.timestamp()[1] / 1000,
            message.key(),
            message.value(),
            _headers(message),
        )

    def _on_error(self, error: KafkaError) -> None:
        self.trouble = error.str()


def _headers(message: Message) -> Sequence[tuple[str, bytes | None]]:
    try:
        headers: Any = message.headers()
    except Exception:
        # Their names are no UTF-8.
        return ()
    return headers or ()
