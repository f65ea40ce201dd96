"""The setting ``overflow``: what a send does while the producer's queue is full."""

from __future__ import annotations

from channels.exceptions import ChannelFull

from ..config.realtime import monotonic
from ..config.settings import LayerConfig
from ..observe.counters import Stats
from ..wire.records import ProducerRecord

__all__ = ["OverflowPolicy"]


class OverflowPolicy:
    """Decides for one send while the transport's queue is full.

    Args:
        config: For ``overflow`` and ``expiry``.
        stats: Counts refused and dropped records.
        record: The record to send.
    """

    def __init__(self, config: LayerConfig, stats: Stats, record: ProducerRecord) -> None:
        self._overflow = config.overflow
        self._stats = stats
        topic, key, _, _, _ = record
        self._where = f"the producer's queue is full, {topic.value} {key!r}"
        self._deadline = monotonic() + config.expiry

    @property
    def patience(self) -> float:
        """Seconds that the send waits for room from now on."""
        return max(0.0, self._deadline - monotonic())

    def should_drop(self) -> bool:
        """Return True to drop the record, counted, and False to wait for room.

        Raises:
            ChannelFull: To do neither.
        """
        if self._overflow == "discard":
            self._stats.dropped("overflow", self._where)
            return True
        if self._overflow == "block" and self.patience:
            return False
        raise self.refusal()

    def refusal(self) -> Exception:
        """Count the record as refused; return the error to raise."""
        self._stats.count("refused.overflow")
        return ChannelFull(self._where)  # type: ignore[no-any-return, unused-ignore]
