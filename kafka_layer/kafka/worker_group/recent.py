"""What a member of a worker group took last, to know it again in a topic that was made anew. Pure.

A member may go on in a new topic, at its position in the old one, before anyone has noticed that
the topic is another. The next membership reads the new topic from its beginning, and passes over
what was taken of it already: the messages with an offset and a time that were taken before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ...transport import CarriedJob

__all__ = ["MOST", "Left", "Mark", "Recent"]

Mark = tuple[int, str]
"""A committed position, with its metadata."""

# Seconds for which messages are kept at least: a new topic is noticed within a few.
_KEPT = 30.0
MOST = 50_000
"""Messages that are kept of that time: more than receives take."""


@dataclass
class Left:
    """What a membership in a topic that was made anew left of one partition.

    Attributes:
        mark: Its last commit; None once another one has followed.
        messages: The offsets and times, in milliseconds, of messages that it took.
    """

    mark: Mark | None
    messages: Mapping[int, int]


class Recent:
    """The messages that one membership took in the last half minute, or more; one thread.

    A message counts as taken once its position is committed.
    """

    def __init__(self) -> None:
        # By partition and offset: the times of messages that are fetched and not taken.
        self._fetched: dict[tuple[int, int], int] = {}
        # The same of those that were taken before the last turn, and since.
        self._before: dict[tuple[int, int], int] = {}
        self._since: dict[tuple[int, int], int] = {}
        # Whether there were too many to keep, before the last turn and since.
        self._too_many = (False, False)
        self._next_turn = 0.0

    def fetch(self, partition: int, offset: int, timestamp: int) -> None:
        """Note a message that was fetched."""
        self._fetched[partition, offset] = timestamp

    def take(self, messages: Iterable[tuple[int, int, object, object]]) -> None:
        """Note that messages are committed.

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
        """Note that jobs count as fetched again."""
        for job in jobs:
            where = job.partition, job.offset
            timestamp = self._since.pop(where, self._before.pop(where, None))
            if timestamp is not None:
                self._fetched[where] = timestamp

    def revoke(self, partitions: Collection[int]) -> None:
        """Note that what is fetched of partitions is dropped."""
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

    def left(self, marks: Mapping[int, Mark]) -> dict[int, Left]:
        """Return what is left of the partitions with these commits.

        Nothing is left where too many messages were taken: they could not be told from others.
        """
        if any(self._too_many):
            return {}
        taken: dict[int, dict[int, int]] = {partition: {} for partition in marks}
        for messages in (self._before, self._since):
            for (partition, offset), timestamp in messages.items():
                if partition in marks:
                    taken[partition][offset] = timestamp
        return {partition: Left(mark, taken[partition]) for partition, mark in marks.items()}
