"""Brokers that tests may break: not the one that all other tests share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import AdminClient

from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.wire.topics import Topic
from tests.faults.traffic import Stream
from tests.support import lanes
from tests.support.kafka import RealBroker
from tests.support.layers import Backend, Layers, kafka_backend
from tests.support.proxy import Proxy

pytest.register_assert_rewrite("tests.faults.courses")

LayersOn = Callable[[str], Layers]

_TIMEOUT = 30.0
_SHARED = tuple(f"-{topic.value}" for topic in Topic)


@pytest.fixture(scope="session")
def one_proxy() -> Iterator[Proxy]:
    """Stands before the listener PROXIED of this folder's broker."""
    with Proxy() as proxy:
        yield proxy


@pytest.fixture(scope="session")
def one_broker(real_broker_tools: None, one_proxy: Proxy) -> Iterator[RealBroker]:
    """A broker for all tests of this folder: a start takes longer than most of them.

    Of the session, as a fixture; it ends with each lane, and starts again for another one.
    """
    with RealBroker(
        {"log.segment.delete.delay.ms": 100},
        listeners={"PROXIED": "PLAINTEXT"},
        advertised={"PROXIED": one_proxy.port},
    ) as broker:
        yield broker


@pytest.fixture
def broker(one_broker: RealBroker) -> RealBroker:
    """The broker of this folder, ready, whatever the test before did to it."""
    if one_broker.running:
        one_broker.thaw()
        # One that stood still has to find its controller again; it took more than 4 s, once.
        one_broker.wait_ready()
    else:
        one_broker.start()
    lanes.at_end(one_broker.stop)
    delete_topics(one_broker.bootstrap_servers)
    return one_broker


def delete_topics(servers: str) -> None:
    """Delete what tests before made: a broker that is started again opens every log it has.

    The topics of tests that need none of their own stay.
    """
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    topics = admin.list_topics(timeout=_TIMEOUT).topics
    if names := [name for name in topics if not name.startswith("__") and not _is_shared(name)]:
        for deleted in admin.delete_topics(names).values():
            deleted.result(_TIMEOUT)


def _is_shared(name: str) -> bool:
    return name.startswith("test-shared-") and name.endswith(_SHARED)


@functools.cache
def backend_on(servers: str) -> Backend:
    """Return the backend of brokers: one for all tests, which so share a prefix."""
    return kafka_backend(servers)


@pytest.fixture
def layers_on() -> Iterator[LayersOn]:
    """Makes what makes layers on a broker; closes them at the end, also where a course failed."""
    made: list[Layers] = []

    def layers(servers: str) -> Layers:
        made.append(Layers(backend_on(servers)))
        return made[-1]

    yield layers
    Stream.end_all()
    for each in made:
        each.close()


@pytest.fixture
def make_layer(broker: RealBroker, layers_on: LayersOn) -> Callable[..., KafkaChannelLayer]:
    """Makes layers on the folder's own broker, with topics that no other test uses."""
    return layers_on(broker.bootstrap_servers)
