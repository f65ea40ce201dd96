"""Topics as the settings want them, topics as brokers have them, and their differences. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from ..config.settings import LayerConfig
from ..wire.topics import Topic, WorkTopic, topic_name

__all__ = ["Difference", "TopicSpec", "TopicState", "differences", "topic_spec", "topic_specs"]


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
        replication_factor: The smallest number of copies of a partition.
        config: Topic configs, names to values; None if the broker does not show them.
        untold: Why the broker does not show them; empty if it does.
        leaderless: How many partitions have no leader, and cannot be used.
    """

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] | None = None
    untold: str = ""
    leaderless: int = 0


@dataclass(frozen=True)
class Difference:
    """One difference between a topic and its settings.

    Attributes:
        what: ``partitions``, ``replication_factor``, ``leaders`` or the name of a topic config.
        wanted: The value in the settings.
        found: The broker's value.
    """

    what: str
    wanted: str
    found: str

    def __str__(self) -> str:
        return f"{self.what} is {self.found}, wanted {self.wanted}"


def topic_specs(config: LayerConfig) -> list[TopicSpec]:
    """Return the topics that a layer with these settings needs.

    They include the topics of worker channels that the settings name in full.
    """
    workers = [WorkTopic(channel) for channel in config.named_worker_channels]
    return [topic_spec(config, topic) for topic in (*Topic, *workers)]


def topic_spec(config: LayerConfig, topic: Topic | WorkTopic) -> TopicSpec:
    """Return a fixed topic, or the topic of a worker channel, as the settings want it."""
    wanted = config.topic_settings(topic)
    return TopicSpec(
        topic_name(config.prefix, topic),
        wanted.partitions,
        wanted.replication_factor,
        wanted.config,
    )


def differences(spec: TopicSpec, state: TopicState) -> list[Difference]:
    """Return the differences; more partitions than wanted are none."""
    found = []
    if state.partitions < spec.partitions:
        found.append(Difference("partitions", str(spec.partitions), str(state.partitions)))
    if spec.replication_factor not in (-1, state.replication_factor):
        found.append(
            Difference(
                "replication_factor", str(spec.replication_factor), str(state.replication_factor)
            )
        )
    if state.leaderless:
        led = state.partitions - state.leaderless
        found.append(Difference("leaders", str(state.partitions), str(led)))
    if state.config is not None:
        for name, wanted in spec.config.items():
            has = state.config.get(name, "unknown to the broker")
            if not _same_value(wanted, has):
                found.append(Difference(name, wanted, has))
    return found


def _same_value(wanted: str, found: str) -> bool:
    """Tell whether two values of a topic config mean the same, in whatever notation."""
    return wanted == found or _meaning(wanted) == _meaning(found)


def _meaning(value: str) -> object:
    try:
        return Decimal(value.strip())
    except InvalidOperation:
        if value.strip().lower() in ("true", "false"):
            return value.strip().lower()
        # A list, such as cleanup.policy: the order of its parts means nothing.
        return frozenset(part.strip() for part in value.split(","))
