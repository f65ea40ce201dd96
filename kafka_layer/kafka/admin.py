"""Topics: what a layer needs, what there is, how they differ, and making one the other.

Serves ``kafka_setup_topics`` and the start of a layer alike.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    ClusterMetadata,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)
from django.core.exceptions import ImproperlyConfigured

from ..addressing import Topic, topic_name
from ..conf import LayerConfig
from ..exceptions import TopicError
from .errors import client_logger, kafka_error, topic_error, unavailable
from .properties import admin_properties

__all__ = [
    "Difference",
    "TopicAdmin",
    "TopicSpec",
    "TopicState",
    "differences",
    "partition_counts",
    "topic_specs",
]

_RETRY = 0.02


@dataclass(frozen=True)
class TopicSpec:
    """A topic as the settings want it.

    Attributes:
        name: Kafka's name of the topic.
        partitions: Number of partitions.
        replication_factor: Copies of each partition; -1 means the broker's default.
        config: Topic configs, names to values.
    """

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TopicState:
    """A topic as the broker has it.

    Attributes:
        name: Kafka's name of the topic.
        partitions: Number of partitions.
        replication_factor: Copies of each partition.
        config: Topic configs, names to values; None where the broker does not tell.
    """

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Difference:
    """One point in which a topic is not as the settings want it.

    Attributes:
        what: ``partitions``, ``replication_factor`` or the name of a topic config.
        wanted: As the settings want it.
        found: As the broker has it.
    """

    what: str
    wanted: str
    found: str

    def __str__(self) -> str:
        return f"{self.what} is {self.found}, wanted {self.wanted}"


class _MetadataClient(Protocol):
    def list_topics(self, topic: str, timeout: float) -> ClusterMetadata: ...


def topic_specs(config: LayerConfig) -> list[TopicSpec]:
    """Return the topics that a layer with these settings needs."""
    return [
        TopicSpec(
            topic_name(config.prefix, topic),
            wanted.partitions,
            wanted.replication_factor,
            wanted.config,
        )
        for topic, wanted in config.topics.items()
    ]


def differences(spec: TopicSpec, state: TopicState) -> list[Difference]:
    """Return in what a topic is not as wanted; more partitions than wanted are no difference."""
    found = []
    if state.partitions < spec.partitions:
        found.append(Difference("partitions", str(spec.partitions), str(state.partitions)))
    if spec.replication_factor not in (-1, state.replication_factor):
        found.append(
            Difference(
                "replication_factor", str(spec.replication_factor), str(state.replication_factor)
            )
        )
    for name, wanted in spec.config.items():
        has = None if state.config is None else state.config.get(name)
        if has is not None and has != wanted:
            found.append(Difference(name, wanted, has))
    return found


def partition_counts(
    client: _MetadataClient, names: Iterable[str], servers: str, timeout: float
) -> dict[str, int]:
    """Ask for the number of partitions of each topic.

    Args:
        client: Any client.
        names: Kafka's names of the topics.
        servers: The bootstrap servers, for the error.
        timeout: Seconds that this may block.

    Returns:
        The topics that exist and that this client may see, each partition with a leader.

    Raises:
        BrokerUnavailable: If no broker answers in time.
    """
    deadline = time.monotonic() + timeout
    counts = {}
    for name in names:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise unavailable(servers, f"the partitions of {name} could not be read")
            try:
                topic = client.list_topics(name, timeout=left).topics[name]
            except KafkaException as exception:
                raise topic_error(f"look at {name}", kafka_error(exception), servers) from None
            if topic.error is not None and topic.error.code() in _MISSING:
                break
            if topic.error is None and all(each.leader >= 0 for each in topic.partitions.values()):
                counts[name] = len(topic.partitions)
                break
            # Just created: its leaders are being elected.
            time.sleep(_RETRY)
    return counts


_MISSING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)


class TopicAdmin:
    """A short-lived admin client.

    Args:
        config: The layer's settings.
        timeout: Seconds that each call may block.

    Raises:
        ImproperlyConfigured: If librdkafka refuses a property.
    """

    def __init__(self, config: LayerConfig, timeout: float) -> None:
        self._servers = config.bootstrap_servers
        self._timeout = timeout
        try:
            self._client = AdminClient({**admin_properties(config), "logger": client_logger})
        except KafkaException as exception:
            raise ImproperlyConfigured(
                f"The Kafka admin client refuses its configuration: "
                f"{kafka_error(exception).str()}. Correct client_config or admin_config."
            ) from None

    def inspect(self, names: Sequence[str]) -> dict[str, TopicState]:
        """Look up topics.

        Args:
            names: Kafka's names of the topics.

        Returns:
            Those that exist.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the broker refuses to tell.
        """
        found = {}
        answers = self._call(
            "look at topics",
            lambda: self._client.describe_topics(
                TopicCollection(list(names)), request_timeout=self._timeout
            ),
        )
        for name, future in answers.items():
            description = self._result(f"look at {name}", future, missing=None)
            if description is not None:
                partitions = description.partitions
                found[name] = (len(partitions), len(partitions[0].replicas))
        configs = self._configs(list(found))
        return {name: TopicState(name, *found[name], configs.get(name)) for name in found}

    def create(self, specs: Sequence[TopicSpec], *, dry_run: bool = False) -> None:
        """Create topics; one that exists by now is left as it is.

        Args:
            specs: What to create.
            dry_run: Whether the broker only checks whether it could.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the broker refuses.
        """
        topics = [
            NewTopic(
                spec.name,
                num_partitions=spec.partitions,
                replication_factor=spec.replication_factor,
                config=dict(spec.config),
            )
            for spec in specs
        ]
        answers = self._call(
            "create topics",
            lambda: self._client.create_topics(
                topics,
                operation_timeout=self._timeout,
                request_timeout=self._timeout,
                validate_only=dry_run,
            ),
        )
        for name, future in answers.items():
            self._result(f"create {name}", future, missing=None, exists=True)

    def add_partitions(self, counts: Mapping[str, int], *, dry_run: bool = False) -> None:
        """Raise the number of partitions of topics.

        Args:
            counts: The new numbers by Kafka's names of the topics.
            dry_run: Whether the broker only checks whether it could.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the broker refuses.
        """
        answers = self._call(
            "add partitions",
            lambda: self._client.create_partitions(
                [NewPartitions(name, count) for name, count in counts.items()],
                operation_timeout=self._timeout,
                request_timeout=self._timeout,
                validate_only=dry_run,
            ),
        )
        for name, future in answers.items():
            self._result(f"add partitions to {name}", future)

    def _configs(self, names: Sequence[str]) -> dict[str, Mapping[str, str]]:
        if not names:
            return {}
        answers = self._client.describe_configs(
            [ConfigResource(ResourceType.TOPIC, name) for name in names],
            request_timeout=self._timeout,
        )
        configs = {}
        for resource, future in answers.items():
            try:
                entries = future.result(self._timeout)
            except KafkaException:
                # No right to see them, or the embedded broker: they stay unknown.
                continue
            configs[resource.name] = {
                name: entry.value for name, entry in entries.items() if entry.value is not None
            }
        return configs

    def _call(self, what: str, request: Any) -> Mapping[str, Future[Any]]:
        try:
            answers: Mapping[str, Future[Any]] = request()
        except KafkaException as exception:
            raise topic_error(what, kafka_error(exception), self._servers) from None
        return answers

    def _result(self, what: str, future: Future[Any], **accepted: Any) -> Any:
        try:
            return future.result(self._timeout + 1)
        except KafkaException as exception:
            error = kafka_error(exception)
            if "exists" in accepted and error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return None
            if "missing" in accepted and error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return None
            raise topic_error(what, error, self._servers) from None
        except TimeoutError:
            raise TopicError(f"Cannot {what}: no answer in {self._timeout} s.") from None
