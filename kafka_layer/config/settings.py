"""CONFIG keywords of ``CHANNEL_LAYERS`` turned into one frozen, validated ``LayerConfig``."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal

from django.core.exceptions import ImproperlyConfigured

from ..wire.topics import BROADCAST_TOPICS, Topic, WorkTopic
from .timings import Timings

__all__ = [
    "DEFAULT_MAX_MESSAGE_BYTES",
    "LayerConfig",
    "Properties",
    "TopicSettings",
    "WorkerSettings",
]

DEFAULT_MAX_MESSAGE_BYTES = 2 * 1024 * 1024
"""Topic limit that lets a message of 1 MB pass with its key, headers and batch overhead."""

# One for each server or worker; more of either share them, or do nothing.
_PARTITIONS = 10
# Every fetch of every server names them all: with 30 of them, and not 9, each message came 0.1 ms
# later, measured. Three share the load of as many brokers.
_BROADCAST_PARTITIONS = 3

_SERVER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,100}")

# librdkafka's own limits: message.timeout.ms, and what its admin client lets pass.
_MAX_EXPIRY = 2_147_483
_MAX_PARTITIONS = 100_000
_MAX_REPLICAS = 10_000

# A consumer takes at most 100,000,000 bytes at a time (receive.message.max.bytes).
_MAX_MESSAGE_BYTES = 99_999_000

_OWN = "the layer sets it itself"
_TOPICS_SETTINGS = "a broker would make up topics with other settings than yours"
_FORBIDDEN: Mapping[str, Mapping[str, str]] = {
    "client_config": {
        "bootstrap.servers": "use the keyword bootstrap_servers",
        "metadata.broker.list": "use the keyword bootstrap_servers",
        "test.mock.num.brokers": "each client would get a broker of its own; "
        "use kafka_layer.testing.EmbeddedBroker",
        "error_cb": "the layer needs it to see failing brokers",
        "logger": "the layer logs to 'kafka_layer'",
        "allow.auto.create.topics": _TOPICS_SETTINGS,
        "default.topic.config": "name its properties in producer_config or consumer_config",
    },
    "producer_config": {
        "acks": "nothing may be lost when a broker dies, so it stays 'all'",
        "request.required.acks": "nothing may be lost when a broker dies, so it stays 'all'",
        "enable.idempotence": "messages would arrive twice or out of order",
        "partitioner": "all senders must map a key to one partition (murmur2_random)",
        "transactional.id": "the layer does not use transactions",
        "on_delivery": "connect to kafka_layer.signals.produce_failed",
        "dr_cb": "connect to kafka_layer.signals.produce_failed",
        "delivery.report.only.error": "await_produce needs every report",
        "message.max.bytes": "the topics' max.message.bytes decides; set that in topics",
    },
    "consumer_config": {
        "group.id": "every server reads every partition of the broadcast topics",
        "group.protocol": "use the keyword worker_group_protocol",
        "enable.auto.commit": "positions are the layer's own",
        "enable.auto.offset.store": "positions are the layer's own",
        "auto.offset.reset": "a position that is gone is resolved and reported by the layer",
        "enable.partition.eof": _OWN,
        "on_commit": _OWN,
        "group.instance.id": "all servers would claim the same place in a consumer group",
        "partition.assignment.strategy": "shares of worker channels must move one at a time "
        "(cooperative-sticky)",
    },
    "admin_config": {},
}
_CLIENTS = tuple(_FORBIDDEN)


class Properties(dict[str, Any]):
    """librdkafka properties; no repr, so no error page either, shows their values."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self)}>"


@dataclass(frozen=True)
class TopicSettings:
    """How one topic is to be provisioned.

    Attributes:
        partitions: Number of partitions.
        replication_factor: Copies of each partition; -1 means the broker's default.
        config: Kafka's topic configs, names to values as strings.
    """

    partitions: int
    replication_factor: int
    config: Mapping[str, str]


@dataclass(frozen=True)
class WorkerSettings:
    """How one worker channel is to be provisioned and read.

    Attributes:
        expiry: Seconds after which a message that no worker took is dropped.
        prefetch_count: How many messages one waiting receive lets its process take.
        topic: Provisioning of its topic.
        pattern: Which channels' names it is for, as the settings write it.
    """

    expiry: float
    prefetch_count: int
    topic: TopicSettings
    pattern: str = "*"


