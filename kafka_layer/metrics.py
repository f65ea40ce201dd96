"""The figures of the layers of this process for Prometheus: ``kafka-layer[prometheus]``.

``"metrics": True`` in CONFIG registers them with prometheus_client's default registry, which
``prometheus_client.start_http_server``, django-prometheus and ``kafka_layer.views.metrics`` show.
Each scrape reads ``stats()``. docs/operations.md has the meaning of each metric.
"""

from __future__ import annotations

import importlib.metadata
import os
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol, get_args, runtime_checkable

from channels.layers import channel_layers
from django.core.exceptions import ImproperlyConfigured

from . import __version__
from .config.threads import Lock
from .exceptions import Cause, Reason
from .stats import LayerStats

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
        Metric,
    )
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.multiprocess import MultiProcessCollector
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImproperlyConfigured(
        "kafka_layer.metrics needs prometheus_client. Run: pip install 'kafka-layer[prometheus]'"
    ) from error

__all__ = ["LayerCollector", "Measured", "exposition", "register"]


@runtime_checkable
class Measured(Protocol):
    """A layer, as a collector sees it."""

    def measure(self) -> None:
        """Measure from now on what is not measured always; see ``KafkaChannelLayer.measure``."""

    def stats(self) -> LayerStats:
        """Return the figures; no I/O."""


_Values = Iterable[tuple[tuple[str, ...], float]]


