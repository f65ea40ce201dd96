"""librdkafka properties of each client, from the layer's settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ..config.settings import LayerConfig

__all__ = [
    "Identity",
    "admin_properties",
    "consumer_properties",
    "history_properties",
    "producer_properties",
    "rights_properties",
    "stream_properties",
    "work_properties",
]

Identity = Literal["consumer_config", "producer_config"]
"""The CONFIG keyword with the credentials of a kind of clients."""


def producer_properties(config: LayerConfig) -> dict[str, Any]:
    """Return the properties of the one producer of a server."""
    topics = [*config.topics.values(), *(each.topic for _, each in config.worker_channels)]
    limits = [topic.max_message_bytes for topic in topics]
    return {
        **_COMMON,
        "enable.idempotence": True,
        "acks": "all",
        # With several requests in flight, when a leader dies and one request overtakes another,
        # librdkafka starts a new epoch for all partitions, and writes again records that another
        # leader had written without an answer (librdkafka #4953; raise this when it is closed). The
        # first records to a new partition may also overtake each other, and the broker then takes
        # the very first one for a duplicate.
        "max.in.flight.requests.per.connection": 1,
        # Java's default partitioner, so that clients in any language map a key alike.
        "partitioner": "murmur2_random",
        "linger.ms": 0,
        "message.max.bytes": config.producer_max_message_bytes,
        # A broker refuses all messages of a batch that is larger than its topic's limit.
        "batch.size": min(_BATCH_SIZE, *limits),
        # A record that waited longer in the producer would arrive expired, with a new timestamp.
        "message.timeout.ms": int(config.expiry * 1000),
        # A producer asks for no broker by itself: in an outage it opens 3 connections a second with
        # 50 ms as with 200 ms. A start waits half of it.
        "reconnect.backoff.ms": 50,
        # The layer creates topics with their settings; a broker would use its own defaults.
        "allow.auto.create.topics": False,
        **_given(config, config.producer_config),
    }


def consumer_properties(config: LayerConfig, fetch_wait: int = 100) -> dict[str, Any]:
    """Return the properties of a server's consumers of broadcast and inbox topics.

    Args:
        config: The layer's settings.
        fetch_wait: Milliseconds after which a broker answers a fetch that finds no record.
    """
    return {
        **_COMMON,
        # librdkafka wants one. The readers assign partitions by hand, so servers share nothing
        # through it.
        "group.id": config.prefix,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        # A fetch without a record waits at the broker for so long. That delays other requests to
        # this broker, and the first records of added partitions (at a start see Reader._fetch).
        "fetch.wait.max.ms": fetch_wait,
        "fetch.error.backoff.ms": 50,
        # Milliseconds that fetching pauses once 100,000 records wait in the client. With the
        # default of 1 s a reader that takes them in less time then waits for the rest of it.
        "fetch.queue.backoff.ms": 20,
        **_given(config, config.consumer_config),
    }


def history_properties(config: LayerConfig, *, of_stream: bool = False) -> dict[str, Any]:
    """Return the properties of the consumer that reads the past.

    Args:
        config: The settings of the client.
        of_stream: Whether it reads the topics of a stream, where other programs write, too.
    """
    return {
        **consumer_properties(config),
        **({"isolation.level": "read_committed"} if of_stream else {}),
        # Tells the end of a part behind which no record of the application follows.
        "enable.partition.eof": True,
        # It reads parts of the log, one after another: no fetch may wait for records to come.
        "fetch.wait.max.ms": 5,
        # Most parts are small, and the next one waits for what is fetched in vain. So there is one
        # fetch (max.partition.fetch.bytes, 1 MiB), and another one when a quarter of it is taken:
        # 120,000 records take 200 ms, as they do with 64 MiB.
        "queued.min.messages": 100_000,
        "queued.max.messages.kbytes": 768,
        "fetch.queue.backoff.ms": 1,
    }


def stream_properties(config: LayerConfig) -> dict[str, Any]:
    """Return the properties of the consumer of a stream, whose clients have these settings."""
    return {
        **consumer_properties(config),
        "isolation.level": "read_committed",
        # A transaction ends in a record that no consumer gets, so the end of a partition lies
        # behind the last record: only this event tells that all is read.
        "enable.partition.eof": True,
    }


def work_properties(config: LayerConfig, group: str, *, of_stream: bool = False) -> dict[str, Any]:
    """Return the properties of the consumer of one worker channel.

    Args:
        config: The layer's settings.
        group: The name of its consumer group.
        of_stream: Whether it reads the topic of a stream, where other programs write, too.
    """
    # With KIP-848 the broker decides on sessions and assignment and refuses these properties.
    protocol: dict[str, Any] = {"group.protocol": config.worker_group_protocol}
    if config.worker_group_protocol == "classic":
        protocol.update(
            {
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": 10_000,
                # Partitions move to a new worker with the heartbeats: in 6 s at the default of 3 s.
                "heartbeat.interval.ms": 1_000,
                # The members look for new partitions, whose jobs wait until one notices.
                "topic.metadata.refresh.interval.ms": round(config.timings.topics * 1000),
                # librdkafka's default, which is otherwise lowered to three times that interval.
                "metadata.max.age.ms": 900_000,
            }
        )
    if of_stream:
        # Tells how far the client has read where a topic ends with markers of transactions.
        protocol["enable.partition.eof"] = True
    return {
        **_COMMON,
        **protocol,
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # A group without a committed offset starts with the oldest message of the queue.
        "auto.offset.reset": "earliest",
        # A coordinator waits so long for members that do not join a rebalance, also for dead ones:
        # one that was killed and started again kept two for minutes. A member polls all the time.
        "max.poll.interval.ms": 20_000,
        "fetch.wait.max.ms": 100,
        "fetch.error.backoff.ms": 50,
        # A receive takes one message at a time. Prefetched messages cost memory, and another worker
        # fetches them again when their partition moves.
        "queued.min.messages": 100,
        "queued.max.messages.kbytes": 4096,
        # As for other consumers: a fast worker empties the queue.
        "fetch.queue.backoff.ms": 20,
        **_given(config, config.consumer_config),
    }


def admin_properties(config: LayerConfig) -> dict[str, Any]:
    """Return the properties of the short-lived admin client."""
    return {**_COMMON, **_given(config, config.admin_config)}


def rights_properties(config: LayerConfig, setting: Identity) -> dict[str, Any]:
    """Return the properties of an admin client with the credentials of other clients.

    Args:
        config: The layer's settings.
        setting: The CONFIG keyword of those clients.
    """
    own = getattr(config, setting)
    return {
        **_COMMON,
        **_given(config, {name: own[name] for name in own if name.startswith(_IDENTITY)}),
    }


# Prefixes of the properties for a client's credentials and trusted certificates.
_IDENTITY = ("security.", "sasl.", "ssl.", "enable.ssl.", "enable.sasl.", "https.", "oauth_cb")

_BATCH_SIZE = 1_000_000  # librdkafka's own default

_COMMON = {
    # Reconnect soon after a broker's port answers again. The first wait (reconnect.backoff.ms)
    # counts most, because librdkafka begins with it each time that it starts again from
    # bootstrap_servers: in an outage a consumer opens 14 connections a second with librdkafka's
    # 100 ms, and 37 with 50 ms. Half of it is what a start waits between two first connections.
    "reconnect.backoff.max.ms": 200,
    "retry.backoff.ms": 50,
    "retry.backoff.max.ms": 200,
    # With "none", a client that once got an empty broker list, as from a broker that was paused
    # until its session ended, never asks any broker again.
    "metadata.recovery.strategy": "rebootstrap",
    # librdkafka notices a connection that died in silence when a request gets no answer. The
    # default of 60 s is as long as messages live.
    "socket.timeout.ms": 10_000,
    "enable.metrics.push": False,
    "log.connection.close": False,
}


def _given(config: LayerConfig, own: Mapping[str, Any]) -> dict[str, Any]:
    return {**config.client_config, **own, "bootstrap.servers": config.bootstrap_servers}
