"""Appends the records of a stream to the log that is kept for tracked channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..recovery.stream_log import Keeper, StreamLog
from ..transport import ReadFrom
from ..wire.topics import Where
from .latest import LatestRecords
from .reading import Reading

__all__ = ["Following"]


class Following:
    """Whether the records of a stream are kept.

    ========= ================================================= ===============================
    state     begins                                            ends
    ========= ================================================= ===============================
    off       in the beginning, and with ``end``                ``keep``: *beginning*
    beginning with ``keep``, ``load`` and ``loaded``            all positions are known while no
                                                                last records are loaded: *on*
    on        and each record is appended to ``log``            ``end``: *off*; ``load``:
                                                                *beginning*
    ========= ================================================= ===============================

    Any thread may call ``keep``; the thread that reads calls the rest.

    Args:
        reading: Reports the positions; its lock guards the keeper.
        latest: The last records of the stream, which have to be loaded first; None if the settings
            do not ask for them.

    Attributes:
        log: Gets each record; None unless the state is *on*. It does not change within a batch.
    """

    def __init__(self, reading: Reading, latest: LatestRecords[Any] | None) -> None:
        self.log: StreamLog | None = None
        self._reading = reading
        self._latest = latest
        self._keeper: Keeper | None = None

    def keep(self, keeper: Keeper) -> None:
        """Append each record to the log of a keeper, from its ``begun`` on."""
        with self._reading.lock:
            self._keeper, self.log = keeper, None
            self._reading.follow(self._on_positions, self._on_epoch)

    def end(self) -> None:
        """Keep no records any more: no channel follows the stream; the lock is held."""
        keeper, self._keeper, self.log = self._keeper, None, None
        if keeper is not None:
            keeper.ended()

    def load(self) -> None:
        """Keep no records while the last records are loaded again."""
        self.log = None

    def loaded(self) -> None:
        """Keep records again, because the last records are loaded."""
        with self._reading.lock:
            if self._keeper is not None:
                self.keep(self._keeper)

    def _on_positions(self, positions: Mapping[Where, ReadFrom], whole: bool) -> None:
        """Note the positions from which the partitions are read."""
        keeper = self._keeper
        if keeper is None:
            return
        if self.log is not None:
            keeper.moved(positions)
        elif whole and not (self._latest is not None and self._latest.loading):
            keeper.begun(positions)
            self.log = keeper.log

    def _on_epoch(self, where: Where, offset: int, epoch: int) -> None:
        if self.log is not None:
            self.log.epochs.read(where, offset, epoch)
