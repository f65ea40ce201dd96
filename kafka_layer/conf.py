"""CONFIG keywords of ``CHANNEL_LAYERS`` turned into one frozen, validated :class:`LayerConfig`."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal, cast

from django.core.exceptions import ImproperlyConfigured

from .addressing import Topic

__all__ = ["DEFAULT_MAX_MESSAGE_BYTES", "LayerConfig", "TopicSettings"]

DEFAULT_MAX_MESSAGE_BYTES = 2 * 1024 * 1024
"""Topic limit that lets a message of 1 MB pass with its key, headers and batch overhead."""

_SERVER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,100}")

_OWN = "the layer sets it itself"
_FORBIDDEN: Mapping[str, Mapping[str, str]] = {
    "client_config": {
        "bootstrap.servers": "use the keyword bootstrap_servers",
        "metadata.broker.list": "use the keyword bootstrap_servers",
        "test.mock.num.brokers": "each client would get a broker of its own; "
        "use kafka_layer.testing.EmbeddedBroker",
        "error_cb": "the layer needs it to see failing brokers",
        "logger": "the layer logs to 'kafka_layer'",
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
    },
    "consumer_config": {
        "group.id": "every server reads every partition of the broadcast topics",
        "enable.auto.commit": "positions are the layer's own",
        "enable.auto.offset.store": "positions are the layer's own",
        "auto.offset.reset": "a position that is gone is resolved and reported by the layer",
        "enable.partition.eof": _OWN,
        "on_commit": _OWN,
    },
    "admin_config": {},
}
_CLIENTS = tuple(_FORBIDDEN)


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
class LayerConfig:
    """The settings of one layer; build it with :meth:`from_keywords`.

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
        client_config: librdkafka properties of all clients.
        producer_config: librdkafka properties of the producer.
        consumer_config: librdkafka properties of the consumers.
        admin_config: librdkafka properties of the admin client.
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
    client_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    producer_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    consumer_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    admin_config: Mapping[str, Any] = field(default_factory=dict, repr=False)

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
        default_partitions = _integer("default_partitions", keywords.pop("default_partitions", 10))
        default_replication = _replication(
            "default_replication_factor", keywords.pop("default_replication_factor", -1)
        )
        known = {each.name for each in fields(cls)}
        for name in keywords:
            if name not in known:
                _unknown("CONFIG keyword", name, known | _EXTRA_KEYWORDS)
        if "bootstrap_servers" not in keywords:
            raise ImproperlyConfigured(
                "CONFIG has no bootstrap_servers; name the brokers, for instance "
                '"bootstrap_servers": "localhost:9092".'
            )
        values = {name: _READERS[name](name, value) for name, value in keywords.items()}
        expiry = values.get("expiry", cls.expiry)
        values["topics"] = _topics(
            keywords.get("topics", {}), expiry, default_partitions, default_replication
        )
        if values.get("group_expiry", cls.group_expiry) < expiry:
            raise ImproperlyConfigured(
                f"group_expiry ({keywords.get('group_expiry')}) is shorter than expiry ({expiry}); "
                "a channel would lose its groups while messages still wait for it. Raise it."
            )
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

    def max_message_bytes(self, topic: Topic) -> int:
        """Return the size limit of one record batch of ``topic``, in bytes."""
        return int(self.topics[topic].config["max.message.bytes"])


_EXTRA_KEYWORDS = {"default_partitions", "default_replication_factor"}


def _unknown(what: str, name: object, known: Iterable[str]) -> None:
    close = difflib.get_close_matches(str(name), known, n=1)
    mend = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}."
    raise ImproperlyConfigured(f"Unknown {what} {name!r}; {mend}")


def _wrong(name: str, value: object, wanted: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"{name} is {value!r}; it must be {wanted}.")


def _integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _wrong(name, value, "an integer of 1 or more")
    return value


def _replication(name: str, value: object) -> int:
    if value == -1 and not isinstance(value, bool):
        return -1
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _wrong(name, value, "an integer of 1 or more, or -1 for the broker's default")
    return value


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.1 <= value < 1e9:
        raise _wrong(name, value, "a number of seconds of 0.1 or more")
    return value


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "True or False")
    return value


def _one_of(*choices: str) -> Any:
    def read(name: str, value: object) -> str:
        if value not in choices:
            raise _wrong(name, value, " or ".join(map(repr, choices)))
        return cast(str, value)

    return read


def _servers(name: str, value: object) -> str:
    wanted = "'host:port', several separated by commas, or a list of them"
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, (list, tuple)) or not value:
        raise _wrong(name, value, wanted)
    servers = []
    for server in value:
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
        (
            pattern if isinstance(pattern, re.Pattern) else re.compile(fnmatch.translate(pattern)),
            _integer(f"{name}[{pattern!r}]", capacity),
        )
        for pattern, capacity in value.items()
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
    return MappingProxyType(dict(value))


def _topics(
    value: object, expiry: float, default_partitions: int, default_replication: int
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
                topic, value.get(topic.value, {}), expiry, default_partitions, default_replication
            )
            for topic in Topic
        }
    )


def _topic(
    topic: Topic, value: object, expiry: float, partitions: int, replication_factor: int
) -> TopicSettings:
    where = f"topics[{topic.value!r}]"
    if not isinstance(value, Mapping):
        raise _wrong(where, value, "a dict")
    known = {"partitions", "replication_factor", "config"}
    for name in value:
        if name not in known:
            _unknown(f"setting in {where}:", name, known)
    config = value.get("config", {})
    if not isinstance(config, Mapping):
        raise _wrong(f"{where}['config']", config, "a dict of Kafka's topic configs")
    merged = {**_default_topic_config(expiry), **{k: _config_value(v) for k, v in config.items()}}
    retention = _config_integer(where, merged, "retention.ms", minimum=-1)
    if 0 <= retention < expiry * 1000:
        raise ImproperlyConfigured(
            f"{where} keeps records for retention.ms={retention}, shorter than expiry "
            f"({expiry} s): messages would be lost before they expire. Raise it, or lower expiry."
        )
    _config_integer(where, merged, "max.message.bytes", minimum=1024)
    if "compact" in merged["cleanup.policy"]:
        raise ImproperlyConfigured(
            f"{where} sets cleanup.policy={merged['cleanup.policy']}: compaction would drop "
            "messages that share a key. Use 'delete'."
        )
    return TopicSettings(
        partitions=_integer(f"{where}['partitions']", value.get("partitions", partitions)),
        replication_factor=_replication(
            f"{where}['replication_factor']", value.get("replication_factor", replication_factor)
        ),
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


def _config_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _config_integer(where: str, config: Mapping[str, str], name: str, minimum: int) -> int:
    try:
        number = int(config[name])
    except ValueError:
        number = minimum - 1
    if number < minimum:
        raise _wrong(f"{where}['config'][{name!r}]", config[name], f"an integer, {minimum} or more")
    return number


def _as_is(name: str, value: Any) -> Any:
    return value


_READERS: Mapping[str, Any] = {
    "bootstrap_servers": _servers,
    "prefix": _prefix,
    "expiry": _seconds,
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
    "client_config": _properties,
    "producer_config": _properties,
    "consumer_config": _properties,
    "admin_config": _properties,
}