class _Described(NamedTuple):
    """A metric.

    Attributes:
        name: Its name without ``kafka_layer_`` and without the ``_total`` of counters.
        help: Its meaning, for the exposition.
        labels: Its labels beside ``alias``.
        values: Returns its values, each with the values of these labels.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    values: Callable[[LayerStats], _Values]


def _of(name: str) -> Callable[[LayerStats], _Values]:
    """Return a function that reads one figure, a number, as the value of a metric."""
    return lambda stats: [((), getattr(stats, name))]


def _by(name: str, *known: str) -> Callable[[LayerStats], _Values]:
    """Return a function that reads one figure, a mapping, as the values of a metric by label.

    ``rate`` and ``increase`` of Prometheus miss the first event of a counter that appears with that
    event. So the counters of the known labels exist from the start, with the value 0.
    """
    zeros = dict.fromkeys(known, 0)
    return lambda stats: [
        ((label,), number) for label, number in {**zeros, **getattr(stats, name)}.items()
    ]


_KINDS = ("group", "user", "all", "channel", "job", "stream")

# Why a record of a stream may fail; docs/streams.md explains the causes.
_STREAM_ERRORS = ("function", "name", "schema", "template", "undecodable", "retention")

# States of a stream in which its records do not reach channels, though they should.
_DOWN = frozenset({"waiting", "held up", "stopped"})


def _recoveries(stats: LayerStats) -> _Values:
    yield ("recovered",), stats.recovered
    for reason in get_args(Reason):
        yield (reason,), stats.not_recovered.get(reason, 0)


def _jobs(stats: LayerStats) -> _Values:
    for channel in {**stats.jobs, **stats.backlog}:
        ended = stats.jobs.get(channel, {})
        for outcome in ("done", "failed"):
            yield (channel, outcome), ended.get(outcome, 0)


def _stream_records(stats: LayerStats) -> _Values:
    for name, told in stats.streams.items():
        yield (name, "read"), told["records"]
        yield (name, "filtered"), told["filtered"]
        for cause in dict.fromkeys((*_STREAM_ERRORS, *told["errors"])):
            yield (name, cause), told["errors"].get(cause, 0)


_COUNTERS = (
    _Described(
        "messages_sent",
        "Records handed to the producer.",
        ("kind",),
        _by("sent_by_kind", *_KINDS, "command"),
    ),
    _Described(
        "messages_delivered",
        "Messages put into channels of this process.",
        ("kind",),
        _by("delivered_by_kind", *_KINDS),
    ),
    _Described(
        "messages_dropped",
        "Messages that reached no receiver.",
        ("cause",),
        _by("dropped", *get_args(Cause)),
    ),
    _Described(
        "messages_refused",
        "Sends that raised ChannelFull.",
        ("cause",),
        _by("refused", "full", "overflow"),
    ),
    _Described("errors", "Errors of Kafka's clients and of the layer.", ("name",), _by("errors")),
    _Described(
        "reconnects", "Times that a broker answered after all were lost.", (), _of("reconnects")
    ),
    _Described(
        "clients_replaced",
        "Kafka clients that stopped working and were replaced.",
        ("client",),
        _by("replaced", "consumer", "producer"),
    ),
    _Described("recoveries", "Recoveries of channels.", ("outcome",), _recoveries),
    _Described(
        "recovered_messages",
        "Messages that recoveries replayed.",
        (),
        _of("recovered_messages"),
    ),
    _Described("worker_jobs", "Jobs that ended here.", ("channel", "outcome"), _jobs),
    _Described("stream_records", "Records of streams.", ("stream", "outcome"), _stream_records),
)

_GAUGES = (
    _Described(
        "connected",
        "1 while a broker is reached, 0 while all are lost; absent before the first use.",
        (),
        lambda stats: [] if stats.state == "idle" else [((), stats.state == "connected")],
    ),
    _Described(
        "consumer_lag_records",
        "Records in the log that this process has not read, some seconds ago.",
        ("topic",),
        _by("lag_by_topic"),
    ),
    _Described(
        "producer_queue_records",
        "Records that wait for the broker's acknowledgement.",
        (),
        _of("queued"),
    ),
    _Described(
        "waiting_messages", "Messages in memory that no receive has taken.", (), _of("waiting")
    ),
    _Described("channels", "Open channels.", (), _of("channels")),
    _Described("groups", "Groups with a member in this process.", (), _of("groups")),
    _Described("users", "Users with a channel in this process.", (), _of("users")),
    _Described(
        "lagging_channels",
        "Tracked channels that read on from the recent records.",
        (),
        _of("behind"),
    ),
    _Described("recent_bytes", "Bytes of the recent records in memory.", (), _of("recent_bytes")),
    _Described(
        "worker_backlog_records",
        "Records that no worker has taken, in this process's share of the partitions.",
        ("channel",),
        _by("backlog"),
    ),
    _Described(
        "stream_up",
        "0 while a stream is stopped, held up or waits for its topic; else 1.",
        ("stream",),
        lambda stats: [
            ((name,), told["state"] not in _DOWN) for name, told in stats.streams.items()
        ],
    ),
    _Described(
        "stream_lag_records",
        "Records of a stream that this process has not read, some seconds ago.",
        ("stream",),
        lambda stats: [((name,), told["lag"]) for name, told in stats.streams.items()],
    ),
)


class LayerCollector(Collector):
    """A collector of prometheus_client; reads ``stats()`` of the layers at each scrape.

    ``"metrics": True`` in CONFIG registers one. To have the figures in a registry of your own,
    write ``registry.register(LayerCollector())``.

    Args:
        layers: The layers, by the value of the label ``alias``; None: those of ``CHANNEL_LAYERS``
            that this process has used by the time of the scrape.
    """

    def __init__(self, layers: Mapping[str, Measured] | None = None) -> None:
        self._layers = layers
        # Serializes the scrapes.
        self._lock = Lock()
        # By alias: when its counters began, and the highest value of each. A counter must not fall,
        # but the layer subtracts messages that a receive gives back.
        self._greatest: dict[str, tuple[float, Counter[tuple[str, ...]]]] = {}

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without values; a registry then refuses a second collector."""
        return self._metrics({})

    def collect(self) -> Iterable[Metric]:
        """Return the metrics; no I/O."""
        with self._lock:
            layers = _present() if self._layers is None else self._layers
            figures: dict[str, LayerStats] = {}
            for alias, layer in layers.items():
                layer.measure()
                figures[alias] = layer.stats()
            return list(self._metrics(figures))

    def _metrics(self, figures: Mapping[str, LayerStats]) -> Iterator[Metric]:
        for each in _COUNTERS:
            counter = CounterMetricFamily(
                f"kafka_layer_{each.name}", each.help, labels=("alias", *each.labels)
            )
            for alias, stats in figures.items():
                for labels, value in each.values(stats):
                    risen = self._risen(alias, stats, (each.name, *labels), value)
                    counter.add_metric((alias, *labels), risen)
            yield counter
        for each in _GAUGES:
            gauge = GaugeMetricFamily(
                f"kafka_layer_{each.name}", each.help, labels=("alias", *each.labels)
            )
            for alias, stats in figures.items():
                for labels, value in each.values(stats):
                    gauge.add_metric((alias, *labels), value)
            yield gauge
        yield self._ages(figures)
        yield self._build(figures)

    def _risen(self, alias: str, stats: LayerStats, key: tuple[str, ...], value: float) -> float:
        since, greatest = self._greatest.get(alias, (None, Counter()))
        if since != stats.since:
            # A new server, which counts from 0.
            greatest = Counter()
            self._greatest[alias] = stats.since, greatest
        greatest[key] = max(greatest[key], int(value))
        return greatest[key]

    def _ages(self, figures: Mapping[str, LayerStats]) -> Metric:
        ages = HistogramMetricFamily(
            "kafka_layer_message_age_seconds",
            "From the time at which the broker took a message to the receive that took it.",
            labels=("alias",),
        )
        for alias, stats in figures.items():
            told = stats.ages
            if told is not None:
                bounds = (*map(str, told.bounds), "+Inf")
                ages.add_metric((alias,), list(zip(bounds, told.counts, strict=True)), told.total)
        return ages

    def _build(self, figures: Mapping[str, LayerStats]) -> Metric:
        build = InfoMetricFamily(
            "kafka_layer_build", "The versions of the package and its client.", labels=("alias",)
        )
        versions = {
            "version": __version__,
            "confluent_kafka": importlib.metadata.version("confluent-kafka"),
        }
        for alias in figures:
            build.add_metric((alias,), versions)
        return build


