"""What a server knows of its features, such as worker channels."""

from __future__ import annotations

from typing import Protocol

from ..exceptions import LayerClosed

__all__ = ["Feature"]


class Feature(Protocol):
    """Something that is attached to a server and ends with it, such as worker channels."""

    @property
    def needs_clock(self) -> bool:
        """Whether it computes the age of messages, and so needs the broker's time."""

    def flush(self, until: float) -> int:
        """Drop the messages that were written until then (the broker's time); any thread.

        Returns:
            How many were dropped.
        """

    def close(self, error: LayerClosed) -> int:
        """Let every receive that waits raise a copy of ``error``; the transport is closed.

        Nothing may be opened in it any more, also by what is on its way to that.

        Returns:
            How many messages were dropped.
        """

    def abandon(self) -> None:
        """Let go of everything without touching it, in a forked child, and open nothing more."""
