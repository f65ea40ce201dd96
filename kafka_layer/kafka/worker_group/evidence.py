"""Evidence of whether a worker group's client gets the messages that the log holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from ..liveness import ANSWERED, PROGRESSED, UNANSWERED, Behind, Evidence
from .positions import JobPositions

__all__ = ["CUT_OFF", "LEFT_OUT", "SILENT", "GroupEvidence"]

CUT_OFF = (
    "The Kafka consumer of worker channel %s reaches no broker, as another does; that one goes on"
)
SILENT = "The Kafka consumer of worker channel %s got nothing that the log holds; another goes on"
LEFT_OUT = (
    "The consumer group of worker channel %s has assigned its partitions to nobody: a broker did "
    "not know the topic yet, or does not know worker_group_protocol; another consumer joins"
)


class Asked(Protocol):
    """The requests of a check; each blocks until a broker answers or the request times out."""

    def is_answered(self) -> bool:
        """Tell whether a broker answers."""

    def is_left_out(self) -> bool:
        """Tell whether the group has assigned none of the topic's partitions to any member."""

    def behind(self, partitions: Collection[int]) -> Mapping[tuple[str, int], int] | None:
        """Return the positions of partitions in which the log holds unread messages."""


class GroupEvidence:
    """Notes what one client got since the last check, and asks brokers if need be; one thread.

    Args:
        client: Makes the requests.
        positions: The assigned partitions and fetched messages of the client.

    Attributes:
        death: The log line, if the client is replaced after the last check.
    """

    def __init__(self, client: Asked, positions: JobPositions[Any]) -> None:
        self.death = SILENT
        self._client = client
        self._positions = positions
        # Since the last check: whether a message came, and whether a later poll returned none.
        self._progressed = False
        self._emptied = False
        # The assignments at the last check. The client may not have had time to read later ones.
        self._looked_at: dict[int, object] = {}

    def note_message(self) -> None:
        """Note that the client returned a message."""
        self._progressed = True
        # No evidence of a silent client: during a long job no thread polls it, and messages wait.
        self._emptied = False

    def note_nothing(self) -> None:
        """Note that a poll returned no message."""
        self._emptied = True

    def look(self) -> Evidence:
        """Return the evidence since the last check; blocks."""
        progressed, emptied = self._progressed, self._emptied
        self._progressed = self._emptied = False
        before, self._looked_at = self._looked_at, dict(self._positions.assigned)
        self.death = SILENT
        if emptied and not self._positions.messages:
            if not self._looked_at and self._client.is_left_out():
                self.death = LEFT_OUT
                return UNANSWERED
            asked = [
                partition
                for partition, assignment in self._looked_at.items()
                if before.get(partition) is assignment
            ]
            behind = self._client.behind(asked) if asked else None
            if behind is not None:
                return Behind(behind)
        elif progressed:
            return PROGRESSED
        if self._client.is_answered():
            return ANSWERED
        self.death = CUT_OFF
        return UNANSWERED
