"""Every test of this folder runs three times: in memory, on the embedded broker, on Kafka."""

from __future__ import annotations

import pytest

from tests.support.layers import Backend, backend_named, backends, unhurried


@pytest.fixture(scope="module", params=backends("memory", "embedded", "kafka"))
def backend(request: pytest.FixtureRequest) -> Backend:
    return unhurried(backend_named(request.param, request))
