"""When a job counts as done, and who is told how it ended."""

from __future__ import annotations

from typing import Protocol

from ..observe.counters import Stats
from .job import Job

__all__ = ["AckPolicy", "AtMostOnce", "JobInHand"]


class AckPolicy(Protocol):
    """What becomes of the jobs of one worker channel; each method may be called by any thread."""

    def taken(self, job: Job) -> None:
        """Note that a receive returned a job. Called in the event loop that receives."""

    def done(self, job: Job) -> None:
        """Note that a job's handler returned."""

    def failed(self, job: Job, error: BaseException) -> None:
        """Note that a job's handler raised, or was cancelled."""


class AtMostOnce:
    """A job is committed before a receive gets it, so nothing is left to decide when it ends.

    Whoever dies, no job is done twice; one that fails, or whose process dies, is gone.

    Args:
        stats: Counts how jobs ended, as ``jobs.done`` and ``jobs.failed``.
    """

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def taken(self, job: Job) -> None:
        """Nothing to do: it is committed."""

    def done(self, job: Job) -> None:
        """Count it."""
        self._stats.count("jobs.done")

    def failed(self, job: Job, error: BaseException) -> None:
        """Count it."""
        self._stats.count("jobs.failed")


class JobInHand:
    """A job that a receive returned; whoever works on it reports its end, once.

    Args:
        job: The job.
        policy: Is told.
    """

    __slots__ = ("_ended", "_job", "_policy")

    def __init__(self, job: Job, policy: AckPolicy) -> None:
        self._job = job
        self._policy = policy
        self._ended = False

    def done(self) -> None:
        """Report that the job's handler returned; any thread. Does nothing after a first report."""
        if not self._ended:
            self._ended = True
            self._policy.done(self._job)

    def failed(self, error: BaseException) -> None:
        """Report that the job's handler raised ``error``, or was cancelled; like ``done``."""
        if not self._ended:
            self._ended = True
            self._policy.failed(self._job, error)
