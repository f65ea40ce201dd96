"""Every test of this folder runs three times: in memory, on the embedded broker, on Kafka."""

from __future__ import annotations

import pytest

from kafka_layer.kafka.embedded import EmbeddedBroker
from tests.support.layers import Backend, embedded_backend, kafka_backend, memory_backend


@pytest.fixture(scope="session", params=["memory", "embedded", "kafka"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "memory":
        return memory_backend()
    if request.param == "embedded":
        embedded: EmbeddedBroker = request.getfixturevalue("embedded")
        return embedded_backend(embedded)
    return kafka_backend(request.getfixturevalue("kafka"))
