"""The protocol of a server's features, such as worker channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ..exceptions import LayerClosed
from ..wire.records import Record
from ..wire.topics import Where

__all__ = ["Feature", "Tap"]


class Tap(Protocol):
    """Sees all data that a server reads; the thread that reads it."""

    def append(self, records: Sequence[Record]) -> None:
        """Take records before they are routed."""

    def before(self, record: Record) -> Mapping[Where, int]:
        """Return, for each partition, the offset behind the last record that came before one.

        Args:
            record: One of the last batch, not before the one of the last call.
        """

    def note_routed(self) -> None:
        """Take note that these records are in their mailboxes, except where one is passed by."""


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
