"""The receives of this process on one worker channel, and the jobs handed to them.

Knows nothing of Kafka. A backplane asks how many receives wait, takes that many jobs for good, and
hands them over: a job that no receive waits for stays where any other process can have it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ..config import realtime as time
from ..config.topics import WorkerSettings
from ..delivery.mailbox import Envelope, Mailbox
from ..delivery.wakeups import Wakeups
from ..exceptions import UnreadableRecord
from ..observe.counters import Stats
from ..server.clock import BrokerClock
from ..wire.encryption import ReplayGuard
from ..wire.records import Place
from ..wire.topics import WorkTopic

__all__ = ["Job", "WorkChannel"]

# A mailbox of jobs holds no more than receives wait for; nothing is ever refused.
_UNBOUNDED = 1 << 30


class Job(Envelope):
    """A message of a worker channel, and where it stands in the channel's topic.

    Attributes:
        place: As in ``Envelope``; never None.
        holding: The backplane's mark of the time in which it held the partition; a job of an
            earlier time cannot be given back.
    """

    __slots__ = ("holding",)

    place: Place

    def __init__(self, payload: bytes, deadline: float, place: Place, holding: object) -> None:
        super().__init__(payload, deadline, place)
        self.holding = holding

    @property
    def partition(self) -> int:
        """The record's partition."""
        return self.place[1]

    @property
    def offset(self) -> int:
        """The record's offset."""
        return self.place[2]

    @property
    def written(self) -> float:
        """The record's timestamp, in seconds since the epoch."""
        return self.place[3]


class WorkChannel:
    """One worker channel of one server.

    Args:
        topic: The channel's topic.
        settings: When its messages expire, and how many are taken at once.
        guard: Decrypts the values of records.
        stats: Counts what is delivered and what is dropped.
        clock: Tells the age of a message.
        wakeups: The event loops that receive.

    Attributes:
        mailbox: What the receives wait on.
        waiting: Set when a receive begins to wait; whoever serves the channel clears it.
    """

    def __init__(
        self,
        topic: WorkTopic,
        settings: WorkerSettings,
        guard: ReplayGuard,
        stats: Stats,
        clock: BrokerClock,
        wakeups: Wakeups,
    ) -> None:
        self.topic = topic
        self.waiting = threading.Event()
        self.mailbox = Mailbox(topic.channel, _UNBOUNDED, wakeups, self.waiting.set)
        self._expiry = settings.expiry
        self._ahead = settings.prefetch_count - 1
        self._forgotten = 0.0
        self._guard = guard
        self._stats = stats
        self._clock = clock
        self._wakeups = wakeups

    @property
    def wanted(self) -> int:
        """How many jobs may be taken for good now: none unless a receive waits for one."""
        demand = self.mailbox.demand
        return demand + self._ahead if demand else 0

    @property
    def last_taken(self) -> float:
        """When a receive last waited or took, on ``time.monotonic()``."""
        return self.mailbox.last_seen

    def job(
        self,
        value: bytes | None,
        timestamp: float,
        partition: int,
        offset: int,
        holding: object = None,
    ) -> Job | None:
        """Make a job of a record.

        Args:
            value: The record's value.
            timestamp: The broker's, in seconds since the epoch.
            partition: The record's partition.
            offset: The record's offset.
            holding: As in ``Job``.

        Returns:
            The job, or None if it expired, was flushed or cannot be read; that is counted.
        """
        if timestamp <= self._forgotten:
            self._stats.count("dropped.flushed")
            return None
        age = max(0.0, self._clock.now() - timestamp)
        if age > self._expiry:
            self._stats.dropped("expired", f"{self.topic.value} was {age:.1f} s old")
            return None
        try:
            # Whoever gives a partition back reads its messages again when it has it anew.
            place = (partition, offset)
            payload = self._guard.decrypt(self.topic, None, value, timestamp, place)
        except UnreadableRecord as error:
            self._stats.dropped(error.cause, f"a record of {self.topic.value}: {error}")
            return None
        deadline = time.monotonic() + self._expiry - age
        return Job(payload, deadline, (self.topic, partition, offset, timestamp), holding)

    def hand_out(self, jobs: Sequence[Job]) -> None:
        """Give jobs to the receives that wait; they belong to this process from now on."""
        # A flush may have come since they were made.
        wanted = [job for job in jobs if job.written > self._forgotten]
        if len(wanted) < len(jobs):
            self._stats.count("dropped.flushed", len(jobs) - len(wanted))
        self._stats.count("delivered", len(wanted))
        self._put(wanted)

    def forget_until(self, timestamp: float) -> int:
        """Drop what was written until then and no receive has taken; any thread.

        Args:
            timestamp: The broker's, in seconds since the epoch.

        Returns:
            How many of the jobs that were handed out were dropped.
        """
        self._forgotten = max(self._forgotten, timestamp)
        return self.mailbox.clear()

    def take_back(self, wanted: Callable[[Job], bool]) -> list[Job]:
        """Return the jobs that were handed out and that no receive has taken yet.

        Args:
            wanted: Which ones; the others stay.
        """
        taken: list[Job] = []
        kept: list[Job] = []
        while (job := self.mailbox.take()) is not None:
            if isinstance(job, Job):
                (taken if wanted(job) else kept).append(job)
        self._put(kept)
        self._stats.count("delivered", -len(taken))
        return taken

    def _put(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.mailbox.put(job)
        self._wakeups.flush()
