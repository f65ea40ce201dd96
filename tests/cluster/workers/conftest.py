"""Worker channels on the shared broker, whose groups notice a dead worker within seconds."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer

from kafka_layer.layer import KafkaChannelLayer
from tests.cluster.workers.processes import Crew, CrewOf, Nursery
from tests.support.inspect import server_of
from tests.support.layers import Backend, Layers, kafka_backend
from tests.support.records import create_topic
from tests.support.waiting import wait_until

SESSION_MS = 3_000
"""How long a worker that was killed keeps its share here; 10 s and 45 s are the defaults."""


@pytest.fixture(scope="session")
def kafka(shared_broker: str) -> str:
    """What layers of this folder run on, once it has formed a first group.

    The first group of all waits for the broker to create the topic of positions.
    """
    name = f"warm-up-{secrets.token_hex(4)}"
    create_topic(shared_broker, name)
    consumer = Consumer({"bootstrap.servers": shared_broker, "group.id": name, "log_level": 0})
    consumer.subscribe([name])
    wait_until(lambda: consumer.poll(0.05) or consumer.assignment(), "a group to form", 60)
    consumer.close()
    return shared_broker


@pytest.fixture(scope="session")
def backend(kafka: str) -> Backend:
    # Its own: the one of all tests may have been made already, with their broker.
    return kafka_backend(kafka)


@pytest.fixture(params=["classic", "consumer"])
def protocol(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The CONFIG keywords of each group protocol, both with sessions of ``SESSION_MS``."""
    config: dict[str, Any] = {"worker_group_protocol": request.param}
    if request.param == "classic":
        config["consumer_config"] = {"session.timeout.ms": SESSION_MS}
    return config


@pytest.fixture
def config(
    backend: Backend,
    make_layer: Layers,
    protocol: dict[str, Any],
    request: pytest.FixtureRequest,
) -> dict[str, Any]:
    """CONFIG keywords of workers, with as many partitions as the module's ``PARTITIONS``."""
    return {
        **backend.config,
        "prefix": make_layer.prefix,
        "expiry": 300,
        "default_partitions": request.module.PARTITIONS,
        **protocol,
    }


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Starts ``runworker`` processes, as forks of one that has imported all."""
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def forked(tmp_path: Path, config: dict[str, Any], nursery: Nursery) -> CrewOf:
    """Makes the crew of a test that is not about the command itself: of forks, on some channels."""
    return lambda *channels: Crew(tmp_path, channels, config, nursery=nursery)


@pytest.fixture
def channel() -> str:
    """The name of a worker channel that no other test uses."""
    return f"jobs.{secrets.token_hex(4)}"


def working(layer: KafkaChannelLayer, channel: str) -> bool:
    """Tell whether a receive waits on a worker channel."""
    mailbox = server_of(layer).jobs.mailbox(channel)
    return mailbox is not None and mailbox.receiving
