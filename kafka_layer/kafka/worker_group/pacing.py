"""When a worker channel is given jobs, takes back what nobody took, and leaves its group. Pure."""

from __future__ import annotations

from ...config.timings import Timings

__all__ = ["CommitCost", "Pacing"]

# Commits that are looked at together, and from which mean on they are slow, in seconds.
_COMMITS = 100
_SLOW = 0.004


class Pacing:
    """Follows the demand of one worker channel over time; one thread alone.

    The channel is

    ========= =============================================== =================================
    state     entered                                         left
    ========= =============================================== =================================
    *wanting* when a receive waits, or is about to (``want``) no receive waits, or ``take_back``
    *idle*    no receive waits                                when a receive waits
    *doubted* by ``take_back``: jobs were assigned and no   by the next sign of life, or after
              receive took them, as where an event loop is    a while that doubles each time
              blocked
    ========= =============================================== =================================

    While it is doubted a receive that waits is no demand: its jobs would be committed and
    uncommitted again and again, and kept from the other members of the group meanwhile.

    Args:
        timings: The layer's times.
        now: ``time.monotonic()``, as wherever a time is passed below.
    """

    def __init__(self, timings: Timings, now: float) -> None:
        self._timings = timings
        self._wanted_at = now
        self._assigned_at: float | None = None
        # When jobs were last taken back; None: never, or a receive has taken one since.
        self._doubted_at: float | None = None
        # When receives count again.
        self._doubted_until = 0.0
        self._doubted_for = timings.job_doubt

    def demand(self, waiting: int, seen: float, now: float) -> int:
        """Return how many jobs are wanted.

        Args:
            waiting: How many the receives that wait would take.
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
        """Note that a receive is about to wait: it is not idle, though nothing is wanted yet."""
        self._wanted_at = now

    def assign(self, now: float) -> None:
        """Note that jobs were assigned to receives."""
        self._assigned_at = now

    def has_unclaimed(self, unclaimed: int, seen: float, now: float) -> bool:
        """Tell whether jobs have to be taken back, because no receive took them for too long.

        Args:
            unclaimed: How many were assigned and not taken.
            seen: As for ``demand``.
            now: The time.
        """
        if not unclaimed:
            return False
        last = max(seen, self._wanted_at if self._assigned_at is None else self._assigned_at)
        return now - last >= self._timings.job_unclaimed

    def take_back(self, now: float) -> None:
        """Note that jobs which no receive took are taken back.

        Args:
            now: The time just before: a receive that was seen since then counts.
        """
        if self._doubted_at is not None:
            self._doubted_for = min(2 * self._doubted_for, self._timings.worker_idle)
        self._doubted_at = now
        self._doubted_until = now + self._doubted_for
        if self._assigned_at is not None:
            # Demand since the assignment was false: count it from the assignment.
            self._wanted_at = min(self._wanted_at, self._assigned_at)

    def idle_for(self, seen: float, now: float) -> float:
        """Return for how many seconds nothing has been wanted or taken."""
        return now - max(self._wanted_at, seen)


class CommitCost:
    """Notices, once, that commits are what bounds the jobs a second of one worker channel.

    One thread alone. All times are seconds on one clock.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self._commits = 0
        self._spent = 0.0
        self._noticed = False

    def add(self, began: float, ended: float) -> float | None:
        """Note a commit.

        Args:
            began: When it was asked for.
            ended: When it was answered.

        Returns:
            The mean time of a commit, if most of the time went into slow ones, and that was not
            noticed before; else None.
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
