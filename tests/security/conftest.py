"""Layers of this folder are on a broker that asks who is there, and denies what no ACL allows."""

from __future__ import annotations

import pytest

from tests.support.layers import Backend, kafka_backend
from tests.support.secure import SecureBroker


@pytest.fixture(scope="session")
def backend(secure: SecureBroker) -> Backend:
    """The same broker for who may do everything; other CONFIG keywords make somebody else."""
    return kafka_backend(secure.plain["bootstrap_servers"])
