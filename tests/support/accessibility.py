"""axe-core, which finds what people with a screen reader or a keyboard alone cannot use."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.cache import cached, made_once

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["serious_findings"]

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

    The first run has npm fetch axe-core. Without npm the test is skipped then, or fails where
    KAFKA_LAYER_REQUIRE_BROWSER=1 asks for it.
    """
    page.evaluate(_script())
    found: list[Any] = page.evaluate(_FINDINGS)
    return found


@cache
def _script() -> str:
    return (made_once(cached("axe-core-4.10"), _fetch) / "axe.min.js").read_text()


def _fetch(folder: Path) -> None:
    """Have npm fetch axe-core."""
    npm = shutil.which("npm")
    if npm is None:
        if os.environ.get("KAFKA_LAYER_REQUIRE_BROWSER") == "1":
            pytest.fail("No npm on PATH (KAFKA_LAYER_REQUIRE_BROWSER=1)", pytrace=False)
        pytest.skip("No npm on PATH, to get axe-core from")
    command = [npm, "pack", "--silent", "axe-core@4.10"]
    for attempt in range(3):
        done = subprocess.run(command, cwd=folder.parent, check=attempt == 2)
        if done.returncode == 0:
            break
    [archive] = folder.parent.glob("*.tgz")
    with tarfile.open(archive) as opened:
        script = opened.extractfile("package/axe.min.js")
        assert script is not None
        folder.mkdir()
        (folder / "axe.min.js").write_bytes(script.read())
