"""The worker channels of the layer in memory: jobs that wait, and servers that do them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from ..config.realtime import monotonic
from ..config.threads import new_condition, new_event, new_thread
from ..config.timings import Timings
from ..exceptions import RegistryAway, UnreadableRecord
from ..kafka.worker_group.pacing import Pacing
from ..transport import JobSink
from ..wire.records import Place

__all__ = ["JobRecord", "JobServer", "Waiting", "WaitingJobs"]

_POLL = 0.1


class JobRecord(NamedTuple):
    """A job as it was sent; a ``FetchedRecord``.

    Attributes:
        number: The job's number in its channel.
        partition: The partition of its record.
        offset: The offset of its record.
        timestamp: When it was sent, in seconds since the epoch.
        raw_key: The raw key of its record.
        raw_value: The raw value of its record.
        raw_headers: The headers of its record.
    """

    number: int
    partition: int
    offset: int
    timestamp: float
    raw_key: bytes | None
    raw_value: bytes | None
    raw_headers: Sequence[tuple[str, bytes | None]]

    def key(self) -> bytes | None:
        """Return the raw key."""
        return self.raw_key

    def value(self) -> bytes | None:
        """Return the raw value."""
        return self.raw_value

    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """Return the headers."""
        return self.raw_headers


class Waiting(Protocol):
    """Records of which each is for one receive; any thread."""

    def take(self, timeout: float) -> JobRecord | None:
        """Remove and return the oldest one; None if there is none within ``timeout`` seconds."""

    def give_back(self, records: Iterable[JobRecord]) -> None:
        """Take records back that no receive of a server took."""

    def wake(self) -> None:
        """Let each ``take`` that waits return at once."""


class WaitingJobs:
    """The jobs of one worker channel that no server holds, the oldest first; any thread."""

    def __init__(self) -> None:
        self._changed = new_condition()
        self._records: deque[JobRecord] = deque()
        self._sent = 0

    def send(
        self, value: bytes, timestamp: float, headers: Sequence[tuple[str, bytes]] = ()
    ) -> int:
        """Add a job; returns its offset."""
        with self._changed:
            number = self._sent
            self._sent += 1
            self._records.append(JobRecord(number, 0, number, timestamp, None, value, headers))
            self._changed.notify()
        return number

    def give_back(self, records: Iterable[JobRecord]) -> None:
        """Take jobs back that no receive of a server took."""
        with self._changed:
            self._records = deque(sorted([*records, *self._records]))
            self._changed.notify_all()

    def take(self, timeout: float) -> JobRecord | None:
        """Remove and return the oldest job; None if there is none within ``timeout`` seconds."""
        with self._changed:
            if not self._records:
                self._changed.wait(timeout)
            return self._records.popleft() if self._records else None

    def wake(self) -> None:
        """Let each ``take`` that waits return at once."""
        with self._changed:
            self._changed.notify_all()

    def clear(self) -> None:
        """Drop them all."""
        with self._changed:
            self._records.clear()


class JobServer:
    """Gives the jobs of one worker channel to the receives of one server, in a thread.

    Args:
        jobs: The channel's jobs.
        sink: The receives.
        timings: The layer's times, as for a worker on Kafka.
    """

    def __init__(self, jobs: Waiting, sink: JobSink[Any], timings: Timings) -> None:
        self._jobs = jobs
        self._sink = sink
        self._timings = timings
        self._stopped_by: tuple[UnreadableRecord, Place] | None = None
        self._pacing = Pacing(timings, monotonic())
        # Jobs that were assigned and that no receive may have taken yet, the oldest first.
        self._assigned: deque[JobRecord] = deque()
        self._stopped = new_event()
        self._thread = new_thread(target=self._run, name=f"kafka-layer-work-{sink.topic.channel}")

    def start(self) -> None:
        """Begin to serve the receives."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to give back what no receive took, and to end."""
        self._stopped.set()
        self._sink.changed.set()
        self._jobs.wake()

    def join(self, timeout: float) -> None:
        """Wait for the thread to end, at most ``timeout`` seconds."""
        self._thread.join(timeout)

    def _run(self) -> None:
        sink, pacing = self._sink, self._pacing
        while not self._stopped.is_set():
            now, seen = monotonic(), sink.last_seen
            if pacing.has_unclaimed(sink.unclaimed, seen, now):
                pacing.take_back(now)
                self._give_back()
            if pacing.demand(sink.demand, seen, now):
                self._assign_next()
                continue
            sink.changed.wait(_POLL)
        # A layer that closes gives back the jobs that no receive took.
        self._give_back()
        if self._stopped_by is not None:
            self._sink.stop(*self._stopped_by)

    def _assign_next(self) -> None:
        record = self._jobs.take(_POLL)
        if record is None:
            return
        if not self._sink.demand:
            # The receive was cancelled meanwhile; another server may have a receive that waits.
            self._jobs.give_back([record])
            return
        place = (self._sink.topic, record.partition, record.offset, record.timestamp)
        try:
            job = self._sink.accept(record, place, None)
        except RegistryAway:
            self._jobs.give_back([record])
            self._stopped.wait(self._timings.registry_retry)
            return
        except UnreadableRecord as error:
            self._jobs.give_back([record])
            self._stopped.set()
            self._stopped_by = error, place
            return
        if job is None:
            return
        # Receives take the oldest job first, so the last of the assigned jobs are unclaimed.
        for _ in range(len(self._assigned) - self._sink.unclaimed):
            self._assigned.popleft()
        self._assigned.append(record)
        self._sink.assign([job])
        self._pacing.assign(monotonic())

    def _give_back(self) -> None:
        returned = self._sink.return_unclaimed(lambda job: True)
        unclaimed = {(job.partition, job.offset) for job in returned}
        self._jobs.give_back(
            each for each in self._assigned if (each.partition, each.offset) in unclaimed
        )
        self._assigned.clear()
