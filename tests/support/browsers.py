"""A browser for the tests of pages."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support import lanes

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["chromium"]

_SHELL = "chromium-headless-shell"

# The one that runs, if one does.
_running: list[Browser] = []


def chromium() -> Browser:
    """Return a browser that runs until the lane ends; no event loop can run in this process then.

    It is Debian's Chromium, or the one that CHROMIUM names. The headless shell is preferred: it
    draws no windows, and takes a third of the processor time. Without one the test is skipped, or
    fails where KAFKA_LAYER_REQUIRE_BROWSER=1 asks for it.
    """
    if not _running:
        stack = contextlib.ExitStack()
        lanes.at_end(stack.close)
        stack.callback(_running.clear)
        _running.append(stack.enter_context(_started()))
    return _running[0]


@contextlib.contextmanager
def _started() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which(_SHELL) or shutil.which("chromium")
    if path is None:
        if os.environ.get("KAFKA_LAYER_REQUIRE_BROWSER") == "1":
            pytest.fail("No chromium on PATH (KAFKA_LAYER_REQUIRE_BROWSER=1)", pytrace=False)
        pytest.skip(f"No chromium on PATH: install Debian's {_SHELL}, or name one with CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        yield browser
        browser.close()
