"""The provisioning of topics: readers of its settings, and their defaults."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from django.core.exceptions import ImproperlyConfigured

from ..wire.names import parse_address
from ..wire.topics import BROADCAST_TOPICS, Topic, WorkTopic
from .keywords import (
    read_integer,
    read_partitions,
    read_replication,
    read_seconds,
    reject_unknown,
    wrong_value,
)

__all__ = [
    "DEFAULT_MAX_MESSAGE_BYTES",
    "WILDCARDS",
    "TopicDefaults",
    "TopicSettings",
    "WorkerSettings",
    "read_topics",
    "read_worker_channels",
]

DEFAULT_MAX_MESSAGE_BYTES = 2 * 1024 * 1024
"""Topic limit that lets a message of 1 MB pass with its key, headers and batch overhead."""

# Kafka's own default, where the settings leave max.message.bytes to the broker.
_BROKERS_MAX_MESSAGE_BYTES = 1_048_588

WILDCARDS = frozenset("*?[")
"""The characters that make a pattern of channel names out of a name."""

# librdkafka's receive.message.max.bytes is 100,000,000 by default.
_MAX_MESSAGE_BYTES = 99_999_000

# Of inbox topics and worker channels: up to this many servers or workers have one of their own.
_PARTITIONS = 10
# librdkafka names all partitions of these topics in each fetch, so more of them delay messages.
_BROADCAST_PARTITIONS = 3

# Seconds: clocks differ, and brokers look for old segments now and then.
_RETENTION_MARGIN = 60.0

_NAMES = frozenset(topic.value for topic in Topic)
_ONLY_OF_WORKERS = frozenset({"expiry", "prefetch_count"})


@dataclass(frozen=True)
class TopicSettings:
    """The provisioning of one topic.

    Attributes:
        partitions: Number of partitions.
        replication_factor: Copies of each partition; -1 means the broker's default.
        config: Kafka's topic configs, names to values as strings, without those that the settings
            leave to the broker.
        max_message_bytes: Size limit of one record batch, in bytes.
    """

    partitions: int
    replication_factor: int
    config: Mapping[str, str]
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES


@dataclass(frozen=True)
class WorkerSettings:
    """The settings of one worker channel.

    Attributes:
        expiry: Seconds after which a message that no worker took is dropped.
        prefetch_count: How many messages one waiting receive lets its process take.
        topic: Provisioning of its topic.
        pattern: The pattern of channel names, as the settings write it.
    """

    expiry: float
    prefetch_count: int
    topic: TopicSettings
    pattern: str = "*"


@dataclass(frozen=True)
class TopicDefaults:
    """The provisioning of topics for which the settings say nothing.

    Attributes:
        expiry: Seconds after which an undelivered message is dropped.
        partitions: Partitions of an inbox topic or a worker channel's topic.
        broadcast_partitions: Partitions of a topic that every server reads.
        replication_factor: Copies of each partition; -1 means the broker's default.
        recovery_window: For how many seconds a channel that came back may be recovered.
        config: Kafka's topic configs of all topics, over the layer's own; None leaves one to the
            broker.
    """

    expiry: float
    partitions: int = _PARTITIONS
    broadcast_partitions: int = _BROADCAST_PARTITIONS
    replication_factor: int = -1
    recovery_window: float = 0
    config: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def broadcast_retention(self) -> float:
        """Seconds for which a topic that every server reads has to keep its records."""
        return self.expiry + self.recovery_window + _RETENTION_MARGIN

    @classmethod
    def from_keywords(
        cls,
        expiry: float,
        default_partitions: object,
        default_replication_factor: object,
        recovery_window: float,
        default_topic_config: object,
    ) -> TopicDefaults:
        """Read the keywords ``default_…``; ``default_partitions`` is None if not set.

        Raises:
            ImproperlyConfigured: If a value is none that Kafka takes.
        """
        replication = read_replication("default_replication_factor", default_replication_factor)
        config = _read_config("default_topic_config", default_topic_config)
        partitions, broadcast_partitions = cls.partitions, cls.broadcast_partitions
        if default_partitions is not None:
            partitions = read_partitions("default_partitions", default_partitions)
            broadcast_partitions = partitions
        return cls(expiry, partitions, broadcast_partitions, replication, recovery_window, config)


def read_topics(value: object, defaults: TopicDefaults) -> Mapping[Topic, TopicSettings]:
    """Read the keyword ``topics``.

    Args:
        value: The keyword's value; right is a mapping of topic names to mappings of settings.
        defaults: The provisioning where the value says nothing.

    Returns:
        The provisioning of each fixed topic.

    Raises:
        ImproperlyConfigured: If a name is unknown or a value cannot work.
    """
    if not isinstance(value, Mapping):
        raise wrong_value("topics", value, "a dict of topic names to dicts of settings")
    for name in value:
        if name not in _NAMES:
            reject_unknown("topic in topics:", name, _NAMES)
    return MappingProxyType(
        {
            topic: _read_topic(
                f"topics[{topic.value!r}]",
                value.get(topic.value, {}),
                defaults,
                defaults.expiry,
                defaults.broadcast_partitions if topic in BROADCAST_TOPICS else defaults.partitions,
                least_retention=defaults.broadcast_retention if topic in BROADCAST_TOPICS else 0.0,
            )
            for topic in Topic
        }
    )


def read_worker_channels(
    value: object, defaults: TopicDefaults
) -> tuple[tuple[re.Pattern[str], WorkerSettings], ...]:
    """Read the keyword ``worker_channels``.

    Args:
        value: The keyword's value; right is a mapping of patterns to mappings of settings.
        defaults: The provisioning where the value says nothing.

    Returns:
        The patterns, compiled, with their settings; the last one matches every channel.

    Raises:
        ImproperlyConfigured: If a setting is unknown or a value cannot work.
    """
    if not isinstance(value, Mapping):
        raise wrong_value("worker_channels", value, "a dict of channel name patterns to settings")
    found = []
    for pattern, settings in (*value.items(), ("*", {})):
        where = f"worker_channels[{pattern!r}]"
        if not isinstance(pattern, str) or not isinstance(settings, Mapping):
            raise wrong_value(where, settings, "a dict, and its key a pattern of channel names")
        if not set(pattern) & WILDCARDS and not isinstance(parse_address(pattern), WorkTopic):
            raise ImproperlyConfigured(
                f"worker_channels has the key {pattern!r}, which no worker channel can be called: "
                "use ASCII letters, digits, hyphens, underscores and periods, and *, ? or [ ]."
            )
        expiry = read_seconds(f"{where}['expiry']", settings.get("expiry", defaults.expiry))
        prefetch = read_integer(f"{where}['prefetch_count']", settings.get("prefetch_count", 1))
        topic = _read_topic(
            where,
            settings,
            defaults,
            expiry,
            defaults.partitions,
            other=_ONLY_OF_WORKERS,
        )
        compiled = re.compile(fnmatch.translate(pattern))
        found.append((compiled, WorkerSettings(expiry, prefetch, topic, pattern)))
    return tuple(found)


def _read_topic(
    where: str,
    value: object,
    defaults: TopicDefaults,
    expiry: float,
    partitions: int,
    other: frozenset[str] = frozenset(),
    least_retention: float = 0.0,
) -> TopicSettings:
    if not isinstance(value, Mapping):
        raise wrong_value(where, value, "a dict")
    if not value and not defaults.config:
        return _default_topic(expiry, partitions, defaults.replication_factor, least_retention)
    known = {"partitions", "replication_factor", "config"} | other
    for name in value:
        if name not in known:
            reject_unknown(f"setting in {where}:", name, known)
    given = _read_config(f"{where}['config']", value.get("config", {}))
    default = _default_topic(expiry, 1, -1, least_retention)
    every = {**default.config, **defaults.config, **given}
    # None leaves a config to the broker: it is neither sent nor compared.
    merged = {name: each for name, each in every.items() if each is not None}

    def integer(name: str, minimum: int, maximum: int = 2**63 - 1) -> int | None:
        place = f"{where}['config']" if name in given else "default_topic_config"
        return _read_config_integer(place, merged, name, minimum, maximum)

    retention = integer("retention.ms", minimum=-1)
    if retention is not None and 0 <= retention < expiry * 1000:
        raise ImproperlyConfigured(
            f"{where} keeps records for retention.ms={retention}, shorter than expiry "
            f"({expiry} s): messages would be lost before they expire. Raise it, or lower expiry."
        )
    largest = integer("max.message.bytes", minimum=1024, maximum=_MAX_MESSAGE_BYTES)
    if largest is None:
        largest = _BROKERS_MAX_MESSAGE_BYTES
    # A segment has to hold the largest batch.
    integer("segment.bytes", minimum=largest)
    if "compact" in merged.get("cleanup.policy", ""):
        raise ImproperlyConfigured(
            f"{where} sets cleanup.policy={merged['cleanup.policy']}: compaction would drop "
            "messages that share a key. Use 'delete'."
        )
    replicas = read_replication(
        f"{where}['replication_factor']",
        value.get("replication_factor", defaults.replication_factor),
    )
    in_sync = integer("min.insync.replicas", minimum=1)
    if in_sync is not None and replicas != -1 and in_sync > replicas:
        raise ImproperlyConfigured(
            f"{where} has min.insync.replicas={in_sync}, more than its replication_factor "
            f"({replicas}): no message could be written. Lower it, or raise that."
        )
    return TopicSettings(
        partitions=read_partitions(f"{where}['partitions']", value.get("partitions", partitions)),
        replication_factor=replicas,
        config=MappingProxyType(merged),
        max_message_bytes=largest,
    )


# Cached: most topics of a layer are alike, and their reading took a quarter of its construction.
@functools.lru_cache(maxsize=100)
def _default_topic(
    expiry: float, partitions: int, replication_factor: int, least_retention: float
) -> TopicSettings:
    retention = int(max(2 * expiry, 600, least_retention) * 1000)
    config = {
        "cleanup.policy": "delete",
        "retention.ms": str(retention),
        # Brokers delete closed segments only: without this a quiet topic keeps a week of records.
        "segment.ms": str(max(60_000, retention // 4)),
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(DEFAULT_MAX_MESSAGE_BYTES),
    }
    return TopicSettings(partitions, replication_factor, MappingProxyType(config))


def _read_config(where: str, value: object) -> dict[str, str | None]:
    """Read topic configs, with values as Kafka writes them; None leaves one to the broker."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise wrong_value(where, value, "a dict of Kafka's topic configs")
    return {name: _read_config_value(f"{where}[{name!r}]", each) for name, each in value.items()}


def _read_config_value(where: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, (str, int, float)):
        raise wrong_value(where, value, "a str, a number, a bool, or None for the broker's default")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read_config_integer(
    where: str, config: Mapping[str, str], name: str, minimum: int, maximum: int
) -> int | None:
    """Return a topic config that is an integer; None if it is left to the broker."""
    if name not in config:
        return None
    try:
        number = int(config[name])
    except ValueError:
        number = minimum - 1
    if not minimum <= number <= maximum:
        wanted = f"{minimum} or more" if maximum == 2**63 - 1 else f"{minimum} to {maximum}"
        raise wrong_value(f"{where}[{name!r}]", config[name], f"an integer, {wanted}")
    return number
