"""The documentation, built as a site."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def built_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error."""
    missing = [each for each in ("material", "mkdocstrings_handlers") if not _is_installed(each)]
    if missing:
        reason = "the site needs mkdocs-material and mkdocstrings: pip install -e '.[docs]'"
        if os.environ.get("KAFKA_LAYER_REQUIRE_BROKER") == "1":
            pytest.fail(f"{reason} (KAFKA_LAYER_REQUIRE_BROKER=1)", pytrace=False)
        pytest.skip(reason)
    # The processes of pytest-xdist have folders of their own in one; whichever comes first builds.
    ours = tmp_path_factory.getbasetemp()
    common = ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours
    with (common / "site.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        folder = common / "site"
        if not folder.exists():
            build(folder)
    return folder


def build(folder: Path) -> None:
    """Build the site into a folder, which is there once it is complete."""
    draft = folder.with_suffix(".draft")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(draft)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    draft.rename(folder)


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
