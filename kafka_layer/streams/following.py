"""What a stream keeps for tracked channels: its records go into the log of a keeper."""

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
    beginning with ``keep``, ``load`` and ``loaded``            all positions are told while no
                                                                last records are learnt: *on*
    on        and each record goes into ``log``                 ``end``: *off*; ``load``:
                                                                *beginning*
    ========= ================================================= ===============================

    Any thread may call ``keep``; the thread that reads calls the rest.

    Args:
        reading: Tells the positions; its lock guards the keeper.
        latest: The last records of the stream, which has to know them first; None if it needs none.

    Attributes:
        log: Gets each record; None unless it is *on*. It stays the same within a batch.
    """

    def __init__(self, reading: Reading, latest: LatestRecords[Any] | None) -> None:
        self.log: StreamLog | None = None
        self._reading = reading
        self._latest = latest
        self._keeper: Keeper | None = None

    def keep(self, keeper: Keeper) -> None:
        """Have each record appended to the log of a keeper, once it was told so."""
        with self._reading.lock:
            self._keeper, self.log = keeper, None
            self._reading.follow(self._on_positions, self._on_epoch)

    def end(self) -> None:
        """Keep no records any more: no channel follows the stream; the lock is held."""
        keeper, self._keeper, self.log = self._keeper, None, None
        if keeper is not None:
            keeper.ended()

    def load(self) -> None:
        """Keep nothing while the last records are learnt anew."""
        self.log = None

    def loaded(self) -> None:
        """Keep records again: the last ones are known."""
        with self._reading.lock:
            if self._keeper is not None:
                self.keep(self._keeper)

    def _on_positions(self, positions: Mapping[Where, ReadFrom], whole: bool) -> None:
        """Take from where the partitions are read on."""
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