@dataclass(frozen=True)
class LayerConfig:
    """The settings of one layer; build it with ``from_keywords``.

    Attributes:
        bootstrap_servers: ``host:port`` pairs, comma-separated.
        prefix: First part of every topic name.
        expiry: Seconds after which an undelivered message is dropped.
        group_expiry: Seconds without a sign of life after which a channel leaves its groups.
        capacity: Messages that a channel holds in memory.
        channel_capacity: Compiled patterns of channel names with their own capacities.
        symmetric_encryption_keys: Keys of the payload encryption; the first encrypts.
        serializer_format: ``msgpack`` or ``json``, for what this process sends.
        await_produce: Whether sends wait for the broker's acknowledgement.
        ack_timeout: Seconds to wait for another server's acknowledgement.
        overflow: What a send does when the producer's queue is full.
        auto_create_topics: Whether missing topics are created at start.
        topics: Provisioning of each fixed topic.
        worker_channels: Compiled patterns of worker channels' names with their own settings.
        worker_group_protocol: Kafka's ``group.protocol`` for worker channels: ``classic``, or
            ``consumer`` for KIP-848.
        client_config: librdkafka properties of all clients.
        producer_config: librdkafka properties of the producer.
        consumer_config: librdkafka properties of the consumers.
        admin_config: librdkafka properties of the admin client.
        timings: Time-outs and intervals; no keyword, ``KafkaChannelLayer.timings`` sets them.
    """

    bootstrap_servers: str
    prefix: str = "channels"
    expiry: float = 60
    group_expiry: float = 86400
    capacity: int = 100
    channel_capacity: tuple[tuple[re.Pattern[str], int], ...] = ()
    symmetric_encryption_keys: tuple[bytes, ...] = field(default=(), repr=False)
    serializer_format: Literal["msgpack", "json"] = "msgpack"
    await_produce: bool = False
    ack_timeout: float = 5
    overflow: Literal["raise", "block", "discard"] = "raise"
    auto_create_topics: bool = True
    topics: Mapping[Topic, TopicSettings] = field(default_factory=dict)
    worker_channels: tuple[tuple[re.Pattern[str], WorkerSettings], ...] = ()
    worker_group_protocol: Literal["classic", "consumer"] = "classic"
    client_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    producer_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    consumer_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    admin_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    timings: Timings = field(default_factory=Timings, repr=False)

    @classmethod
    def from_keywords(cls, **keywords: Any) -> LayerConfig:
        """Validate the CONFIG keywords of a layer.

        Args:
            keywords: As in ``CHANNEL_LAYERS[alias]["CONFIG"]``; docs/settings.md lists them.

        Returns:
            The settings, every default filled in.

        Raises:
            ImproperlyConfigured: For an unknown keyword or a value that cannot work; the message
                names the mistake and the mend.
        """
        partitions, broadcast_partitions = _PARTITIONS, _BROADCAST_PARTITIONS
        given = keywords.pop("default_partitions", None)
        if given is not None:
            partitions = broadcast_partitions = _partitions("default_partitions", given)
        default_replication = _replication(
            "default_replication_factor", keywords.pop("default_replication_factor", -1)
        )
        known = {each.name for each in fields(cls)} - {"timings"}
        for name in keywords:
            if name not in known:
                hint = _OF_CHANNELS_REDIS.get(name)
                _unknown("CONFIG keyword", name, known | _EXTRA_KEYWORDS, hint)
        if "bootstrap_servers" not in keywords:
            raise ImproperlyConfigured(
                "CONFIG has no bootstrap_servers; name the brokers, for instance "
                '"bootstrap_servers": "localhost:9092".'
            )
        values = {name: _READERS[name](name, value) for name, value in keywords.items()}
        expiry = values.get("expiry", cls.expiry)
        values["topics"] = _topics(
            keywords.get("topics", {}),
            expiry,
            {
                topic: broadcast_partitions if topic in BROADCAST_TOPICS else partitions
                for topic in Topic
            },
            default_replication,
        )
        patterns = _worker_channels(
            keywords.get("worker_channels", {}), expiry, partitions, default_replication
        )
        # The last one matches every channel.
        every = _worker_channels({"*": {}}, expiry, partitions, default_replication)
        values["worker_channels"] = patterns + every
        group_expiry = values.get("group_expiry", cls.group_expiry)
        if group_expiry < expiry:
            raise ImproperlyConfigured(
                f"group_expiry ({group_expiry} s) is shorter than expiry ({expiry} s); "
                "a channel would lose its groups while messages still wait for it. Raise it."
            )
        for name in ("client_config", "producer_config"):
            _require_timeout_within(name, keywords.get(name, {}), expiry)
        return cls(**values)

    @property
    def retention_ms(self) -> int:
        """Shortest retention of a topic that still keeps every message for ``expiry``, in ms."""
        return int(self.expiry * 1000)

    def capacity_of(self, channel: str) -> int:
        """Return how many messages ``channel`` may hold in memory."""
        for pattern, capacity in self.channel_capacity:
            if pattern.match(channel):
                return capacity
        return self.capacity

    def worker_settings(self, channel: str) -> WorkerSettings:
        """Return the settings of a worker channel."""
        return next(each for pattern, each in self.worker_channels if pattern.match(channel))

    @property
    def named_worker_channels(self) -> list[str]:
        """The worker channels that the settings name in full, without a wildcard."""
        patterns = [settings.pattern for _, settings in self.worker_channels]
        return [pattern for pattern in patterns if not set(pattern) & set("*?[")]

    def topic_settings(self, topic: Topic | WorkTopic) -> TopicSettings:
        """Return how a topic is to be provisioned."""
        if isinstance(topic, WorkTopic):
            return self.worker_settings(topic.channel).topic
        return self.topics[topic]

    def max_message_bytes(self, topic: Topic | WorkTopic) -> int:
        """Return the size limit of one record batch of ``topic``, in bytes."""
        return int(self.topic_settings(topic).config["max.message.bytes"])


