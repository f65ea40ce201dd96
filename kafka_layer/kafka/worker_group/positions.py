"""The fetched, assigned and committed positions of a member of a worker group. Pure.

Knows neither a client nor a channel: ``membership.py`` reports events, and carries out the results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from ...transport import CarriedJob

__all__ = ["Batch", "Doubts", "JobPositions", "Positions"]

J = TypeVar("J", bound=CarriedJob)

Positions = dict[int, int]
"""An offset for each partition."""

Doubts = dict[int, set[int]]
"""The offsets of the jobs in doubt, for each partition that has any."""


class Batch(Generic[J]):
    """The messages of one commit; it does not change.

    Attributes:
        messages: The partition, the offset, the token of the assignment and the job of each; the
            job is None if the message expired or cannot be read.
        jobs: Its jobs, in order.
        positions: The positions to commit: the offset behind the last message of each partition.
    """

    __slots__ = ("jobs", "messages", "positions")

    def __init__(self, messages: list[tuple[int, int, object, J | None]]) -> None:
        self.messages = messages
        self.jobs: list[J] = []
        self.positions: Positions = {}
        for partition, offset, _, job in messages:
            self.positions[partition] = offset + 1
            if job is not None:
                self.jobs.append(job)


class JobPositions(Generic[J]):
    """The messages and positions of one member of a worker group; one thread at a time.

    A partition is *unassigned*, *assigned* after ``assign``, and unassigned again after ``revoke``.
    Each assignment has a token, which its jobs carry: a job of an earlier assignment belongs to the
    partition's next member, and this one neither hands it out nor gives it back.

    A message of an assigned partition is

    ========== ================================ =======================================
    state      entered by                       left by
    ========== ================================ =======================================
    fetched    ``fetch``                        ``next_batch``, ``revoke``
    committing ``next_batch``                   ``commit_succeeded``, ``commit_failed``
    claimable  ``commit_succeeded``             ``take_back``; for good when a receive takes it
    fetched    ``commit_failed``, ``take_back`` ``next_batch``, ``revoke``
    ========== ================================ =======================================

    A job is also *in doubt* from ``next_batch`` or ``take_back`` until a commit of its partition
    succeeds. A commit that fails does not end the doubt: its error may belong to a repetition by
    librdkafka, while the first attempt took effect. If the member loses the partition then, it is
    not known whether the next member gets the job.

    Attributes:
        jobs: How many of the fetched messages are jobs, and not expired or unreadable.
    """

    def __init__(self) -> None:
        self.jobs = 0
        self._assignments: dict[int, object] = {}
        self._fetched: deque[tuple[int, int, object, J | None]] = deque()
        self._in_doubt: Doubts = {}

    @property
    def assigned(self) -> Mapping[int, object]:
        """The partitions of this member, each with the token of its assignment."""
        return self._assignments

    @property
    def messages(self) -> int:
        """How many fetched messages are not committed."""
        return len(self._fetched)

    def assign(self, partitions: Iterable[int]) -> None:
        """Note that the group assigned partitions to this member."""
        for partition in partitions:
            self._assignments[partition] = object()

    def is_current(self, job: J) -> bool:
        """Tell whether the job is of the present assignment of its partition."""
        return self._assignments.get(job.partition) is job.assignment

    def fetch(self, partition: int, offset: int, job: J | None) -> None:
        """Note a message of an assigned partition.

        Args:
            partition: Its partition.
            offset: Its offset.
            job: The job; None if the message expired or cannot be read, so that the member only
                commits its position.
        """
        self._fetched.append((partition, offset, self._assignments[partition], job))
        if job is not None:
            self.jobs += 1

    def next_batch(self, demand: int) -> Batch[J]:
        """Return the oldest messages to commit, with as many jobs as receives wait for.

        Args:
            demand: How many receives wait.
        """
        messages = []
        while self._fetched and demand > 0:
            message = self._fetched.popleft()
            messages.append(message)
            if message[3] is not None:
                demand -= 1
                self.jobs -= 1
                self._in_doubt.setdefault(message[0], set()).add(message[1])
        return Batch(messages)

    def commit_succeeded(self, batch: Batch[J]) -> list[J]:
        """Note that a batch is committed; return its jobs, for the receives."""
        self.settle(batch.positions)
        return batch.jobs

    def commit_failed(self, batch: Batch[J]) -> None:
        """Note that a batch's commit has an error; its messages count as fetched again."""
        self._fetched.extendleft(reversed(batch.messages))
        self.jobs += len(batch.jobs)

    def take_back(self, jobs: Sequence[J]) -> None:
        """Note that no receive took these jobs, in order; ``to_give_back`` is to be committed."""
        messages = [(job.partition, job.offset, job.assignment, job) for job in jobs]
        self._fetched.extendleft(reversed(messages))
        self.jobs += len(messages)
        for job in jobs:
            self._in_doubt.setdefault(job.partition, set()).add(job.offset)

    def settle(self, partitions: Iterable[int]) -> None:
        """Note that a commit of these partitions succeeded: they are in doubt no more."""
        for partition in partitions:
            self._in_doubt.pop(partition, None)

    def in_doubt(self, partitions: Container[int]) -> Doubts:
        """Return the jobs in doubt of these partitions."""
        return {each: jobs for each, jobs in self._in_doubt.items() if each in partitions}

    def to_give_back(self, partitions: Container[int]) -> Positions:
        """Return the positions to commit, so that the partitions' next members lose no job."""
        return {partition: min(jobs) for partition, jobs in self.in_doubt(partitions).items()}

    def revoke(self, partitions: Collection[int]) -> Doubts:
        """Note that partitions are revoked; drop their fetched messages.

        Returns:
            Their jobs in doubt.
        """
        left_in_doubt = self.in_doubt(partitions)
        for partition in partitions:
            self._assignments.pop(partition, None)
            self._in_doubt.pop(partition, None)
        self._fetched = deque(
            each for each in self._fetched if self._assignments.get(each[0]) is each[2]
        )
        self.jobs = sum(job is not None for _, _, _, job in self._fetched)
        return left_in_doubt
