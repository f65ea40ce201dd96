"""What a first run makes or fetches, and later ones find: folders that several processes share."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["cached", "made_once"]


def cached(name: str) -> Path:
    """Return the path of something in the user's cache; it need not be there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kafka-layer" / name


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return a folder that one process makes while the others wait; it is there once it is whole.

    Args:
        folder: It; beside it there is a lock.
        make: Makes it under the path it gets, in a folder where it may leave other things.
    """
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():
                with tempfile.TemporaryDirectory(dir=folder.parent, prefix="making-") as draft:
                    made = Path(draft) / "made"
                    make(made)
                    made.rename(folder)
    return folder


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Let one process at a time in; the kernel frees the lock of one that dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
