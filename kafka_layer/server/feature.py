"""The protocols of a server's features, such as worker channels, and of the recent records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ..exceptions import LayerClosed
from ..wire.records import Record
from ..wire.topics import Where

__all__ = ["Feature", "RecentRecords"]


class RecentRecords(Protocol):
    """Keeps the most recent records that a server read; called by the thread that reads."""

    def append(self, records: Sequence[Record]) -> None:
        """Add a batch of records before they are routed."""

    def before(self, record: Record) -> Mapping[Where, int]:
        """Return, for each partition, the offset after the last record that came before this one.

        Args:
            record: A record of the last batch, and not before that of the last call.
        """

    def note_routed(self) -> None:
        """Note that all these records were routed."""


class Feature(Protocol):
    """A part that attaches to a server and ends with it."""

    @property
    def needs_clock(self) -> bool:
        """Whether it computes the age of messages, and so needs the broker's time."""

    def flush(self, until: float) -> int:
        """Drop the messages that were written up to a time of the broker; any thread.

        Returns:
            How many were dropped.
        """

    def close(self, error: LayerClosed) -> int:
        """Let every receive that waits raise a copy of ``error``; the transport is closed.

        From now on the feature opens nothing, also in starts that are under way.

        Returns:
            How many messages were dropped.
        """

    def abandon(self) -> None:
        """Drop the parent's channels, in a forked child, and open no more."""
