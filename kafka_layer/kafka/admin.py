"""Requests about topics and worker groups, for ``manage.py`` commands and missing topics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_END,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from ..config.librdkafka import Properties
from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..config.threads import sleep, wait_for_futures
from ..exceptions import KafkaLayerError, TopicError
from .clients import new_client
from .errors import are_all_fenced, is_refusal, kafka_error, topic_error
from .log import client_logger
from .properties import admin_properties
from .specs import TopicSpec, TopicState, differences

__all__ = ["GroupLag", "TopicAdmin", "WorkLag"]

K = TypeVar("K")

# Seconds between two requests for a topic that a broker does not know yet.
_RETRY = 0.02
# Seconds between two checks for the answer to a request.
_POLL_INTERVAL = 0.05
# Seconds beyond its time-out until a request without an answer is given up.
_GRACE = 1.0


@dataclass(frozen=True)
class WorkLag:
    """The backlog of a worker channel.

    Attributes:
        topic: Kafka's name of the topic and of its consumer group.
        waiting: Messages that no worker has taken yet.
        members: Workers that share the messages now.
    """

    topic: str
    waiting: int
    members: int


@dataclass(frozen=True)
class GroupLag:
    """The backlog of a consumer group that shares the topic of a stream.

    Attributes:
        topic: Kafka's name of the topic.
        group: The name of the group, and of the worker channel.
        waiting: Offsets that no worker has taken yet; None where the group has not begun.
        members: Workers that share the records now.
    """

    topic: str
    group: str
    waiting: int | None
    members: int


class TopicAdmin:
    """A short-lived admin client; one thread at a time. Use it as a context manager.

    A forked child that frees one left to the garbage collector hangs.

    Args:
        config: The layer's settings.
        timeout: Seconds that the brokers have to answer each call.

    Raises:
        ImproperlyConfigured: If librdkafka refuses a property.
    """

    def __init__(self, config: LayerConfig, timeout: float) -> None:
        self._servers = config.bootstrap_servers
        self._timeout = timeout
        self._trouble: KafkaError | None = None
        self._down = False
        properties = Properties(
            {
                # No log: the methods raise all errors.
                "log_level": 0,
                **admin_properties(config),
                "error_cb": self._on_error,
                "logger": client_logger,
            }
        )
        self._client = new_client(AdminClient, properties, "admin_config")

    def __enter__(self) -> TopicAdmin:  # noqa: PYI034 (Self needs Python 3.11)
        return self

    def __exit__(self, *exception: object) -> None:
        # librdkafka's client has no close() of its own.
        self._client.__exit__(None, None, None)

    def inspect(self, names: Sequence[str]) -> dict[str, TopicState]:
        """Look up topics.

        Args:
            names: Kafka's names of the topics.

        Returns:
            The existing topics.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the broker refuses.
        """
        answers = self._ask(
            "look at the topics",
            lambda: self._client.describe_topics(
                TopicCollection(list(names)), request_timeout=self._timeout
            ),
        )
        found = {}
        for name, future in answers.items():
            description = self._result(f"look at {name}", future, accepted=_NOT_THERE)
            if description is not None:
                found[name] = description.partitions
        configs = self._configs(list(found))
        return {
            name: TopicState(
                name,
                partitions=len(partitions),
                replication_factor=min(len(each.replicas) for each in partitions),
                config=configs[name][0],
                untold=configs[name][1],
                leaderless=sum(each.leader is None for each in partitions),
            )
            for name, partitions in found.items()
        }

    def create(self, specs: Sequence[TopicSpec], *, dry_run: bool = False) -> None:
        """Create topics; leave existing ones as they are.

        Args:
            specs: The topics.
            dry_run: Whether the broker only checks whether it could.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the broker refuses.
        """
        if not specs:
            return
        topics = {
            spec.name: NewTopic(
                spec.name,
                num_partitions=spec.partitions,
                replication_factor=spec.replication_factor,
                config=dict(spec.config),
            )
            for spec in specs
        }
        answers = self._ask_unfenced(
            "create topics",
            topics,
            lambda names: self._client.create_topics(
                [topics[name] for name in names],
                operation_timeout=self._timeout,
                request_timeout=self._timeout,
                validate_only=dry_run,
            ),
        )
        for name, future in answers.items():
            self._result(f"create {name}", future, accepted=_THERE_ALREADY)

    def add_partitions(self, counts: Mapping[str, int], *, dry_run: bool = False) -> None:
        """Raise the number of partitions of topics.

        Args:
            counts: The new numbers by Kafka's names of the topics.
            dry_run: Whether the broker only checks whether it could.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the broker refuses.
        """
        if not counts:
            return
        answers = self._ask_unfenced(
            "add partitions",
            counts,
            lambda names: self._client.create_partitions(
                [NewPartitions(name, counts[name]) for name in names],
                operation_timeout=self._timeout,
                request_timeout=self._timeout,
                validate_only=dry_run,
            ),
        )
        for name, future in answers.items():
            self._result(f"add partitions to {name}", future)

    def alter_configs(
        self, changes: Mapping[str, Mapping[str, str]], *, dry_run: bool = False
    ) -> None:
        """Set some configs of topics; their others stay as they are.

        Args:
            changes: Config names to new values, by Kafka's names of the topics.
            dry_run: Whether the broker only checks whether it could.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the broker refuses.
        """
        if not changes:
            return
        resources = [
            ConfigResource(
                ResourceType.TOPIC,
                name,
                incremental_configs=[
                    ConfigEntry(config, value, incremental_operation=AlterConfigOpType.SET)
                    for config, value in configs.items()
                ],
            )
            for name, configs in changes.items()
        ]
        answers = self._ask(
            "alter configs",
            lambda: self._client.incremental_alter_configs(
                resources, request_timeout=self._timeout, validate_only=dry_run
            ),
        )
        for resource, future in answers.items():
            self._result(f"alter the configs of {resource.name}", future)

    def work_lags(self, prefix: str) -> list[WorkLag]:
        """Look at the consumer groups of worker channels.

        Args:
            prefix: The start of Kafka's names of their topics, which are the groups' names, too.

        Returns:
            One entry for each topic.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the broker refuses.
        """
        topics = self._partitions_of(prefix)
        if not topics:
            return []
        groups = self._ask(
            "look at consumer groups",
            lambda: self._client.describe_consumer_groups(
                list(topics), request_timeout=self._timeout
            ),
        )
        return [
            WorkLag(
                topic,
                self._waiting(topic, partitions, self._positions(topic, topic)),
                self._members(topic, groups[topic]),
            )
            for topic, partitions in topics.items()
        ]

    def group_lag(self, group: str, topic: str) -> GroupLag | None:
        """Look at a consumer group that shares the topic of a stream.

        Args:
            group: The group's name.
            topic: Kafka's name of the topic.

        Returns:
            Its backlog; None if the topic does not exist.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the broker refuses.
        """
        partitions = self._partitions_of(topic).get(topic)
        if partitions is None:
            return None
        answers = self._ask(
            "look at consumer groups",
            lambda: self._client.describe_consumer_groups([group], request_timeout=self._timeout),
        )
        positions = self._positions(group, topic)
        waiting = self._waiting(topic, partitions, positions) if positions else None
        return GroupLag(topic, group, waiting, self._members(group, answers[group]))

    def topic_names(self, prefix: str) -> list[str]:
        """Return Kafka's names of the topics that begin with ``prefix``.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the broker refuses.
        """
        return list(self._partitions_of(prefix))

    def _partitions_of(self, prefix: str) -> dict[str, list[TopicPartition]]:
        try:
            topics = self._client.list_topics(timeout=self._timeout).topics
        except KafkaException as exception:
            raise self._failure("list topics", kafka_error(exception)) from None
        return {
            name: [TopicPartition(name, number, OFFSET_END) for number in topic.partitions]
            for name, topic in sorted(topics.items())
            if name.startswith(prefix)
        }

    def _members(self, group: str, future: Future[Any]) -> int:
        description = self._result(f"look at group {group}", future, _NO_GROUP)
        return 0 if description is None else len(description.members)

    def _positions(self, group: str, topic: str) -> dict[int, int]:
        answers = self._ask(
            f"look at the positions of {group}",
            lambda: self._client.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group)], request_timeout=self._timeout
            ),
        )
        found = self._result(f"look at the positions of {group}", answers[group], _NO_GROUP)
        return {
            each.partition: each.offset
            for each in (found.topic_partitions if found else ())
            if each.offset >= 0 and each.topic == topic
        }

    def _waiting(
        self, topic: str, partitions: list[TopicPartition], positions: Mapping[int, int]
    ) -> int:
        firsts = self._offsets(topic, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
        ends = self._offsets(topic, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        # Without a committed position, or if that record is gone, work begins at the first record.
        return sum(
            end - max(positions.get(number, 0), firsts[number]) for number, end in ends.items()
        )

    def _offsets(
        self, topic: str, partitions: list[TopicPartition], spec: OffsetSpec
    ) -> dict[int, int]:
        answers = self._ask(
            f"look at the offsets of {topic}",
            lambda: self._client.list_offsets(
                {TopicPartition(topic, each.partition): spec for each in partitions},
                request_timeout=self._timeout,
            ),
        )
        return {
            partition.partition: self._result(f"look at the offsets of {topic}", future).offset
            for partition, future in answers.items()
        }

    def delete_records(self, prefix: str) -> None:
        """Delete all records of the topics whose names start with ``prefix``.

        Does nothing on the embedded broker, which does not support it.

        Args:
            prefix: The start of Kafka's names of the topics.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the broker refuses.
        """
        partitions = [each for some in self._partitions_of(prefix).values() for each in some]
        if not partitions:
            return
        answers = self._ask(
            "delete records",
            lambda: self._client.delete_records(
                partitions, request_timeout=self._timeout, operation_timeout=self._timeout
            ),
        )
        for partition, future in answers.items():
            self._result(f"delete the records of {partition.topic}", future, _UNSUPPORTED)

    def wait_until_visible(self, specs: Sequence[TopicSpec]) -> dict[str, TopicState]:
        """Wait until a broker has shown each topic once as wanted, each partition with a leader.

        Each request may reach another broker, and some know of a change before others. So a topic
        that one answer showed as wanted counts, whatever the next answer shows.

        Args:
            specs: The topics as wanted, with only those configs that were set.

        Returns:
            The topics as shown, by Kafka's names of them.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If no broker showed a change within ``timeout`` seconds.
        """
        visible: dict[str, TopicState] = {}
        deadline = monotonic() + self._timeout
        while True:
            left = [spec for spec in specs if spec.name not in visible]
            states = self.inspect([spec.name for spec in left]) if left else {}
            waiting = {spec.name: _what_is_missing(spec, states.get(spec.name)) for spec in left}
            visible.update({name: states[name] for name, text in waiting.items() if not text})
            texts = [text for text in waiting.values() if text]
            if not texts:
                return visible
            if monotonic() >= deadline:
                raise TopicError(
                    f"The brokers took the changes, but after {self._timeout:g} s "
                    f"{'; '.join(texts)}. Look at the brokers' logs, then run this again."
                )
            sleep(_RETRY)

    def inspect_patiently(self, names: Sequence[str], timeout: float) -> dict[str, TopicState]:
        """Look up topics, repeatedly while one is missing: a broker may know it a moment later.

        Args:
            names: Kafka's names of the topics.
            timeout: Seconds after which a missing topic does not exist.

        Returns:
            The existing topics.

        Raises:
            BrokerUnavailable: If no broker answers in time.
            TopicError: If the broker refuses.
        """
        found = self.inspect(names)
        deadline = monotonic() + timeout
        while (missing := [each for each in names if each not in found]) and (
            monotonic() < deadline
        ):
            sleep(_POLL_INTERVAL)
            found.update(self.inspect(missing))
        return found

    def _configs(self, names: Sequence[str]) -> Mapping[str, tuple[Mapping[str, str] | None, str]]:
        """Return the configs of each topic; None and a reason if the broker does not show them."""
        if not names:
            return {}
        answers = self._ask(
            "look at the topics' configs",
            lambda: self._client.describe_configs(
                [ConfigResource(ResourceType.TOPIC, name) for name in names],
                request_timeout=self._timeout,
            ),
        )
        configs: dict[str, tuple[Mapping[str, str] | None, str]] = {}
        for resource, future in answers.items():
            failure = future.exception()
            if isinstance(failure, KafkaException) and kafka_error(failure).code() in _UNTOLD:
                configs[resource.name] = None, _UNTOLD[kafka_error(failure).code()]
                continue
            entries = self._result(f"look at the configs of {resource.name}", future)
            configs[resource.name] = (
                {name: each.value for name, each in entries.items() if each.value is not None},
                "",
            )
        return configs

    def _ask(
        self, what: str, request: Callable[[], Mapping[K, Future[Any]]]
    ) -> Mapping[K, Future[Any]]:
        """Make a request and wait until all of it is answered."""
        self._trouble = None
        self._down = False
        try:
            answers = request()
        except KafkaException as exception:
            raise self._failure(what, kafka_error(exception)) from None
        deadline = monotonic() + self._timeout + _GRACE
        while not wait_for_futures(answers.values(), _POLL_INTERVAL):
            self._client.poll(0)
            trouble = self._trouble
            # The broker would refuse the login again: do not wait for the time-out.
            refused = self._down and trouble is not None and is_refusal(trouble)
            if refused or monotonic() >= deadline:
                raise self._failure(what, KafkaError(KafkaError._TIMED_OUT))
        self._client.poll(0)
        return answers

    def _ask_unfenced(
        self,
        what: str,
        names: Iterable[str],
        request: Callable[[Iterable[str]], Mapping[str, Future[Any]]],
    ) -> Mapping[str, Future[Any]]:
        """Make a request for partitions; repeat it while all brokers are fenced.

        Brokers are fenced for a while after their start. After ``timeout`` seconds the last answer
        counts.
        """
        deadline = monotonic() + self._timeout
        answers = dict(self._ask(what, lambda: request(names)))
        while monotonic() < deadline:
            early = [name for name, future in answers.items() if _came_too_early(future)]
            if not early:
                break
            sleep(_POLL_INTERVAL)
            answers |= self._ask(what, partial(request, early))
        return answers

    def _result(self, what: str, future: Future[Any], accepted: Collection[int] = ()) -> Any:
        try:
            return future.result()
        except KafkaException as exception:
            error = kafka_error(exception)
            if error.code() in accepted:
                return None
            raise self._failure(what, error) from None

    def _failure(self, what: str, error: KafkaError) -> KafkaLayerError:
        if self._trouble is not None and error.code() == KafkaError._TIMED_OUT:
            # "Connection refused" says more than "timed out".
            error = self._trouble
        return topic_error(what, error, self._servers)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._down = True
            self._trouble = self._trouble or error
        elif self._trouble is None or is_refusal(error) or not is_refusal(self._trouble):
            self._trouble = error


def _came_too_early(future: Future[Any]) -> bool:
    failure = future.exception()
    return isinstance(failure, KafkaException) and are_all_fenced(kafka_error(failure))


_NOT_THERE = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART})
_UNSUPPORTED = frozenset({KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION})
_NO_GROUP = frozenset({KafkaError.GROUP_ID_NOT_FOUND}) | _UNSUPPORTED
_THERE_ALREADY = frozenset({KafkaError.TOPIC_ALREADY_EXISTS})

_UNTOLD = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "this client has no right to see them; "
    "grant it DESCRIBE_CONFIGS",
    KafkaError._UNSUPPORTED_FEATURE: "this broker does not tell them",
    KafkaError.UNSUPPORTED_VERSION: "this broker does not tell them",
    # Deleted after the topic was described.
    KafkaError.UNKNOWN_TOPIC_OR_PART: "the topic is gone",
}


def _what_is_missing(spec: TopicSpec, state: TopicState | None) -> str:
    if state is None:
        return f"{spec.name} does not exist"
    found = differences(spec, state)
    return f"in {spec.name} {', '.join(map(str, found))}" if found else ""
