"""Who is measured: each layer with its server and settings, and the floor.

``capacity`` is raised for the layers that lose what exceeds it: otherwise every figure of theirs
would be a figure of its default. Ours keeps its default.
"""

from __future__ import annotations

import compileall
import contextlib
import importlib.metadata
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import servers
from .servers import Server, Skipped
from .workers import PortSpec, forkserver

_PREFIX = f"bench-{secrets.token_hex(3)}"
_FLOOR_TOPIC = f"{_PREFIX}-floor"
_FLOOR_PARTITIONS = 10
_ROOMY = 1_000_000
_PRELOADED = ["benchmarks.subjects", "channels.layers", "confluent_kafka", "cryptography.fernet"]


@dataclass(frozen=True, kw_only=True)
class Contender(PortSpec):
    """A layer, or bare clients, with a server; ``{address}`` in the configuration is the server's.

    Attributes:
        label: As in tables.
        server: What of ``servers`` it needs.
        packages: Distributions whose versions belong in the report; the first must be installed.
        by_default: Whether it is measured when nobody is named.
        server_pid: The process of its server; None unless that was started here.
    """

    label: str
    server: str
    packages: tuple[str, ...]
    by_default: bool = True
    server_pid: int | None = None


@dataclass
class Started:
    """The contenders that run, why others do not, and versions of servers and packages."""

    running: list[Contender] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def start(contenders: list[Contender]) -> Iterator[Started]:
    """Start the servers of contenders, each once; leave out those that something is missing for."""
    backends = [each.backend.rpartition(".")[0] for each in contenders if not each.source]
    forkserver.set_forkserver_preload([*_PRELOADED, *filter(None, backends)])
    started = Started()
    up: dict[str, Server] = {}
    with ExitStack() as stack:
        for each in contenders:
            try:
                if not _version(each.packages[0]):
                    raise Skipped(f"the package {each.packages[0]} is not installed")
                if each.server not in up:
                    up[each.server] = stack.enter_context(getattr(servers, each.server)())
            except (Skipped, ChildProcessError) as reason:
                started.skipped[each.name] = str(reason)
                continue
            server = up[each.server]
            name, _, started.versions[name] = server.version.partition(" ")
            started.versions |= {of: found for of in each.packages if (found := _version(of))}
            config = json.loads(json.dumps(each.config).replace("{address}", server.address))
            started.running.append(replace(each, config=config, server_pid=server.pid))
        if "kafka" in up:
            stack.enter_context(_floor_topic(up["kafka"]))
        yield started


def checkout(name: str, folder: Path) -> Contender:
    """Return kafka_layer as it is in a folder, with topics of its own."""
    # As an installed one is: the compiler would leave 2 MiB behind in each process.
    compileall.compile_dir(folder / "kafka_layer", quiet=1)
    made = _kafka_layer(prefix=f"{_PREFIX}-{name}")
    return replace(made, name=name, label=name, source=str(folder.resolve()))


def _kafka_layer(suffix: str = "", label: str = "", **config: Any) -> Contender:
    return Contender(
        f"kafka{suffix}",
        "kafka_layer.layer.KafkaChannelLayer",
        {"bootstrap_servers": "{address}", "prefix": _PREFIX, **config},
        label=f"kafka_layer{label}",
        server="kafka",
        packages=("kafka-layer", "confluent-kafka", "ormsgpack"),
        by_default=not suffix,
    )


def _floor(
    suffix: str = "", label: str = "bare clients", backend: str = "", **properties: Any
) -> Contender:
    given = {"topic": _FLOOR_TOPIC, "partitions": _FLOOR_PARTITIONS, "producer_config": properties}
    return Contender(
        f"floor{suffix}",
        backend,
        {"bootstrap_servers": "{address}", **given},
        label=f"floor: {label}",
        server="kafka",
        packages=("confluent-kafka",),
        by_default=not properties,
    )


def _redis(name: str, label: str, backend: str) -> Contender:
    return Contender(
        name,
        f"channels_redis.{backend}",
        {"hosts": ["redis://{address}"], "capacity": _ROOMY},
        label=f"channels_redis {label}",
        server="redis",
        packages=("channels-redis", "redis", "hiredis"),
    )


CONTENDERS: Mapping[str, Contender] = {
    each.name: each
    for each in (
        _floor(),
        _floor(":layer", "smallest layer", "benchmarks.floor.SmallestLayer"),
        _kafka_layer(),
        _redis("redis-pubsub", "pub/sub", "pubsub.RedisPubSubChannelLayer"),
        _redis("redis-core", "core", "core.RedisChannelLayer"),
        Contender(
            "nats",
            "channels_nats.NatsChannelLayer",
            {"servers": "nats://{address}", "capacity": _ROOMY},
            label="channels-nats",
            server="nats",
            packages=("channels-nats", "nats-py"),
        ),
        # Settings that trade one thing for another; named on the command line only.
        _kafka_layer(":await", ", await_produce", await_produce=True),
        _kafka_layer(":capacity-1000", ", capacity=1000", capacity=1000),
        _kafka_layer(":linger-5", ", linger.ms=5", producer_config={"linger.ms": 5}),
        _kafka_layer(":linger-25", ", linger.ms=25", producer_config={"linger.ms": 25}),
        _kafka_layer(
            *(":in-flight-5", ", 5 requests in flight"),
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
