"""Who is measured: each layer with its server and settings, and the floor.

``capacity`` is raised for the layers that lose what exceeds it: otherwise every figure of theirs
would be a figure of its default. Ours keeps its default.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import servers
from .servers import Missing, Server
from .workers import PortSpec

_PREFIX = f"bench-{secrets.token_hex(3)}"
_FLOOR_TOPIC = f"{_PREFIX}-floor"
_FLOOR_PARTITIONS = 10
_ROOMY = 1_000_000


@dataclass(frozen=True)
class Contender:
    """A layer that can be measured.

    Attributes:
        name: As on the command line.
        label: As in tables.
        server: Starts what it needs.
        backend: Dotted path of its class; empty for bare clients.
        config: Its keywords, from its server's address.
        packages: Distributions whose versions belong in the report; the first must be installed.
        by_default: Whether it is measured when nobody is named.
        source: The folder that its package is imported from; empty for the usual one.
    """

    name: str
    label: str
    server: Callable[[], AbstractContextManager[Server]]
    backend: str
    config: Callable[[str], dict[str, Any]]
    packages: tuple[str, ...]
    by_default: bool = True
    source: str = ""

    @property
    def is_floor(self) -> bool:
        """Whether it is no layer but bare clients."""
        return not self.backend


@dataclass(frozen=True)
class Running:
    """A contender whose server runs, and what its workers are told."""

    contender: Contender
    spec: PortSpec
    server: Server


@dataclass
class Started:
    """The contenders that run, why others do not, and versions of servers and packages."""

    running: list[Running] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def start(contenders: list[Contender]) -> Iterator[Started]:
    """Start the servers of contenders, each once; leave out those that something is missing for."""
    started = Started()
    up: dict[Any, Server] = {}
    with ExitStack() as stack:
        for each in contenders:
            try:
                if not _version(each.packages[0]):
                    raise Missing(f"the package {each.packages[0]} is not installed")
                if each.server not in up:
                    up[each.server] = stack.enter_context(each.server())
            except Missing as reason:
                started.skipped[each.name] = str(reason)
                continue
            server = up[each.server]
            name, _, started.versions[name] = server.version.partition(" ")
            versions = {package: _version(package) for package in each.packages}
            started.versions |= {package: found for package, found in versions.items() if found}
            spec = PortSpec(each.name, each.backend, each.config(server.address), each.source)
            started.running.append(Running(each, spec, server))
        if servers.kafka in up:
            stack.enter_context(_floor_topic(up[servers.kafka]))
        yield started


def checkout(name: str, folder: Path) -> Contender:
    """Return kafka_layer as it is in a folder, with topics of its own."""
    made = _kafka_layer(prefix=f"{_PREFIX}-{name}")
    return replace(made, name=name, label=name, source=str(folder.resolve()))


def _kafka_layer(suffix: str = "", label: str = "", **config: Any) -> Contender:
    return Contender(
        f"kafka{suffix}",
        f"kafka_layer{label}",
        servers.kafka,
        "kafka_layer.layer.KafkaChannelLayer",
        lambda address: {"bootstrap_servers": address, "prefix": _PREFIX, **config},
        ("kafka-layer", "confluent-kafka", "ormsgpack"),
        by_default=not suffix,
    )


def _producer(suffix: str, label: str, **properties: Any) -> Contender:
    return _kafka_layer(suffix, label, producer_config=properties)


def _floor(
    suffix: str = "", label: str = "bare clients", backend: str = "", **properties: Any
) -> Contender:
    given = {"topic": _FLOOR_TOPIC, "partitions": _FLOOR_PARTITIONS, "producer_config": properties}
    return Contender(
        f"floor{suffix}",
        f"floor: {label}",
        servers.kafka,
        backend,
        lambda address: {"bootstrap_servers": address, **given},
        ("confluent-kafka",),
        by_default=not properties,
    )


def _redis(name: str, label: str, backend: str) -> Contender:
    return Contender(
        name,
        f"channels_redis {label}",
        servers.redis,
        f"channels_redis.{backend}",
        lambda address: {"hosts": [f"redis://{address}"], "capacity": _ROOMY},
        ("channels-redis", "redis", "hiredis"),
    )


_nats = Contender(
    "nats",
    "channels-nats",
    servers.nats,
    "channels_nats.NatsChannelLayer",
    lambda address: {"servers": f"nats://{address}", "capacity": _ROOMY},
    ("channels-nats", "nats-py"),
)

CONTENDERS: Mapping[str, Contender] = {
    each.name: each
    for each in (
        _floor(),
        _floor(":layer", "smallest layer", "benchmarks.floor.SmallestLayer"),
        _kafka_layer(),
        _redis("redis-pubsub", "pub/sub", "pubsub.RedisPubSubChannelLayer"),
        _redis("redis-core", "core", "core.RedisChannelLayer"),
        _nats,
        # Settings that trade one thing for another; named on the command line only.
        _kafka_layer(":await", ", await_produce", await_produce=True),
        _kafka_layer(":capacity-1000", ", capacity=1000", capacity=1000),
        _producer(":linger-5", ", linger.ms=5", **{"linger.ms": 5}),
        _producer(":linger-25", ", linger.ms=25", **{"linger.ms": 25}),
        _producer(
            *(":in-flight-5", ", 5 requests in flight"),
            **{"max.in.flight.requests.per.connection": 5},
        ),
        _producer(":lz4", ", lz4", **{"compression.type": "lz4"}),
        _producer(":zstd", ", zstd", **{"compression.type": "zstd"}),
        _kafka_layer(":json", ", JSON", serializer_format="json"),
        _kafka_layer(":encrypted", ", encrypted", symmetric_encryption_keys=["benchmark"]),
        _floor(":acks-1", "bare clients, acks=1", **{"acks": "1", "enable.idempotence": False}),
        _floor(":acks-0", "bare clients, acks=0", **{"acks": "0", "enable.idempotence": False}),
    )
}
"""By name; the floor and our layer first, then the peers."""


def _version(package: str) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return ""


@contextlib.contextmanager
def _floor_topic(kafka: Server) -> Iterator[None]:
    """Make the floor's topic; a broker that goes on afterwards is left without any of this run."""
    from confluent_kafka.admin import AdminClient, NewTopic

    client = AdminClient({"bootstrap.servers": kafka.address})
    topic = NewTopic(_FLOOR_TOPIC, num_partitions=_FLOOR_PARTITIONS)
    client.create_topics([topic])[_FLOOR_TOPIC].result()
    try:
        yield
    finally:
        if kafka.pid is None:
            topics = client.list_topics(timeout=10).topics
            ours = [name for name in topics if name.startswith(_PREFIX)]
            for future in client.delete_topics(ours).values():
                future.result()
