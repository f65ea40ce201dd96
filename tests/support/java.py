"""Which Java the real brokers run on, and the options that make it start fast."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Java", "missing_java", "newest_java"]

# Where Debian and macOS install them, below the root.
_HOMES: Final = ("usr/lib/jvm/*", "Library/Java/JavaVirtualMachines/*/Contents/Home")

# Half the start-up time; the code is slower once it is warm.
_FAST_START: Final = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData")

# From this version on its cache has the classes linked, and starts half as long again.
_LINKS_CLASSES: Final = 25


@dataclass(frozen=True, order=True)
class Java:
    """An installed Java.

    Attributes:
        version: Its feature release: 17, say.
        home: Its folder.
    """

    version: int
    home: Path

    @property
    def program(self) -> Path:
        """What runs a class."""
        return self.home / "bin" / "java"

    def cached(self, folder: Path) -> tuple[str, ...]:
        """Return the options for a fast start, with the cache in a folder.

        A cache that is missing or that another Java wrote is left aside: that start is slower.
        """
        if self.version >= _LINKS_CLASSES:
            return (*_FAST_START, f"-XX:AOTCache={folder / 'classes.aot'}", "-Xlog:aot*=error")
        return (*_FAST_START, f"-XX:SharedArchiveFile={folder / 'classes.jsa'}", "-Xshare:auto")

    def caching(self, folder: Path) -> tuple[str, ...]:
        """Return the options with which a process, as it ends, writes the cache."""
        if self.version >= _LINKS_CLASSES:
            return (*_FAST_START, f"-XX:AOTCacheOutput={folder / 'classes.aot'}")
        return (*_FAST_START, f"-XX:ArchiveClassesAtExit={folder / 'classes.jsa'}")

    def identity(self) -> str:
        """Return what tells its caches from those of others, and of other options."""
        return f"{self.program} {self.program.stat().st_mtime_ns} {self.cached(Path())}"


def newest_java(versions: range) -> Java | None:
    """Return the newest one with one of these versions, if there is one.

    ``JAVA_HOME`` names it; where that is not set, those on PATH and in the usual folders count.
    """
    return max((java for java in _installed() if java.version in versions), default=None)


def missing_java(versions: range) -> str:
    """Return what is missing where :func:`newest_java` finds none, and what is there instead."""
    wanted = f"Java {versions.start} to {versions.stop - 1}"
    found = ", ".join(f"{java.version} in {java.home}" for java in sorted(_installed()))
    return f"{wanted} (found {found})" if found else wanted


def _installed() -> set[Java]:
    on_path = shutil.which("java")
    homes = [home for pattern in _HOMES for home in Path("/").glob(pattern)]
    homes += [Path(on_path).resolve().parents[1]] if on_path else []
    if named := os.environ.get("JAVA_HOME"):
        homes = [Path(named)]
    javas = set()
    for home in {home.resolve() for home in homes if (home / "release").is_file()}:
        told = re.search(r'^JAVA_VERSION="(\d+)', (home / "release").read_text(), re.MULTILINE)
        if told and (home / "bin" / "java").is_file():
            javas.add(Java(int(told[1]), home))
    return javas
