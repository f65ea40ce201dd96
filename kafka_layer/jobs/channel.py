"""The receives of this process on one worker channel, and the jobs that are assigned to them.

Knows nothing of Kafka. A backplane asks how many receives wait, takes that many jobs for this
process, and assigns them; other jobs stay for other processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from ..config.realtime import monotonic
from ..config.threads import Nudge
from ..config.topics import WorkerSettings
from ..delivery.mailbox import Mailbox, Read
from ..delivery.wakeups import Wakeups
from ..exceptions import UnreadableRecord
from ..observe.counters import Stats
from ..server.clock import BrokerClock
from ..server.expiry import Expiry
from ..transport import FetchedRecord
from ..wire.encryption import ReplayGuard
from ..wire.records import Place
from ..wire.topics import StreamTopic, WorkTopic
from .ack import AckPolicy, JobInHand
from .job import Job

__all__ = ["WorkChannel"]

# A mailbox of jobs holds no more than receives wait for, so it refuses none.
_UNBOUNDED = 1 << 30


class _JobMailbox(Mailbox):
    """A mailbox of jobs, which reports each job that a receive takes to the policy."""

    __slots__ = ("_policy",)

    def __init__(
        self, channel: str, wakeups: Wakeups, on_wait: Callable[[], None], policy: AckPolicy
    ) -> None:
        super().__init__(channel, _UNBOUNDED, wakeups, on_wait)
        self._policy = policy

    def take(self) -> Job | None:
        """Take the oldest job for a receive; None if there is none."""
        job: Any = super().take()
        if job is not None:
            self._policy.taken(job)
        return cast("Job | None", job)

    def remove(self) -> Job | None:
        """Take the oldest job, not for a receive; None if there is none."""
        job = super().take()
        return job if isinstance(job, Job) else None

    def clear(self) -> int:
        """Drop every job and return how many there were; any thread."""
        dropped = 0
        while self.remove() is not None:
            dropped += 1
        return dropped


class WorkChannel:
    """One worker channel of one server; the ``JobSink`` that a backplane serves.

    Args:
        topic: The channel's topic.
        settings: The channel's ``expiry`` and ``prefetch_count``.
        guard: Decrypts the values of records.
        stats: Counts deliveries and drops.
        clock: Tells the age of a message.
        wakeups: The event loops that receive.
        policy: Gets reports of the jobs that receives take, and of their ends.

    Attributes:
        source: As in ``JobSink``.
        mailbox: The mailbox on which the receives wait.
        changed: Set when a receive begins to wait; the thread that serves the channel waits for it.
        on_demand: Called at the same time; None while a thread serves the channel.
        measured: As in ``JobSink``.
        backlog: As in ``JobSink``.
    """

    def __init__(
        self,
        topic: WorkTopic,
        settings: WorkerSettings,
        guard: ReplayGuard,
        stats: Stats,
        clock: BrokerClock,
        wakeups: Wakeups,
        policy: AckPolicy,
    ) -> None:
        self.topic = topic
        self.source: StreamTopic | None = None
        self.policy = policy
        self.changed = Nudge()
        self.on_demand: Callable[[], None] | None = None
        self.measured = False
        self.backlog: int | None = None
        self.mailbox = _JobMailbox(topic.channel, wakeups, self._on_wait, policy)
        self._waited_at = 0.0
        self._expiry = Expiry(settings.expiry, stats, clock)
        self._ahead = settings.prefetch_count - 1
        self._guard = guard
        self._stats = stats
        self._wakeups = wakeups

    async def receive(self, read: Read) -> tuple[dict[str, Any], JobInHand]:
        """Wait for a job, whose end the caller reports; in any event loop.

        Args:
            read: Decodes a job; None if it expired or cannot be read.

        Returns:
            The message, and its job, for the report.
        """
        mailbox = self.mailbox
        while True:
            # No await between taking a job and returning it.
            job = mailbox.take()
            if job is None:
                await mailbox.wait()
                continue
            message = self._open(read, job)
            if message is not None:
                return message, JobInHand(job, self.policy)
            self.policy.done(job)

    @property
    def demand(self) -> int:
        """How many jobs may be assigned now: none unless a receive waits."""
        demand = self.mailbox.demand
        return demand + self._ahead if demand else 0

    @property
    def unclaimed(self) -> int:
        """How many assigned jobs no receive has taken yet."""
        return len(self.mailbox)

    @property
    def last_seen(self) -> float:
        """When a receive last began to wait or took a job, on ``time.monotonic()``."""
        return max(self._waited_at, self.mailbox.last_seen)

    def accept(self, record: FetchedRecord, place: Place, assignment: object) -> Job | None:
        """Make a job of a record; the thread that serves the channel.

        Args:
            record: The record.
            place: Its place in the log.
            assignment: As in ``Job``.

        Returns:
            The job; None, counted, if it expired, was flushed or cannot be read.
        """
        _, partition, offset, timestamp = place
        self._expiry.read_clocks()
        deadline = self._expiry.deadline(timestamp, self.topic, "")
        if deadline is None:
            return None
        try:
            # A partition that is revoked and assigned again is read from its committed offset, so
            # the same place may come twice.
            value = record.value()
            payload = self._guard.decrypt(self.topic, None, value, timestamp, (partition, offset))
        except UnreadableRecord as error:
            self._stats.dropped(error.cause, f"a record of {self.topic.value}: {error}")
            return None
        return Job(payload, deadline, place, assignment)

    def assign(self, jobs: Sequence[Job]) -> None:
        """Give jobs to the receives that wait; they belong to this process from now on.

        A closed channel drops and counts them.
        """
        # A flush may have come since they were accepted.
        wanted = []
        for job in jobs:
            if job.timestamp > self._expiry.flushed_until:
                wanted.append(job)
            else:
                self._stats.count("dropped.flushed")
        # Count first: a receive may take a job before the last one is put.
        self._stats.count("delivered.job", len(wanted))
        dropped = self._put(wanted)
        if dropped:
            self._stats.count("delivered.job", -dropped)

    def stop(self, error: UnreadableRecord, place: Place) -> None:
        """Let every receive, from now on, raise ``error``; see ``JobSink``."""
        self.mailbox.close(error)

    def forget_until(self, timestamp: float) -> int:
        """Drop jobs that were written up to a time and that no receive has taken; any thread.

        Args:
            timestamp: The broker's time, in seconds since the epoch.

        Returns:
            How many assigned jobs were dropped.
        """
        self._expiry.forget_until(timestamp)
        return self.mailbox.clear()

    def return_unclaimed(self, which: Callable[[Job], bool]) -> list[Job]:
        """Take back assigned jobs that no receive has taken yet.

        Args:
            which: Tells whether to take a job; the others stay.
        """
        returned: list[Job] = []
        kept: list[Job] = []
        while (job := self.mailbox.remove()) is not None:
            (returned if which(job) else kept).append(job)
        self._stats.count("delivered.job", -len(returned) - self._put(kept))
        return returned

    def _open(self, read: Read, job: Job) -> dict[str, Any] | None:
        """Return the message of a job; None if it expired or cannot be read."""
        return read(self.mailbox, job)

    def _on_wait(self) -> None:
        self._waited_at = monotonic()
        self.changed.set()
        if self.on_demand is not None:
            self.on_demand()

    def _put(self, jobs: Sequence[Job]) -> int:
        """Put jobs into the mailbox; return how many were dropped because it is closed."""
        mailbox, dropped = self.mailbox, 0
        for job in jobs:
            if not mailbox.put(job):
                dropped += 1
        if mailbox.closed:
            # close() may have run before the last jobs were put.
            dropped += mailbox.clear()
        self._wakeups.flush()
        if dropped:
            self._stats.count("dropped.closed", dropped)
        return dropped
