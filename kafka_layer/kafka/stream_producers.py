"""The producers of streams: the layer's own, and one more for each other cluster."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from functools import partial

from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..config.threads import Lock
from ..delivery.tickets import Ticket, in_thread
from ..exceptions import BrokerUnavailable, KafkaLayerError, LayerClosed
from ..observe.counters import Stats
from ..wire.topics import StreamTopic
from .admin import TopicAdmin
from .clients import partition_counts
from .connection import Connection
from .errors import no_topic
from .liveness import ANSWERED, UNANSWERED
from .producer import RecordProducer

__all__ = ["StreamProducers"]

logger = logging.getLogger("kafka_layer")

_LEAST_TIMEOUT = 0.1
# Seconds after its time-out that a close may take for reporting the records that were not written.
_REPORTS = 0.6


class StreamProducers:
    """Finds the producer for the topic of a stream; any thread.

    A stream on the layer's own brokers, with the layer's own credentials, shares the layer's
    producer. For other brokers or credentials there is one producer for all streams that share
    them, from the first record until ``close``.

    Args:
        config: The layer's settings.
        own: The layer's own producer.
        connection: The state of its connection.
        stats: Counts sent and failed records.
    """

    def __init__(
        self, config: LayerConfig, own: RecordProducer, connection: Connection, stats: Stats
    ) -> None:
        self._config = config
        self._own = own
        self._connection = connection
        self._stats = stats
        self._others: list[_Other] = []
        self._closed = False
        # Guards the two fields above. A forked child never takes it: its layers start again.
        self._lock = Lock()

    @property
    def queued(self) -> int:
        """Records for other clusters that wait for a broker's acknowledgement."""
        return sum(other.producer.queued for other in tuple(self._others))

    def open(self, topic: StreamTopic, timeout: float) -> RecordProducer:
        """Return the producer for the topic of a stream; makes it if need be.

        Without a broker it returns as well, and records wait in the queue of the producer.

        Args:
            topic: The topic.
            timeout: Seconds that this may block.

        Raises:
            TopicError: If the topic does not exist. The layer creates no topic of a stream.
            ImproperlyConfigured: If librdkafka refuses a property.
            LayerClosed: After ``close``.
        """
        config = self._config.for_stream(self._config.streams[topic.stream])
        if config is self._config:
            producer, connection = self._own, self._connection
        else:
            other = self._other(config)
            producer, connection = other.producer, other.connection
            other.topics[topic] = None
        try:
            counts = partition_counts(producer.client, [topic.name], connection, timeout)
        except BrokerUnavailable as error:
            logger.warning("%s Records of stream %r wait until then.", error, topic.stream)
        else:
            if topic.name not in counts:
                raise no_topic(topic, config.bootstrap_servers)
        producer.open_stream(topic)
        return producer

    def refresh(self) -> None:
        """Check the producers of other clusters, and replace those that stopped working.

        To be called by one thread.

        It waits for no cluster. librdkafka itself learns of new partitions, within
        ``topic.metadata.refresh.interval.ms``.
        """
        for other in tuple(self._others):
            if other.judged.done:
                other.judged = in_thread("kafka-layer-judge-producer", other.judge)

    def close(self, timeout: float) -> None:
        """Write queued records, report the others as failed, and close the clients.

        That includes the layer's own producer. All clusters are flushed at the same time, so that
        one without a broker does not use up the time of another.

        Args:
            timeout: Seconds for writing.
        """
        with self._lock:
            self._closed = True
            others = tuple(self._others)
        deadline = monotonic() + timeout
        closes = [partial(other.producer.close, timeout) for other in others]
        tickets = [in_thread("kafka-layer-close-producer", close) for close in closes]
        self._own.close(timeout)
        for other, ticket in zip(others, tickets, strict=True):
            left = max(_LEAST_TIMEOUT, deadline - monotonic())
            if isinstance(ticket.error, RuntimeError):
                # The process ends and starts no threads any more.
                other.producer.close(left)
            else:
                with contextlib.suppress(TimeoutError):
                    ticket.result(left + _REPORTS)

    def _other(self, config: LayerConfig) -> _Other:
        with self._lock:
            if self._closed:
                raise LayerClosed("The channel layer is closed.")
            for other in self._others:
                if other.serves(config):
                    return other
            other = _Other(config, self._stats)
            other.producer.start()
            self._others.append(other)
            return other


class _Other:
    """The producer of one other cluster.

    Attributes:
        producer: The producer.
        connection: The state of its connection.
        topics: The topics that it writes to.
        judged: Resolved unless a thread is judging the producer.
    """

    def __init__(self, config: LayerConfig, stats: Stats) -> None:
        self._config = config
        self.connection = Connection(
            config.bootstrap_servers, stats, config.timings, announces=False
        )
        self.producer = RecordProducer(config, {}, stats, self.connection, lambda: None)
        self.topics: dict[StreamTopic, None] = {}
        self.judged: Ticket[None] = Ticket.resolved(None)

    def serves(self, config: LayerConfig) -> bool:
        """Tell whether its clients have these brokers and properties."""
        return _clients_of(self._config) == _clients_of(config)

    def judge(self) -> None:
        """Ask the cluster for the topics; replace the client if only other clients get answers.

        One thread at a time; blocks for up to three requests.
        """
        timeout = self._config.timings.request
        names = [topic.name for topic in tuple(self.topics)]
        evidence = ANSWERED
        try:
            partition_counts(self.producer.client, names, self.connection, timeout)
        except BrokerUnavailable:
            self.connection.on_silence()
            evidence = UNANSWERED
        except KafkaLayerError:
            # A refusal is an answer, too.
            pass
        else:
            self.connection.on_answer()
        self.producer.judge(evidence, lambda: self._is_answered_elsewhere(names))

    def _is_answered_elsewhere(self, names: list[str]) -> bool:
        try:
            with TopicAdmin(self._config, self._config.timings.request) as admin:
                admin.inspect(names)
        except BrokerUnavailable:
            return False
        except KafkaLayerError:
            pass
        return True


def _clients_of(config: LayerConfig) -> tuple[str, Mapping[str, object], Mapping[str, object]]:
    return config.bootstrap_servers, config.client_config, config.producer_config
