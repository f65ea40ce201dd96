"""Who is measured: each layer with its server and settings, and the floor.

``capacity`` is raised for the layers that lose what exceeds it: otherwise every figure of theirs
would be a figure of its default. Ours keeps its default.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import servers
from .ports import PortSpec
from .servers import Missing, Server

__all__ = ["CONTENDERS", "Contender", "Running", "from_settings", "start"]

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
        server: Starts what it needs; None if it needs nothing.
        backend: Dotted path of its class; empty for bare clients.
        config: Its keywords, from its server's address.
        packages: Distributions whose versions belong in the report; the first must be installed.
        by_default: Whether it is measured when nobody is named.
    """

    name: str
    label: str
    server: Callable[[], AbstractContextManager[Server]] | None
    backend: str
    config: Callable[[str], dict[str, Any]]
    packages: tuple[str, ...] = ()
    by_default: bool = True

    @property
    def is_floor(self) -> bool:
        """Whether it is no layer but bare clients."""
        return not self.backend


@dataclass(frozen=True)
class Running:
    """A contender whose server runs.

    Attributes:
        contender: Which one.
        spec: What its workers are told.
        server: Its server, if it has one.
    """

    contender: Contender
    spec: PortSpec
    server: Server | None


@dataclass
class Started:
    """All contenders that run.

    Attributes:
        running: They.
        skipped: The others, with the reason.
        versions: Of servers and packages.
    """

    running: list[Running] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def start(contenders: list[Contender]) -> Iterator[Started]:
    """Start the servers of contenders, each once; leave out those that something is missing for."""
    started = Started()
    up: dict[Any, Server] = {}
    with ExitStack() as stack:
        for contender in contenders:
            try:
                _require_packages(contender)
                server = None
                if contender.server is not None:
                    if contender.server not in up:
                        up[contender.server] = stack.enter_context(contender.server())
                    server = up[contender.server]
            except Missing as reason:
                started.skipped[contender.name] = str(reason)
                continue
            for package in contender.packages:
                with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                    started.versions[package] = importlib.metadata.version(package)
            if server is not None:
                name, _, version = server.version.partition(" ")
                started.versions[name] = version
            config = contender.config(server.address if server else "")
            started.running.append(Running(contender, PortSpec(contender.backend, config), server))
        if servers.kafka in up:
            _create_floor_topic(up[servers.kafka].address)
        try:
            yield started
        finally:
            if servers.kafka in up and up[servers.kafka].pid is None:
                _delete_topics(up[servers.kafka].address)


def from_settings(path: Path) -> list[Contender]:
    """Read contenders from a JSON file like ``CHANNEL_LAYERS``; their servers must run."""
    layers: Mapping[str, Any] = json.loads(path.read_text())
    return [
        Contender(name, name, None, each["BACKEND"], lambda _, each=each: each.get("CONFIG", {}))
        for name, each in layers.items()
    ]


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


def _floor(
    suffix: str = "", label: str = "bare clients", backend: str = "", **producer_config: Any
) -> Contender:
    return Contender(
        f"floor{suffix}",
        f"floor: {label}",
        servers.kafka,
        backend,
        lambda address: {
            "bootstrap_servers": address,
            "topic": _FLOOR_TOPIC,
            "partitions": _FLOOR_PARTITIONS,
            "producer_config": producer_config,
        },
        ("confluent-kafka",),
        by_default=not producer_config,
    )


def _redis(name: str, label: str, backend: str) -> Contender:
    return Contender(
        name,
        label,
        servers.redis,
        backend,
        lambda address: {"hosts": [f"redis://{address}"], "capacity": _ROOMY},
        ("channels-redis", "redis", "hiredis"),
    )


CONTENDERS: Mapping[str, Contender] = {
    each.name: each
    for each in (
        _floor(),
        _floor(":layer", "smallest layer", "benchmarks.smallest.SmallestLayer"),
        _kafka_layer(),
        _redis(
            "redis-pubsub",
            "channels_redis pub/sub",
            "channels_redis.pubsub.RedisPubSubChannelLayer",
        ),
        _redis("redis-core", "channels_redis core", "channels_redis.core.RedisChannelLayer"),
        Contender(
            "nats",
            "channels-nats",
            servers.nats,
            "channels_nats.NatsChannelLayer",
            lambda address: {"servers": f"nats://{address}", "capacity": _ROOMY},
            ("channels-nats", "nats-py"),
        ),
        # Settings that trade one thing for another; named on the command line only.
        _kafka_layer(":await", ", await_produce", await_produce=True),
        _kafka_layer(":capacity-1000", ", capacity=1000", capacity=1000),
        _kafka_layer(":linger-5", ", linger.ms=5", producer_config={"linger.ms": 5}),
        _kafka_layer(":linger-25", ", linger.ms=25", producer_config={"linger.ms": 25}),
        _kafka_layer(
            ":in-flight-5",
            ", 5 requests in flight",
            producer_config={"max.in.flight.requests.per.connection": 5},
        ),
        _kafka_layer(":lz4", ", lz4", producer_config={"compression.type": "lz4"}),
        _kafka_layer(":zstd", ", zstd", producer_config={"compression.type": "zstd"}),
        _kafka_layer(":json", ", JSON", serializer_format="json"),
        _kafka_layer(":encrypted", ", encrypted", symmetric_encryption_keys=["benchmark"]),
        _floor(":acks-1", "bare clients, acks=1", **{"acks": "1", "enable.idempotence": False}),
        _floor(":acks-0", "bare clients, acks=0", **{"acks": "0", "enable.idempotence": False}),
    )
}
"""By name; the floor and our layer first, then the peers."""


def _require_packages(contender: Contender) -> None:
    for package in contender.packages[:1]:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise Missing(f"the package {package} is not installed") from None


def _create_floor_topic(address: str) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    topic = NewTopic(_FLOOR_TOPIC, num_partitions=_FLOOR_PARTITIONS)
    client = AdminClient({"bootstrap.servers": address})
    for future in client.create_topics([topic]).values():
        future.result()


def _delete_topics(address: str) -> None:
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": address})
    ours = [name for name in client.list_topics(timeout=10).topics if name.startswith(_PREFIX)]
    for future in client.delete_topics(ours).values():
        future.result()
