"""Decides when a worker channel gets jobs, gives back unclaimed ones and leaves its group. Pure."""

from __future__ import annotations

from ...config.timings import Timings

__all__ = ["CommitCost", "Pacing"]

# The number of commits for one mean, and the mean from which commits are slow, in seconds.
_COMMITS = 100
_SLOW = 0.004


class Pacing:
    """Follows the demand of one worker channel over time; one thread alone.

    The channel is

    ========= =============================================== =================================
    state     entered                                         left
    ========= =============================================== =================================
    *wanting* a receive waits, or is about to (``want``)      no receive waits, or ``take_back``
    *idle*    no receive waits                                a receive waits
    *doubted* by ``take_back``: no receive took the assigned  when a receive begins to wait or takes
              jobs, as when an event loop is blocked          a job; after a time that doubles
    ========= =============================================== =================================

    While it is doubted, waiting receives do not count as demand. Otherwise the member would commit
    and uncommit the same jobs repeatedly, and other members would not get them.

    Args:
        timings: The layer's times.
        now: ``time.monotonic()``, like every time below.
    """

    def __init__(self, timings: Timings, now: float) -> None:
        self._timings = timings
        self._wanted_at = now
        self._assigned_at: float | None = None
        # When jobs were last taken back; None: never, or a receive was seen since.
        self._doubted_at: float | None = None
        # When receives count as demand again.
        self._doubted_until = 0.0
        self._doubted_for = timings.job_doubt

    def demand(self, waiting: int, seen: float, now: float) -> int:
        """Return the number of jobs to assign.

        Args:
            waiting: The number of jobs that the waiting receives would take.
            seen: When a receive last began to wait, or took a job.
            now: The time.
        """
        if self._doubted_at is not None:
            if seen < self._doubted_at:
                return waiting if now >= self._doubted_until else 0
            self._doubted_at = None
            self._doubted_for = self._timings.job_doubt
        if waiting > 0:
            self._wanted_at = now
        return waiting

    def want(self, now: float) -> None:
        """Note that a receive is about to wait, so that the channel is not idle."""
        self._wanted_at = now

    def assign(self, now: float) -> None:
        """Note that jobs were assigned to receives."""
        self._assigned_at = now

    def has_unclaimed(self, unclaimed: int, seen: float, now: float) -> bool:
        """Tell whether to take jobs back, because no receive has taken them in time.

        Args:
            unclaimed: The number of assigned jobs that no receive has taken.
            seen: As for ``demand``.
            now: The time.
        """
        if not unclaimed:
            return False
        last = max(seen, self._wanted_at if self._assigned_at is None else self._assigned_at)
        return now - last >= self._timings.job_unclaimed

    def take_back(self, now: float) -> None:
        """Note that unclaimed jobs are taken back.

        Args:
            now: The time just before: a receive that is seen later ends the doubt.
        """
        if self._doubted_at is not None:
            self._doubted_for = min(2 * self._doubted_for, self._timings.worker_idle)
        self._doubted_at = now
        self._doubted_until = now + self._doubted_for
        if self._assigned_at is not None:
            # Demand since the assignment was false: count idle time from the assignment.
            self._wanted_at = min(self._wanted_at, self._assigned_at)

    def idle_for(self, seen: float, now: float) -> float:
        """Return the seconds without demand and without a job taken."""
        return now - max(self._wanted_at, seen)


class CommitCost:
    """Notices, once, that slow commits limit the jobs a second of one worker channel.

    One thread. All times are seconds on one clock.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self._commits = 0
        self._spent = 0.0
        self._noticed = False

    def add(self, began: float, ended: float) -> float | None:
        """Note a commit.

        Args:
            began: When the member asked for it.
            ended: When the broker had answered.

        Returns:
            The mean time of a commit, when slow commits take most of the time for the first time;
            otherwise None.
        """
        if self._noticed:
            return None
        if not self._commits:
            self._began = began
        self._commits += 1
        self._spent += ended - began
        if self._commits < _COMMITS:
            return None
        mean, share = self._spent / self._commits, self._spent / (ended - self._began or 1.0)
        self._commits, self._spent = 0, 0.0
        self._noticed = mean >= _SLOW and share > 0.5
        return mean if self._noticed else None
