"""The settings of a layer: one frozen value made from the CONFIG keywords, and look-ups in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from django.core.exceptions import ImproperlyConfigured

from ..wire.codec import Serializer
from ..wire.topics import Topic, WorkTopic, topic_name
from .keywords import EXTRA_KEYWORDS, FROM_CHANNELS_REDIS, READERS, reject_unknown
from .librdkafka import Properties, require_timeout_within
from .timings import Timings
from .topics import (
    WILDCARDS,
    TopicDefaults,
    TopicSettings,
    WorkerSettings,
    read_topics,
    read_worker_channels,
)

if TYPE_CHECKING:
    from django.http import HttpRequest

    from .streams import StreamSettings

__all__ = ["LayerConfig"]

_KEYWORDS = frozenset({*READERS, *EXTRA_KEYWORDS, "topics", "worker_channels", "streams"})


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
        serializer: A project's own serializer, in place of ``serializer_format``; None: none.
        await_produce: Whether sends wait for the broker's acknowledgement.
        ack_timeout: Seconds to wait for another server's acknowledgement.
        overflow: What a send does when the producer's queue is full.
        auto_create_topics: Whether missing topics are created at start.
        topics: Provisioning of each fixed topic.
        worker_channels: Compiled patterns of worker channels' names with their own settings.
        streams: The settings of each stream, by its name.
        recovery_window: Seconds after which a position is too old to recover from.
        recent_bytes: Bytes of the log's end that a server with tracked channels keeps in memory.
        dashboard_access: Tells whether a request may see the page for staff; None: whether its
            user ``is_staff``.
        unnamed_worker_channels: How many worker channels that no pattern covers may have a topic.
        worker_group_protocol: Kafka's ``group.protocol`` for worker channels: ``classic``, or
            ``consumer`` for KIP-848.
        client_config: librdkafka properties of all clients.
        producer_config: librdkafka properties of the producer.
        consumer_config: librdkafka properties of the consumers.
        admin_config: librdkafka properties of the admin client.
        metrics: Whether prometheus_client's registry gets the layer's figures.
        tracing: Whether records carry the context of traces, and spans are made.
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
    serializer: Serializer | None = None
    await_produce: bool = False
    ack_timeout: float = 5
    overflow: Literal["raise", "block", "discard"] = "raise"
    auto_create_topics: bool = True
    topics: Mapping[Topic, TopicSettings] = field(default_factory=dict)
    worker_channels: tuple[tuple[re.Pattern[str], WorkerSettings], ...] = ()
    streams: Mapping[str, StreamSettings] = field(default_factory=dict)
    recovery_window: float = 300
    recent_bytes: int = 64 * 1024 * 1024
    dashboard_access: Callable[[HttpRequest], object] | None = None
    unnamed_worker_channels: int = 100
    worker_group_protocol: Literal["classic", "consumer"] = "classic"
    client_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    producer_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    consumer_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    admin_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    metrics: bool = False
    tracing: bool = False
    timings: Timings = field(default=Timings(), repr=False)

    def timed(self, timings: Timings) -> LayerConfig:
        """Return these settings with other times; a start gets more where it fetches a token."""
        given = (self.client_config, self.producer_config, self.consumer_config, self.admin_config)
        if any(map(_fetches_token, given)):
            timings = replace(timings, start=timings.start + timings.token)
        return self if timings is self.timings else replace(self, timings=timings)

    @classmethod
    def from_keywords(cls, **keywords: Any) -> LayerConfig:
        """Validate the CONFIG keywords of a layer.

        Args:
            keywords: As in ``CHANNEL_LAYERS[alias]["CONFIG"]``; docs/settings.md lists them.

        Returns:
            The settings, every default filled in.

        Raises:
            ImproperlyConfigured: For an unknown keyword or a value that cannot work; the message
                names the mistake and the fix.
        """
        for name in keywords:
            if name not in _KEYWORDS:
                hint = FROM_CHANNELS_REDIS.get(name)
                reject_unknown("CONFIG keyword", name, _KEYWORDS, hint)
        if "bootstrap_servers" not in keywords:
            raise ImproperlyConfigured(
                "CONFIG has no bootstrap_servers; name the brokers, for instance "
                '"bootstrap_servers": "localhost:9092".'
            )
        values = {
            name: READERS[name](name, value) for name, value in keywords.items() if name in READERS
        }
        expiry = values.get("expiry", cls.expiry)
        defaults = TopicDefaults.from_keywords(
            expiry,
            keywords.get("default_partitions"),
            keywords.get("default_replication_factor", -1),
            values.get("recovery_window", cls.recovery_window),
            keywords.get("default_topic_config", {}),
        )
        values["topics"] = read_topics(keywords.get("topics", {}), defaults)
        values["worker_channels"] = read_worker_channels(
            keywords.get("worker_channels", {}), defaults
        )
        if "streams" in keywords:
            # Imported by the first layer that names any: most name none.
            from .streams import read_streams

            prefix, work = values.get("prefix", cls.prefix), keywords.get("worker_channels", {})
            values["streams"] = read_streams(keywords["streams"], _own_topics(prefix, work))
        group_expiry = values.setdefault("group_expiry", max(cls.group_expiry, expiry))
        if group_expiry < expiry:
            raise ImproperlyConfigured(
                f"group_expiry ({group_expiry} s) is shorter than expiry ({expiry} s); "
                "a channel would lose its groups while messages still wait for it. Raise it."
            )
        for name in ("client_config", "producer_config"):
            require_timeout_within(name, keywords.get(name, {}), expiry)
        return cls(**values)

    def for_stream(self, stream: StreamSettings) -> LayerConfig:
        """Return the settings with which clients of a stream are made.

        A stream's ``client_config`` stands over the layer's. With ``bootstrap_servers`` of its own
        a stream takes nothing of the layer's: its credentials are for another cluster.
        """
        if stream.bootstrap_servers is not None:
            return replace(
                self,
                bootstrap_servers=stream.bootstrap_servers,
                client_config=stream.client_config,
                producer_config={},
                consumer_config={},
                admin_config={},
            )
        if not stream.client_config:
            return self
        return replace(
            self,
            client_config=MappingProxyType(
                Properties({**self.client_config, **stream.client_config})
            ),
        )

    def capacity_of(self, channel: str) -> int:
        """Return how many messages ``channel`` may hold in memory."""
        for pattern, capacity in self.channel_capacity:
            if pattern.match(channel):
                return capacity
        return self.capacity

    def worker_settings(self, channel: str) -> WorkerSettings:
        """Return the settings of a worker channel."""
        return next(each for pattern, each in self.worker_channels if pattern.match(channel))

    def names_worker_channel(self, channel: str) -> bool:
        """Tell whether a pattern of ``worker_channels`` is for a channel."""
        # The last pattern matches all channels that no other covers.
        return self.worker_settings(channel) is not self.worker_channels[-1][1]

    @property
    def named_worker_channels(self) -> list[str]:
        """The worker channels that the settings name in full, without those of streams."""
        patterns = [settings.pattern for _, settings in self.worker_channels]
        named = [pattern for pattern in patterns if not set(pattern) & WILDCARDS]
        return [channel for channel in named if self.stream_of_worker_channel(channel) is None]

    def stream_of_worker_channel(self, channel: str) -> StreamSettings | None:
        """Return the stream whose records a worker channel gets; None if it has its own topic."""
        return next(
            (each for each in self.streams.values() if each.worker_channel == channel), None
        )

    def topic_settings(self, topic: Topic | WorkTopic) -> TopicSettings:
        """Return the provisioning of a topic."""
        if isinstance(topic, WorkTopic):
            return self.worker_settings(topic.channel).topic
        return self.topics[topic]

    @property
    def producer_max_message_bytes(self) -> int:
        """The size limit of one record batch of the producer: the largest of all its topics."""
        topics = [*self.topics.values(), *(each.topic for _, each in self.worker_channels)]
        return max(topic.max_message_bytes for topic in topics)

    def max_message_bytes(self, topic: Topic | WorkTopic) -> int:
        """Return the size limit of one record batch of ``topic``, in bytes."""
        return self.topic_settings(topic).max_message_bytes


def _own_topics(prefix: str, worker_channels: Iterable[str]) -> list[str]:
    """Return the names of the layer's topics, with one of a worker channel without settings."""
    work = [WorkTopic(channel) for channel in ("any", *worker_channels)]
    return [topic_name(prefix, topic) for topic in (*Topic, *work)]


def _fetches_token(properties: Mapping[str, Any]) -> bool:
    """Tell whether clients fetch OAUTHBEARER tokens, by ``oauth_cb`` or by librdkafka itself."""
    method = str(properties.get("sasl.oauthbearer.method", "default"))
    return "oauth_cb" in properties or method.lower() == "oidc"
