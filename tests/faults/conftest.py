"""Brokers that tests may break: not the one that all other tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kafka_layer.layer import KafkaChannelLayer
from tests.support.kafka import RealBroker
from tests.support.layers import Layers, kafka_backend

LayersOn = Callable[[str], Layers]


@pytest.fixture(scope="module")
def broker(real_broker_tools: None) -> Iterator[RealBroker]:
    """A broker of a module's own."""
    with RealBroker() as broker:
        yield broker


@pytest.fixture
def layers_on() -> Iterator[LayersOn]:
    """Makes what makes layers on a broker; closes them at the end."""
    made: list[Layers] = []

    def layers(servers: str) -> Layers:
        made.append(Layers(kafka_backend(servers)))
        return made[-1]

    yield layers
    for each in made:
        each.close()


@pytest.fixture
def make_layer(broker: RealBroker, layers_on: LayersOn) -> Callable[..., KafkaChannelLayer]:
    """Makes layers on the module's own broker, with topics that no other test uses."""
    return layers_on(broker.bootstrap_servers)