_EXTRA_KEYWORDS = {"default_partitions", "default_replication_factor"}

# Keywords of channels_redis that have no counterpart of the same name.
_OF_CHANNELS_REDIS = {
    "hosts": "that is channels_redis' keyword; name the Kafka brokers in bootstrap_servers.",
    "random_prefix_length": "that is channels_redis' keyword; remove it.",
    "on_disconnect": "connect a receiver to kafka_layer.signals.connection_changed instead.",
    "on_reconnect": "connect a receiver to kafka_layer.signals.connection_changed instead.",
}


def _unknown(what: str, name: object, known: Iterable[str], hint: str | None = None) -> None:
    close = difflib.get_close_matches(str(name), known, n=1)
    mend = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}."
    raise ImproperlyConfigured(f"Unknown {what} {name!r}; {hint or mend}")


def _wrong(name: str, value: object, wanted: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"{name} is {value!r}; it must be {wanted}.")


def _integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _wrong(name, value, "an integer of 1 or more")
    return value


def _partitions(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_PARTITIONS:
        raise _wrong(name, value, f"an integer from 1 to {_MAX_PARTITIONS}")
    return value


def _replication(name: str, value: object) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or not (value == -1 or 1 <= value <= _MAX_REPLICAS)
    ):
        raise _wrong(name, value, "an integer of 1 or more, or -1 for the broker's default")
    return value


def _seconds(name: str, value: object, longest: float = 1e9) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not 0.1 <= value <= longest
    ):
        raise _wrong(name, value, f"a number of seconds from 0.1 to {longest:.0f}")
    return value


def _expiry(name: str, value: object) -> float:
    return _seconds(name, value, _MAX_EXPIRY)


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "True or False")
    return value


def _one_of(*choices: str) -> Any:
    def read(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise _wrong(name, value, " or ".join(map(repr, choices)))
        return value

    return read


def _servers(name: str, value: object) -> str:
    wanted = "'host:port', several separated by commas, or a list of them"
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, (list, tuple)) or not value:
        raise _wrong(name, value, wanted)
    servers = []
    for server in value:
        if isinstance(server, str) and "@" in server:
            # Shown nowhere: there may be a password in it.
            raise ImproperlyConfigured(
                f"{name} has a server with an '@'; each must be {wanted}. Credentials belong "
                "into client_config: sasl.username and sasl.password."
            )
        match = _SERVER.fullmatch(server.strip()) if isinstance(server, str) else None
        if match is None or not 0 < int(match[2]) < 65536:
            raise ImproperlyConfigured(f"{name} has {server!r}; each server must be {wanted}.")
        servers.append(match[0])
    return ",".join(servers)


def _prefix(name: str, value: object) -> str:
    if not isinstance(value, str) or not _PREFIX.fullmatch(value) or value in (".", ".."):
        raise _wrong(
            name,
            value,
            "1 to 100 ASCII letters, digits, periods, hyphens or underscores, as in a topic name",
        )
    return value


