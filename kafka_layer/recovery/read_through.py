"""Reads records before the kept ones of a stream, once for all recoveries that wait for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ..config.threads import RLock
from ..delivery.tickets import Ticket
from ..transport import Extent, Past
from ..wire.records import Record
from ..wire.topics import Where, topic_ids_differ
from .epochs import UNKNOWN, LeaderEpochs
from .stream_log import StreamLog

__all__ = [
    "ROUNDS",
    "Ask",
    "Extents",
    "KeptLog",
    "ReadThrough",
    "learn_epochs",
    "parts_to_read",
]

ROUNDS = 3
"""How often a recovery reads records from Kafka, if the recent records drop them meanwhile."""

Extents = Mapping[Where, Extent]

Ask = Callable[[Callable[[Past], Callable[[], Extents]], float], Ticket[Extents]]
"""Runs a query of the past in the backplane's thread; gets the query and when to give up."""


class KeptLog(Protocol):
    """The kept records of a log; see ``RecentLog`` and ``StreamLog``."""

    epochs: LeaderEpochs

    @property
    def ends(self) -> Mapping[Where, int]:
        """For each partition the offset after its last record."""

    @property
    def routed(self) -> Mapping[Where, int]:
        """For each partition the offset after its last routed record."""

    @property
    def topic_ids(self) -> Mapping[Any, str | None]:
        """Kafka's ids of the topics."""

    def begin(self, where: Where) -> int:
        """Return the offset from which a partition is kept."""

    def find(
        self, where: Where, key: Any, first: int, end: int, most: int | None = None
    ) -> list[Any] | None:
        """Return the records of a key in a part of a partition."""


class ReadThrough:
    """Reads the past of a stream into its kept records; any thread may call ``read``.

    Args:
        log: The kept records.
        topics: Returns the topics of the log.
        ask: Asks the backplane for the past of the log.
        kept: Selects the records to keep, with their addresses; called in the backplane's thread.
    """

    def __init__(
        self,
        log: StreamLog,
        topics: Callable[[], Sequence[Any]],
        ask: Ask,
        kept: Callable[[Sequence[Record]], Sequence[Any]],
    ) -> None:
        self._log = log
        self._topics = topics
        self._ask = ask
        self._kept = kept
        # Re-entrant: a signal handler may interrupt the holder and use the layer.
        self._lock = RLock()
        # For some partitions the first offset to read next.
        self._wanted: dict[Where, int] = {}
        # For some partitions the offsets of records whose leader epochs to ask for next.
        self._wanted_epochs: dict[Where, set[int]] = {}

    def read(
        self, missing: Mapping[Where, int], unknown: Mapping[Where, int], deadline: float
    ) -> Ticket[Extents]:
        """Read partitions back to some offsets, and learn the leader epochs of some records.

        Args:
            missing: For some partitions the first offset.
            unknown: For some partitions the offset of a record.
            deadline: When to give up, on ``monotonic()``.

        Returns:
            A ticket of what the log holds. It fails as that of ``Log.ask_past``.
        """
        with self._lock:
            for where, first in missing.items():
                self._wanted[where] = min(first, self._wanted.get(where, first))
            for where, offset in unknown.items():
                self._wanted_epochs.setdefault(where, set()).add(offset)
        return self._ask(self._read_wanted, deadline)

    # The backplane's thread

    def _read_wanted(self, past: Past) -> Callable[[], Extents]:
        extents: Extents = past.extents(self._topics())
        with self._lock:
            wanted, self._wanted = self._wanted, {}
            epochs, self._wanted_epochs = self._wanted_epochs, {}
        learn_epochs(self._log, past, extents, epochs)
        for _ in range(ROUNDS):
            parts = parts_to_read(self._log, wanted, extents)
            records, room = sum(end - first for first, end in parts.values()), self._log.room
            if records > room:
                # Read only the most recent ones, which are enough for most recoveries.
                parts = {
                    where: (end - (end - first) * room // records, end)
                    for where, (first, end) in parts.items()
                }
            parts = {where: part for where, part in parts.items() if part[0] < part[1]}
            if not parts:
                break
            for where, (first, end) in parts.items():
                start, blocks = past.read_blocks(where, first, end)
                found = [record for block in blocks for record in block.find(None, first, end)]
                self._log.prepend({where: (start, end, self._kept(found))})
        return lambda: extents


def learn_epochs(
    log: KeptLog, past: Past, extents: Extents, wanted: Mapping[Where, set[int]]
) -> None:
    """Learn the leader epochs of records; the backplane's thread.

    The epochs of the first and the last record give those between, unless the leader changed.

    Args:
        log: Gets the epochs.
        past: The past of the log.
        extents: What the log holds.
        wanted: For some partitions the offsets of records.
    """
    ends = log.ends
    for round_ in range(2 * ROUNDS):
        asked = {}
        for where, offsets in wanted.items():
            extent = extents.get(where)
            unknown = [
                offset
                for offset in offsets
                if extent is not None
                and extent.start <= offset < extent.end
                and log.epochs.at(where, offset, ends.get(where, 0)) == UNKNOWN
            ]
            if unknown:
                asked[where] = max(unknown) if round_ % 2 else min(unknown)
        if not asked:
            return
        told = past.epochs(asked)
        if not told:
            return
        for where, epoch in told.items():
            log.epochs.note(where, asked[where], epoch)


def parts_to_read(
    log: KeptLog, wanted: Mapping[Where, int], extents: Extents
) -> dict[Where, tuple[int, int]]:
    """Return the parts of a log that are wanted and not kept.

    Args:
        log: What is kept.
        wanted: For some partitions the first offset.
        extents: What the log holds.
    """
    parts = {}
    for where, first in wanted.items():
        extent, begin = extents.get(where), log.begin(where)
        known = log.topic_ids.get(where[0])
        if extent is None or topic_ids_differ(extent.topic_id, known):
            continue
        first = max(first, extent.start)
        if first < begin <= extent.end:
            parts[where] = first, begin
    return parts
