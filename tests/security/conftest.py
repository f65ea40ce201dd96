"""One broker for this folder, which asks who is there and denies what no ACL allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.layers import Backend, kafka_backend
from tests.support.secure import SecureBroker


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where certificates are written."""
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="package")
def secure(real_broker_tools: None, folder: Path) -> Iterator[SecureBroker]:
    """A broker with a listener for each way in, and an authorizer."""
    with SecureBroker(folder) as broker:
        yield broker


@pytest.fixture(scope="package")
def backend(secure: SecureBroker) -> Backend:
    """The same broker for who may do everything; other CONFIG keywords make somebody else."""
    return kafka_backend(secure.plain["bootstrap_servers"])