def _channel_capacity(name: str, value: object) -> tuple[tuple[re.Pattern[str], int], ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise _wrong(name, value, "a dict of channel name patterns to capacities")
    return tuple(
        (_pattern(name, pattern), _integer(f"{name}[{pattern!r}]", capacity))
        for pattern, capacity in value.items()
    )


def _pattern(name: str, value: object) -> re.Pattern[str]:
    if isinstance(value, str):
        return re.compile(fnmatch.translate(value))
    if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
        return value
    raise ImproperlyConfigured(
        f"{name} has the key {value!r}; each must be a pattern such as 'specific.*', "
        "or a compiled regular expression of str."
    )


def _keys(name: str, value: object) -> tuple[bytes, ...]:
    if value is None:
        return ()
    wanted = "a list of non-empty str or bytes; the first encrypts, all decrypt"
    if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple)):
        raise ImproperlyConfigured(f"{name} must be {wanted}.")
    keys = []
    for key in value:
        if not isinstance(key, (str, bytes)) or not key:
            raise ImproperlyConfigured(f"{name} has an entry that is no key; it must be {wanted}.")
        keys.append(key.encode() if isinstance(key, str) else key)
    return tuple(keys)


def _properties(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(each, str) for each in value):
        raise ImproperlyConfigured(f"{name} must be a dict of librdkafka property names to values.")
    own = _FORBIDDEN[name]
    shared = _FORBIDDEN["client_config"]
    for group in _CLIENTS if name == "client_config" else (name,):
        own = {**own, **_FORBIDDEN[group]}
    for prop in value:
        reason = own.get(prop) or shared.get(prop)
        if reason:
            raise ImproperlyConfigured(f"{name} must not set {prop!r}: {reason}. Remove it.")
        _require_property_value(f"{name}[{prop!r}]", value[prop])
    return MappingProxyType(Properties(value))


def _require_property_value(where: str, value: object) -> None:
    # The value itself is shown nowhere: it may be a password.
    if value is None:
        raise ImproperlyConfigured(
            f"{where} is None; set it, or remove it for librdkafka's default. "
            "Perhaps an environment variable is missing."
        )
    if not isinstance(value, (str, int, float)) and not callable(value):
        raise ImproperlyConfigured(
            f"{where} is a {type(value).__name__}; it must be a str, a number, a bool, or, for "
            "a callback, a function."
        )


def _require_timeout_within(name: str, properties: Mapping[str, Any], expiry: float) -> None:
    for prop in ("message.timeout.ms", "delivery.timeout.ms"):
        value = properties.get(prop)
        if value is not None and not 0 < _number(value) <= expiry * 1000:
            raise ImproperlyConfigured(
                f"{name}[{prop!r}] is {value!r}; it must be from 1 to {expiry * 1000:.0f}, that is "
                f"expiry ({expiry} s): what waits for longer has expired, and a broker would date "
                "it as new. Lower it, or raise expiry."
            )


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return float("nan")


def _topics(
    value: object,
    expiry: float,
    default_partitions: Mapping[Topic, int],
    default_replication: int,
) -> Mapping[Topic, TopicSettings]:
    if not isinstance(value, Mapping):
        raise _wrong("topics", value, "a dict of topic names to dicts of settings")
    names = {topic.value for topic in Topic}
    for name in value:
        if name not in names:
            _unknown("topic in topics:", name, names)
    return MappingProxyType(
        {
            topic: _topic(
                f"topics[{topic.value!r}]",
                value.get(topic.value, {}),
                expiry,
                default_partitions[topic],
                default_replication,
            )
            for topic in Topic
        }
    )


_OF_WORKERS = frozenset({"expiry", "prefetch_count"})


def _worker_channels(
    value: object, expiry: float, default_partitions: int, default_replication: int
) -> tuple[tuple[re.Pattern[str], WorkerSettings], ...]:
    if not isinstance(value, Mapping):
        raise _wrong("worker_channels", value, "a dict of channel name patterns to settings")
    found = []
    for pattern, settings in value.items():
        where = f"worker_channels[{pattern!r}]"
        if not isinstance(pattern, str) or not isinstance(settings, Mapping):
            raise _wrong(where, settings, "a dict, and its key a pattern of channel names")
        own = _seconds(f"{where}['expiry']", settings.get("expiry", expiry))
        prefetch = _integer(f"{where}['prefetch_count']", settings.get("prefetch_count", 1))
        topic = _topic(where, settings, own, default_partitions, default_replication, _OF_WORKERS)
        compiled = re.compile(fnmatch.translate(pattern))
        found.append((compiled, WorkerSettings(own, prefetch, topic, pattern)))
    return tuple(found)


