"""A browser for the tests of pages."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support import lanes

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

__all__ = ["chromium"]

_SHELL = "chromium-headless-shell"

# Blink's settings that playwright gives it, which a second list would replace, and one more.
_WITHOUT_PAINT = (
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,"
    "availablePointerTypes=4,acceleratedCompositingEnabled=false"
)

# The browsers that run, by whether they paint, and playwright's driver while one does.
_running: dict[bool, Browser] = {}
_drivers: list[Playwright] = []
_lane = contextlib.ExitStack()


def chromium(*, paints: bool = False) -> Browser:
    """Return a browser that runs until the lane ends; no event loop can run in this process then.

    It is Debian's Chromium, or the one that CHROMIUM names. The headless shell is preferred: it
    draws no windows, and takes a third of the processor time. Without one the test is skipped, or
    fails where KAFKA_LAYER_REQUIRE_BROWSER=1 asks for it.

    Args:
        paints: Whether screenshots can be taken. Without paint, pages have their layout and their
            styles all the same, at half of the processor time.
    """
    if paints not in _running:
        lanes.at_end(_lane.close)
        _running[paints] = _started(paints)
    return _running[paints]


def _started(paints: bool) -> Browser:
    path = os.environ.get("CHROMIUM") or shutil.which(_SHELL) or shutil.which("chromium")
    if path is None:
        if os.environ.get("KAFKA_LAYER_REQUIRE_BROWSER") == "1":
            pytest.fail("No chromium on PATH (KAFKA_LAYER_REQUIRE_BROWSER=1)", pytrace=False)
        pytest.skip(f"No chromium on PATH: install Debian's {_SHELL}, or name one with CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api")
    if not _drivers:
        _lane.callback(_drivers.clear)
        _drivers.append(_lane.enter_context(playwright.sync_playwright()))
    arguments = [] if paints else [_WITHOUT_PAINT]
    browser = _drivers[0].chromium.launch(executable_path=path, args=arguments)
    _lane.callback(_running.clear)
    _lane.callback(browser.close)
    return browser
