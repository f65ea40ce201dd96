"""When a job counts as done, and the reports of how jobs end."""

from __future__ import annotations

from typing import Protocol

from ..observe.counters import Stats
from .job import Job

__all__ = ["AckPolicy", "AtMostOnce", "JobInHand"]


class AckPolicy(Protocol):
    """Gets reports about the jobs of one worker channel; any thread may call any method."""

    def taken(self, job: Job) -> None:
        """Note that a receive takes a job. Called in the event loop that receives."""

    def done(self, job: Job) -> None:
        """Note that a job's handler returned."""

    def failed(self, job: Job, error: BaseException) -> None:
        """Note that a job's handler raised, or was cancelled."""


class AtMostOnce:
    """Commits come before receives get their jobs, so the end of a job decides nothing.

    Whichever process dies, no job is done twice; a job that fails, or whose process dies, is gone.

    Args:
        stats: Counts the ends of jobs, as ``jobs.done.{channel}`` and ``jobs.failed.{channel}``.
        channel: The worker channel's name.
    """

    def __init__(self, stats: Stats, channel: str) -> None:
        self._stats = stats
        self._done, self._failed = f"jobs.done.{channel}", f"jobs.failed.{channel}"

    def taken(self, job: Job) -> None:
        """Do nothing: the job is committed."""

    def done(self, job: Job) -> None:
        """Count the job as done."""
        self._stats.count(self._done)

    def failed(self, job: Job, error: BaseException) -> None:
        """Count the job as failed."""
        self._stats.count(self._failed)


class JobInHand:
    """A job that a receive returned; its worker reports its end, once.

    Args:
        job: The job.
        policy: Gets the report.

    Attributes:
        job: As given.
    """

    __slots__ = ("_ended", "_policy", "job")

    def __init__(self, job: Job, policy: AckPolicy) -> None:
        self.job = job
        self._policy = policy
        self._ended = False

    def done(self) -> None:
        """Report that the job's handler returned; any thread. A second report does nothing."""
        if not self._ended:
            self._ended = True
            self._policy.done(self.job)

    def failed(self, error: BaseException) -> None:
        """Report that the job's handler raised ``error``, or was cancelled; like ``done``."""
        if not self._ended:
            self._ended = True
            self._policy.failed(self.job, error)
