"""The replacement of a Kafka client: a look at it, a verdict, and a new client.

``liveness.py`` judges the evidence of a look. A reader and a worker group's member supply the
evidence, and go on with the new client. (``producer_client.py`` replaces the producer's client,
which holds records.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from ..config.realtime import monotonic
from .connection import Connection
from .liveness import Evidence, Liveness, Verdict

__all__ = ["Replacement"]

C = TypeVar("C")


class Replacement(Generic[C]):
    """Decides whether to replace a client, and makes the new one.

    For the one thread that owns the client.

    Args:
        liveness: Judges the client.
        connection: Knows whether all brokers are down: then a look says nothing about the client.
        new_client: Makes a client.
        is_answered: Tells whether a broker answers a new client; gets the evidence.
        close: Closes a client that is not needed.
    """

    def __init__(
        self,
        liveness: Liveness,
        connection: Connection,
        new_client: Callable[[], C],
        is_answered: Callable[[C, Evidence], bool],
        close: Callable[[C], object],
    ) -> None:
        self._liveness = liveness
        self._connection = connection
        self._new_client = new_client
        self._is_answered = is_answered
        self._close = close
        # A new client that got an answer, until ``take``.
        self._spare: C | None = None

    def begin(self) -> None:
        """Note that the client is new: the first look is due after an interval."""
        self._liveness.begin(monotonic())

    def alert(self) -> None:
        """Note trouble, such as an error of the client: look more often for a while."""
        self._liveness.alert(monotonic())

    def is_called_for(self, look: Callable[[], Evidence]) -> bool:
        """Look at the client, if a look is due; return whether to replace it now.

        Args:
            look: Returns the evidence of a look; may block.
        """
        now = monotonic()
        if not self._liveness.is_due(now):
            return False
        if self._connection.lost:
            self._liveness.begin(now)
            return False
        evidence = look()

        def is_answered_elsewhere() -> bool:
            spare = self._new_client()
            if self._is_answered(spare, evidence):
                self._spare = spare
                return True
            self._close(spare)
            return False

        verdict = self._liveness.judge(evidence, monotonic(), is_answered_elsewhere)
        return verdict is Verdict.REPLACE

    def take(self) -> C:
        """Return the kept client, or a new one; the caller owns it."""
        spare, self._spare = self._spare, None
        return spare or self._new_client()

    def drop(self) -> None:
        """Close the kept client, if it was not taken."""
        spare, self._spare = self._spare, None
        if spare is not None:
            self._close(spare)
