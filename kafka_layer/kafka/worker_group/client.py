"""A client in the group of a worker channel, and what the group's coordinator tells of it."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from ...config.librdkafka import Properties
from ...config.settings import LayerConfig
from ...config.threads import wait_for_futures
from ...observe.counters import Stats
from ..clients import new_client
from ..errors import kafka_error
from ..log import client_logger
from ..properties import rights_properties, work_properties

__all__ = ["GroupClient", "describe_group"]

# Errors that no retry of this process mends.
_REFUSALS = frozenset(
    {
        KafkaError._FATAL,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)


class GroupClient:
    """A client of the group, and what it reported.

    Attributes:
        consumer: confluent_kafka's consumer. One thread owns every call on it: calls of several
            threads starve each other.
        refusal: The first error that no retry mends; None if there was none.
    """

    def __init__(self, config: LayerConfig, topic: str, stats: Stats) -> None:
        self.refusal: KafkaError | None = None
        self._topic = topic
        self._stats = stats
        properties = Properties(
            {
                **work_properties(config, topic),
                "error_cb": self.on_error,
                "logger": client_logger,
            }
        )
        self.consumer: Consumer = new_client(Consumer, properties, "consumer_config")

    def is_answered(self, timeout: float) -> bool:
        """Tell whether a broker answers it within ``timeout`` seconds; blocks meanwhile."""
        try:
            self.consumer.list_topics(self._topic, timeout)
        except KafkaException:
            return False
        return True

    def on_error(self, error: KafkaError) -> None:
        """Take note of an error; called within the client's calls."""
        self._stats.count(f"errors.{error.name()}")
        if error.fatal() or error.code() in _REFUSALS:
            # The first one names the cause.
            self.refusal = self.refusal or error


def describe_group(config: LayerConfig, group: str, timeout: float) -> Any:
    """Ask the coordinator of a consumer group for it; blocks.

    Args:
        config: The layer's settings.
        group: The group's name.
        timeout: Seconds that the coordinator has to answer.

    Returns:
        confluent_kafka's ``ConsumerGroupDescription``; None if there is no such group.

    Raises:
        KafkaException: If the coordinator does not answer, or refuses.
    """
    properties = Properties({**rights_properties(config), "logger": client_logger})
    # One that is left to the garbage collector may be freed in a forked child, which then hangs.
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
