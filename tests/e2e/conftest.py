"""Fixtures of the tests with a browser."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from functools import cache
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
def painter() -> Browser:
    """One of which pictures can be taken."""
    expect.set_options(timeout=TIMEOUT)
    return chromium(paints=True)


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
def everybody(demo: Demo) -> Callable[[bool], People]:
    """By whether their browser paints; their pages live as long as the demo: the lane."""
    return cache(lambda paints: People(chromium(paints=paints), demo))


@pytest.fixture
def people(
    request: pytest.FixtureRequest, chromium: Browser, everybody: Callable[[bool], People]
) -> Iterator[People]:
    """Opens pages; fails at the end if one of them complained. For screenshots they are painted."""
    people = everybody("screenshots" in request.fixturenames)
    yield people
    complaints = [*people.complaints]
    people.leave()
    assert complaints == []
