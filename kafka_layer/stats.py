"""``LayerStats``, which ``layer.stats()`` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

__all__ = ["Ages", "LayerStats"]


class Ages(NamedTuple):
    """How old messages were when receives took them, since the broker appended their records.

    Attributes:
        bounds: Upper bounds, in seconds.
        counts: For each bound how many messages were not older, and at the end how many there were.
        total: The sum of their ages, in seconds.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True)
class LayerStats:
    """The counters of a layer since its first use, and its present state.

    Attributes:
        server: The server's name, or None while it does not receive.
        state: ``idle`` before the first use, then ``connected`` or ``disconnected``.
        sent: Records handed to the producer.
        delivered: Messages put into channels of this server.
        failed: Records that the broker did not take.
        dropped: Messages that the layer dropped, by cause.
        refused: Sends that raised ``ChannelFull``, by cause.
        errors: Errors of Kafka's clients and of the layer's threads, by name.
        reconnects: How often a broker answered again after all were lost.
        channels: Open channels.
        groups: Groups with a member on this server.
        users: Users with a channel on this server.
        waiting: Messages in memory that no receive has taken yet.
        queued: Records that wait for the broker's acknowledgement.
        lag: Records in the log that this server had not read yet, some seconds ago.
        latency_p50: Median age of arriving records, in seconds; None before the first.
        latency_p99: 99th percentile of the ages; None before the first.
        replaced: Kafka clients that stopped working and were replaced, by kind (``consumer``,
            ``producer``).
        recovered: Recoveries that replayed all that was missed.
        not_recovered: Recoveries that replayed nothing, by reason.
        behind: Tracked channels that read on from the recent records, because they are slow.
        recent_bytes: Bytes of the recent records in memory; 0 before a channel is tracked.
        streams: The figures of each stream that this server reads, by its name: ``state`` and
            ``detail``, ``topics``, ``partitions``, ``lag``, ``records``, ``records_per_second``,
            ``delivered``, ``filtered``, ``errors`` by cause, ``replaced``.
        sent_by_kind: ``sent`` by kind: ``group``, ``user``, ``all``, ``channel``, ``job``,
            ``stream``, and ``command`` for what servers tell each other.
        delivered_by_kind: ``delivered`` by kind.
        lag_by_topic: ``lag`` by Kafka's name of the topic.
        recovered_messages: Messages that recoveries replayed.
        jobs: How the jobs of this process ended, by worker channel: ``done`` and ``failed``.
        backlog: By worker channel: records in this process's share of the partitions that no worker
            has taken, some seconds ago. Empty before ``measure()``.
        ages: The ages of messages that receives took; None before ``measure()``. Without jobs,
            records of streams, and what stayed within the process.
        since: When the counters began, in seconds since the epoch.
    """

    server: str | None = None
    state: Literal["idle", "connected", "disconnected"] = "idle"
    sent: int = 0
    delivered: int = 0
    failed: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    reconnects: int = 0
    channels: int = 0
    groups: int = 0
    users: int = 0
    waiting: int = 0
    queued: int = 0
    lag: int = 0
    latency_p50: float | None = None
    latency_p99: float | None = None
    replaced: Mapping[str, int] = field(default_factory=dict)
    recovered: int = 0
    not_recovered: Mapping[str, int] = field(default_factory=dict)
    behind: int = 0
    recent_bytes: int = 0
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sent_by_kind: Mapping[str, int] = field(default_factory=dict)
    delivered_by_kind: Mapping[str, int] = field(default_factory=dict)
    lag_by_topic: Mapping[str, int] = field(default_factory=dict)
    recovered_messages: int = 0
    jobs: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    backlog: Mapping[str, int] = field(default_factory=dict)
    ages: Ages | None = None
    since: float = 0.0