def _topic(
    where: str,
    value: object,
    expiry: float,
    partitions: int,
    replication_factor: int,
    other: frozenset[str] = frozenset(),
) -> TopicSettings:
    if not isinstance(value, Mapping):
        raise _wrong(where, value, "a dict")
    known = {"partitions", "replication_factor", "config"} | other
    for name in value:
        if name not in known:
            _unknown(f"setting in {where}:", name, known)
    config = value.get("config", {})
    if not isinstance(config, Mapping):
        raise _wrong(f"{where}['config']", config, "a dict of Kafka's topic configs")
    merged = {
        **_default_topic_config(expiry),
        **{
            name: _config_value(f"{where}['config'][{name!r}]", value)
            for name, value in config.items()
        },
    }
    retention = _config_integer(where, merged, "retention.ms", minimum=-1)
    if 0 <= retention < expiry * 1000:
        raise ImproperlyConfigured(
            f"{where} keeps records for retention.ms={retention}, shorter than expiry "
            f"({expiry} s): messages would be lost before they expire. Raise it, or lower expiry."
        )
    largest = _config_integer(
        where, merged, "max.message.bytes", minimum=1024, maximum=_MAX_MESSAGE_BYTES
    )
    if "segment.bytes" in merged:
        # A segment has to hold the largest batch.
        _config_integer(where, merged, "segment.bytes", minimum=largest)
    if "compact" in merged["cleanup.policy"]:
        raise ImproperlyConfigured(
            f"{where} sets cleanup.policy={merged['cleanup.policy']}: compaction would drop "
            "messages that share a key. Use 'delete'."
        )
    replicas = _replication(
        f"{where}['replication_factor']", value.get("replication_factor", replication_factor)
    )
    if "min.insync.replicas" in merged:
        in_sync = _config_integer(where, merged, "min.insync.replicas", minimum=1)
        if replicas != -1 and in_sync > replicas:
            raise ImproperlyConfigured(
                f"{where} has min.insync.replicas={in_sync}, more than its replication_factor "
                f"({replicas}): no message could be written. Lower it, or raise that."
            )
    return TopicSettings(
        partitions=_partitions(f"{where}['partitions']", value.get("partitions", partitions)),
        replication_factor=replicas,
        config=MappingProxyType(merged),
    )


def _default_topic_config(expiry: float) -> dict[str, str]:
    retention = int(max(2 * expiry, 600) * 1000)
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(retention),
        # Only closed segments are deleted: without this a quiet topic keeps a week of records.
        "segment.ms": str(max(60_000, retention // 4)),
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(DEFAULT_MAX_MESSAGE_BYTES),
    }


def _config_value(where: str, value: object) -> str:
    if not isinstance(value, (str, int, float)):
        raise _wrong(where, value, "a str, a number or a bool, as Kafka's topic config wants it")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _config_integer(
    where: str, config: Mapping[str, str], name: str, minimum: int, maximum: int = 2**63 - 1
) -> int:
    try:
        number = int(config[name])
    except ValueError:
        number = minimum - 1
    if not minimum <= number <= maximum:
        wanted = f"{minimum} or more" if maximum == 2**63 - 1 else f"{minimum} to {maximum}"
        raise _wrong(f"{where}['config'][{name!r}]", config[name], f"an integer, {wanted}")
    return number


def _as_is(name: str, value: Any) -> Any:
    return value


_READERS: Mapping[str, Any] = {
    "bootstrap_servers": _servers,
    "prefix": _prefix,
    "expiry": _expiry,
    "group_expiry": _seconds,
    "capacity": _integer,
    "channel_capacity": _channel_capacity,
    "symmetric_encryption_keys": _keys,
    "serializer_format": _one_of("msgpack", "json"),
    "await_produce": _boolean,
    "ack_timeout": _seconds,
    "overflow": _one_of("raise", "block", "discard"),
    "auto_create_topics": _boolean,
    "topics": _as_is,
    "worker_channels": _as_is,
    "worker_group_protocol": _one_of("classic", "consumer"),
    "client_config": _properties,
    "producer_config": _properties,
    "consumer_config": _properties,
    "admin_config": _properties,
}
