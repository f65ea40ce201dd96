"""A client in the group of a worker channel, and a look at the group."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from ...config.librdkafka import Properties
from ...config.settings import LayerConfig
from ...config.threads import wait_for_futures
from ...observe.counters import Stats
from ..clients import ends_of, new_client
from ..errors import kafka_error
from ..log import client_logger
from ..properties import rights_properties, work_properties

if TYPE_CHECKING:
    from ...config.streams import StreamSettings

__all__ = ["GroupClient", "GroupSource", "describe_group"]

# Errors that a retry does not end.
_REFUSALS = frozenset(
    {
        KafkaError._FATAL,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)


class GroupSource(NamedTuple):
    """The topic that the consumer group of a worker channel reads.

    Attributes:
        topic: Kafka's name of the topic.
        group: The name of the consumer group.
        stream: The settings of the stream that has the topic; None for a topic of the layer.
        made_anew: Whether the topic was deleted and created again since the group began.
    """

    topic: str
    group: str
    stream: StreamSettings | None = None
    made_anew: bool = False


class GroupClient:
    """A client of the group, and its first refusal.

    Args:
        config: The settings with which the client is made.
        source: The group and its topic.
        stats: Counts errors.

    Attributes:
        ends: By partition of a stream's topic: the offset at which the client last found nothing
            more to read. Records of aborted transactions and markers may lie before it.
        consumer: confluent_kafka's consumer. One thread makes every call on it, because calls of
            several threads starve each other.
        refusal: The first error that a retry does not end; None without one.
    """

    def __init__(self, config: LayerConfig, source: GroupSource, stats: Stats) -> None:
        self.refusal: KafkaError | None = None
        self.ends: dict[int, int] = {}
        self._config = config
        self._topic = source.topic
        self._group = source.group
        self._stats = stats
        of_stream = source.stream is not None
        properties = Properties(
            {
                **work_properties(config, source.group, of_stream=of_stream),
                "error_cb": self.on_error,
                "logger": client_logger,
            }
        )
        self.consumer: Consumer = new_client(Consumer, properties, "consumer_config")

    def is_answered(self) -> bool:
        """Tell whether a broker answers within ``worker_answer`` seconds; blocks."""
        try:
            self.consumer.list_topics(self._topic, self._config.timings.worker_answer)
        except KafkaException:
            return False
        return True

    def is_left_out(self) -> bool:
        """Tell whether the group has assigned none of the topic's partitions to any member.

        With several brokers of Kafka 4.0 and older, a broker that does not know a new topic yet may
        tell the group's leader that it has no partitions. The group is then stable, without an
        error. Or it has no member at all, as with a broker that does not know the protocol.
        """
        timeout = self._config.timings.worker_answer
        try:
            partitions = self.consumer.list_topics(self._topic, timeout).topics[self._topic]
            if not partitions.partitions:
                return False
            group = describe_group(self._config, self._group, timeout)
        except KafkaException:
            return False
        if group is None or not group.members:
            return True
        return group.state is ConsumerGroupState.STABLE and not any(
            member.assignment.topic_partitions for member in group.members
        )

    def behind(self, partitions: Collection[int]) -> dict[tuple[str, int], int] | None:
        """Return the partitions in which the log holds more than was read, and so committed.

        Args:
            partitions: The partitions to ask for.

        Returns:
            Their committed positions; None if the broker did not answer.
        """
        timeout = self._config.timings.worker_answer
        asked = [(self._topic, partition) for partition in partitions]
        behind: dict[tuple[str, int], int] = {}
        try:
            ends = ends_of(self.consumer, asked, timeout)
            for each in self.consumer.committed([TopicPartition(*it) for it in asked], timeout):
                where = each.topic, each.partition
                if max(each.offset, self.ends.get(each.partition, 0)) < ends.get(where, 0):
                    # Retention may have deleted the unread records.
                    low, end = self.consumer.get_watermark_offsets(each, timeout, cached=False)
                    if max(low, each.offset) < end:
                        behind[where] = each.offset
        except KafkaException:
            return None
        return behind

    def backlog(self, partitions: Collection[int]) -> int | None:
        """Return how many records of partitions are not committed; blocks.

        Args:
            partitions: The partitions to ask for.

        Returns:
            Their number; None if the broker did not answer.
        """
        timeout = self._config.timings.worker_answer
        asked = [(self._topic, partition) for partition in partitions]
        try:
            ends = ends_of(self.consumer, asked, timeout)
            committed = self.consumer.committed([TopicPartition(*it) for it in asked], timeout)
        except KafkaException:
            return None
        waiting = 0
        for each in committed:
            # From the client's cache. Records that the broker deleted by age do not wait.
            low, _ = self.consumer.get_watermark_offsets(each, cached=True) or (0, 0)
            begun = max(each.offset, self.ends.get(each.partition, 0), low, 0)
            waiting += max(0, ends.get((each.topic, each.partition), 0) - begun)
        return waiting

    def close(self) -> None:
        """Close the client; the thread that owns it."""
        self.consumer.close()

    def on_error(self, error: KafkaError) -> None:
        """Note an error; called within the client's calls."""
        self._stats.count(f"errors.{error.name()}")
        if error.fatal() or error.code() in _REFUSALS:
            # The first error names the cause.
            self.refusal = self.refusal or error


def describe_group(config: LayerConfig, group: str, timeout: float) -> Any:
    """Ask a consumer group's coordinator to describe the group; blocks.

    Args:
        config: The layer's settings.
        group: The group's name.
        timeout: Seconds that the coordinator has to answer.

    Returns:
        confluent_kafka's ``ConsumerGroupDescription``; None if there is no such group.

    Raises:
        KafkaException: If the coordinator does not answer, or refuses.
    """
    rights = rights_properties(config, "consumer_config")
    properties = Properties({**rights, "logger": client_logger})
    # A new client each time: librdkafka aborts the process if the connection breaks of one that
    # knows the group's coordinator already (https://github.com/confluentinc/librdkafka/pull/5397).
    # Closed here: a forked child that frees one left to the garbage collector hangs.
    with new_client(AdminClient, properties, "consumer_config") as client:
        answer: Any = client.describe_consumer_groups([group], request_timeout=timeout)[group]
        try:
            if not wait_for_futures([answer], timeout):
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            return answer.result()
        except KafkaException as exception:
            if kafka_error(exception).code() == KafkaError.GROUP_ID_NOT_FOUND:
                return None
            raise
