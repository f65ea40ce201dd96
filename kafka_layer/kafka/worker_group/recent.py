"""Remembers the last messages that a member of a worker group took. Pure.

When a topic is deleted and created again, a member may continue in the new topic, at its offset in
the old one, before it notices the change. The next membership reads the new topic from its
beginning. It skips the messages whose offset and timestamp are among those that were taken, so that
no message is delivered twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ...transport import CarriedJob

__all__ = ["MOST", "Handover", "Mark", "Recent"]

Mark = tuple[int, str]
"""A committed position, with its metadata."""

# Seconds for which messages are remembered at least. A new topic is noticed within a few seconds.
_KEPT = 30.0
MOST = 50_000
"""Limit of the messages of that time: more than receives can take."""


@dataclass
class Handover:
    """The facts of one partition that a membership in a topic hands over to the next one.

    Attributes:
        mark: The last commit of the membership; None after a commit of the next one.
        messages: The timestamps, in milliseconds, of the messages that were taken, by offset.
    """

    mark: Mark | None
    messages: Mapping[int, int]


class Recent:
    """The messages that one membership took in the last 30 to 60 seconds; one thread.

    A message is taken when its offset is committed.
    """

    def __init__(self) -> None:
        # By partition and offset: the timestamps of messages that are fetched and not taken.
        self._fetched: dict[tuple[int, int], int] = {}
        # The same of messages that were taken in the 30 s before the last turn, and since.
        self._before: dict[tuple[int, int], int] = {}
        self._since: dict[tuple[int, int], int] = {}
        # Whether more than MOST messages were taken, before the last turn and since.
        self._too_many = (False, False)
        # When forget() begins another 30 s, on the clock of its calls.
        self._next_turn = 0.0

    def fetch(self, partition: int, offset: int, timestamp: int) -> None:
        """Note a message that was fetched."""
        self._fetched[partition, offset] = timestamp

    def take(self, messages: Iterable[tuple[int, int, object, object]]) -> None:
        """Note that messages were taken: their offsets are committed.

        Args:
            messages: As in a ``Batch``.
        """
        for partition, offset, _, _ in messages:
            timestamp = self._fetched.pop((partition, offset), None)
            if timestamp is not None:
                self._since[partition, offset] = timestamp
        if len(self._since) > MOST:
            self._since.clear()
            self._too_many = (self._too_many[0], True)

    def give_back(self, jobs: Iterable[CarriedJob]) -> None:
        """Note that jobs were given back: they are fetched and not taken."""
        for job in jobs:
            where = job.partition, job.offset
            timestamp = self._since.pop(where, self._before.pop(where, None))
            if timestamp is not None:
                self._fetched[where] = timestamp

    def revoke(self, partitions: Collection[int]) -> None:
        """Forget the fetched messages of partitions that were revoked."""
        self._fetched = {
            where: timestamp
            for where, timestamp in self._fetched.items()
            if where[0] not in partitions
        }

    def forget(self, now: float) -> None:
        """Forget old messages; cheap.

        Args:
            now: Seconds, on the clock of all calls of this object.
        """
        if now >= self._next_turn:
            self._next_turn = now + _KEPT
            self._before, self._since = self._since, {}
            self._too_many = (self._too_many[1], False)

    def handover(self, marks: Mapping[int, Mark]) -> dict[int, Handover]:
        """Return what the next membership needs, for the partitions with these commits.

        It is empty if more than ``MOST`` messages were taken, because not all are remembered.
        """
        if any(self._too_many):
            return {}
        taken: dict[int, dict[int, int]] = {partition: {} for partition in marks}
        for messages in (self._before, self._since):
            for (partition, offset), timestamp in messages.items():
                if partition in marks:
                    taken[partition][offset] = timestamp
        return {partition: Handover(mark, taken[partition]) for partition, mark in marks.items()}
