"""axe-core, which finds what people with a screen reader or a keyboard alone cannot use."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["serious_findings"]

_AXE = "axe-core@4.10"

_FINDINGS = """
async () => {
  // Where a finding is, its own markup tells.
  const options = { resultTypes: ["violations"], selectors: false, preload: false };
  const { violations } = await axe.run(document, options);
  return violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, impact, nodes }) => [impact, id, nodes[0].html, nodes[0].failureSummary]);
}
"""


def serious_findings(page: Page) -> list[Any]:
    """Return what axe-core calls serious or critical on a page, with what it is about.

    Without npm the test is skipped, or fails where KAFKA_LAYER_REQUIRE_BROWSER=1 asks for it.
    """
    page.evaluate(_script())
    found: list[Any] = page.evaluate(_FINDINGS)
    return found


@cache
def _script() -> str:
    npm = shutil.which("npm")
    if npm is None:
        if os.environ.get("KAFKA_LAYER_REQUIRE_BROWSER") == "1":
            pytest.fail("No npm on PATH (KAFKA_LAYER_REQUIRE_BROWSER=1)", pytrace=False)
        pytest.skip("No npm on PATH, to get axe-core from")
    with tempfile.TemporaryDirectory() as folder:
        for attempt in range(3):
            done = subprocess.run([npm, "pack", "--silent", _AXE], cwd=folder, check=attempt == 2)
            if done.returncode == 0:
                break
        [archive] = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as opened:
            script = opened.extractfile("package/axe.min.js")
            assert script is not None
            return script.read().decode()
