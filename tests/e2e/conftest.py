"""Fixtures of the tests with a browser."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.support import lanes
from tests.support.browsers import chromium

from .browser import TIMEOUT, People
from .demo import Demo


@pytest.fixture(scope="module", name="chromium")
def running_chromium() -> Browser:
    expect.set_options(timeout=TIMEOUT)
    return chromium()


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("DEMO_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def room() -> str:
    return f"room-{secrets.token_hex(3)}"


@pytest.fixture(scope="session")
def demo(kafka: str) -> Iterator[Demo]:
    """A demo with two workers and one for jobs; tests may kill workers, which come back."""
    with Demo("--job-workers", "1", workers=2, kafka=kafka) as running:

        def end() -> None:
            running.stop()
            assert running.exit_code == 0

        lanes.at_end(end)
        yield running


@pytest.fixture(scope="session")
def everybody(demo: Demo) -> People:
    """Their browsers live as long as the demo: both end with the lane."""
    return People(chromium(), demo)


@pytest.fixture
def people(chromium: Browser, everybody: People) -> Iterator[People]:
    """Opens pages; fails at the end if one of them complained."""
    yield everybody
    complaints = [*everybody.complaints]
    everybody.leave()
    assert complaints == []
