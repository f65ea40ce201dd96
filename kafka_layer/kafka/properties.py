"""librdkafka properties of each client, from the layer's settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config.settings import LayerConfig

__all__ = [
    "admin_properties",
    "consumer_properties",
    "producer_properties",
    "rights_properties",
    "work_properties",
]


def producer_properties(config: LayerConfig) -> dict[str, Any]:
    """Return the properties of the one producer of a server."""
    topics = [*config.topics.values(), *(each.topic for _, each in config.worker_channels)]
    limits = [int(topic.config["max.message.bytes"]) for topic in topics]
    return {
        **_COMMON,
        "enable.idempotence": True,
        "acks": "all",
        # Of several requests one may overtake another that fails, as a leader dies. librdkafka then
        # starts a new epoch for all partitions, and what the dying leader of another one had
        # written without telling is written again (its issue 4953). And the first records to a new
        # partition could overtake each other: the first of all was taken for a duplicate.
        "max.in.flight.requests.per.connection": 1,
        # Java's default partitioner, so that clients in any language map a key alike.
        "partitioner": "murmur2_random",
        "linger.ms": 0,
        "message.max.bytes": max(limits),
        # A broker judges whole batches: in one over its topic's limit all messages are refused.
        "batch.size": min(_BATCH_SIZE, *limits),
        # What waited for longer than this would be dropped as expired on arrival.
        "message.timeout.ms": int(config.expiry * 1000),
        # A broker must not make up a topic: the layer provisions them with their settings.
        "allow.auto.create.topics": False,
        **_given(config, config.producer_config),
    }


def consumer_properties(config: LayerConfig) -> dict[str, Any]:
    """Return the properties of the broadcast consumer of a server."""
    return {
        **_COMMON,
        # Partitions are assigned, never subscribed to: servers share the name and nothing else.
        "group.id": config.prefix,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        # For the lag in layer.stats(); half a millisecond of work each time.
        "statistics.interval.ms": 5000,
        # Does not delay records of partitions that are fetched already, only of added ones.
        "fetch.wait.max.ms": 100,
        "fetch.error.backoff.ms": 50,
        **_given(config, config.consumer_config),
    }


def work_properties(config: LayerConfig, topic: str) -> dict[str, Any]:
    """Return the properties of the consumer of one worker channel.

    Args:
        config: The layer's settings.
        topic: Kafka's name of the channel's topic; the consumer group is named like it.
    """
    # With KIP-848 the broker decides on sessions and assignment, and refuses to be told.
    protocol: dict[str, Any] = {"group.protocol": config.worker_group_protocol}
    if config.worker_group_protocol == "classic":
        protocol.update(
            {
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": 10_000,
                # A share moves with the heartbeats: 6 s to a new worker at the default of 3 s.
                "heartbeat.interval.ms": 1_000,
            }
        )
    return {
        **_COMMON,
        **protocol,
        "group.id": topic,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # A group that has no position yet, or lost it: the queue starts with its oldest message.
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 100,
        "fetch.error.backoff.ms": 50,
        # A receive takes one message at a time; what is fetched ahead costs memory and refetching.
        "queued.min.messages": 100,
        "queued.max.messages.kbytes": 4096,
        # How long fetching rests once that much is there; the default of 1 s starves the worker:
        # it stood still for 0.66 s after 400 messages, measured.
        "fetch.queue.backoff.ms": 20,
        **_given(config, config.consumer_config),
    }


def admin_properties(config: LayerConfig) -> dict[str, Any]:
    """Return the properties of the short-lived admin client."""
    return {**_COMMON, **_given(config, config.admin_config)}


def rights_properties(config: LayerConfig) -> dict[str, Any]:
    """Return the properties of an admin client that is whom the consumers are."""
    own = config.consumer_config
    return {
        **_COMMON,
        **_given(config, {name: own[name] for name in own if name.startswith(_IDENTITY)}),
    }


# What properties that say who a client is, and whom it trusts, begin with.
_IDENTITY = ("security.", "sasl.", "ssl.", "enable.ssl.", "enable.sasl.", "https.", "oauth_cb")

_BATCH_SIZE = 1_000_000  # librdkafka's own default

# Soon back once a broker's port answers. Not metadata.recovery.strategy=none: a client that is told
# of no broker, as by one that stood still until its session ended, would never ask anybody again.
_COMMON = {
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 200,
    "retry.backoff.ms": 50,
    "retry.backoff.max.ms": 200,
    "metadata.recovery.strategy": "rebootstrap",
    # A connection that died without a word is noticed when a request gets no answer. The default of
    # 60 s is as long as messages live.
    "socket.timeout.ms": 10_000,
    "enable.metrics.push": False,
    "log.connection.close": False,
}


def _given(config: LayerConfig, own: Mapping[str, Any]) -> dict[str, Any]:
    return {**config.client_config, **own, "bootstrap.servers": config.bootstrap_servers}
