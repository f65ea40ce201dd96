"""The common parts of the logs in memory: lock, readers, and queries of their past."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from ..config.threads import RLock
from ..wire.record_block import RecordBlock
from ..wire.records import Record

__all__ = ["LogPast", "SharedLog"]

R = TypeVar("R")


class SharedLog(Generic[R]):
    """A log that several servers of one process write and read; any thread."""

    def __init__(self) -> None:
        # Re-entrant: a signal handler may interrupt a send and send.
        self._lock = RLock()
        self._readers: list[R] = []

    def attach(self, reader: R) -> None:
        """Tell a reader of new records."""
        with self._lock:
            self._readers.append(reader)

    def detach(self, reader: R) -> None:
        """Tell a reader no more."""
        with self._lock:
            if reader in self._readers:
                self._readers.remove(reader)

    def abandon(self) -> None:
        """Make a new lock, in a forked child: a thread of the parent may have held the old one."""
        self._lock = RLock()


class LogPast:
    """``Past`` for one question; a subclass knows the log.

    Args:
        deadline: As of ``Past``.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline

    def read(self, where: tuple[Any, int], first: int, end: int) -> tuple[int, list[Record]]:
        """See ``Past``."""
        raise NotImplementedError

    def read_blocks(
        self, where: tuple[Any, int], first: int, end: int
    ) -> tuple[int, list[RecordBlock]]:
        """See ``Past``."""
        start, records = self.read(where, first, end)
        return start, [RecordBlock.of(records)] if records else []

    def epochs(self, offsets: Mapping[tuple[Any, int], int]) -> dict[tuple[Any, int], int]:
        """See ``Past``; there are no leaders here."""
        return {}