# The registries that ``register`` has given a collector.
_registered: weakref.WeakSet[CollectorRegistry] = weakref.WeakSet()
_registering = Lock()


def register(registry: CollectorRegistry = REGISTRY) -> None:
    """Give a registry a collector of the layers in ``CHANNEL_LAYERS``. Idempotent; any thread.

    Raises:
        ImproperlyConfigured: If the registry has a ``LayerCollector`` already, by hand.
    """
    with _registering:
        if registry in _registered:
            return
        try:
            registry.register(LayerCollector())
        except ValueError as error:
            raise ImproperlyConfigured(
                '"metrics": True in CONFIG registers the LayerCollector, and this program has '
                "registered one by hand, too. Remove one of the two: with both, Prometheus would "
                "get every figure twice."
            ) from error
        _registered.add(registry)


def exposition(accept: str = "") -> tuple[bytes, str]:
    """Return the metrics of this process, in OpenMetrics or in Prometheus' text format.

    With ``PROMETHEUS_MULTIPROC_DIR`` the metrics of other packages are those of all processes; the
    layer's are of this process in any case.

    Args:
        accept: The header ``Accept`` of the request.

    Returns:
        The body, and its content type.
    """
    encode, content_type = choose_encoder(accept)
    return encode(_registry()), content_type


def _registry() -> CollectorRegistry:
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call, unused-ignore]
        registry.register(LayerCollector())
        return registry
    try:
        register()
    except ImproperlyConfigured:
        # The project has registered a collector itself: use that one.
        with _registering:
            _registered.add(REGISTRY)
    return REGISTRY


def _present() -> dict[str, Measured]:
    """Return the layers of ``CHANNEL_LAYERS`` that this process has made so far."""
    present = dict(channel_layers.backends)
    return {alias: layer for alias, layer in present.items() if isinstance(layer, Measured)}
