"""One membership in the consumer group of a worker channel: a client, and the thread that owns it.

A member commits a job's position before it assigns the job to a receive that waits, so no job is
assigned twice, whichever process dies. It takes as many jobs as receives wait for, and
``prefetch_count`` - 1 more; further fetched jobs stay uncommitted. If no receive takes a job, the
member uncommits it: it commits the old position again, so that the partition's next member gets the
job. A process whose receives stop leaves the group after some seconds.

``positions.py`` keeps the positions, ``commits.py`` commits them, ``pacing.py`` decides when,
``evidence.py`` checks the client and ``kafka/liveness.py`` judges it.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import threading
from collections.abc import Collection, Container
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from ...config.realtime import monotonic
from ...config.settings import LayerConfig
from ...config.threads import Lock
from ...delivery.tickets import Ticket
from ...exceptions import RegistryAway, UnreadableRecord
from ...observe.counters import Stats
from ...transport import CarriedJob, JobSink
from ...wire.records import Place
from ..liveness import UNANSWERED, Evidence
from ..log import client_logger
from ..replacement import Replacement
from .client import GroupClient, GroupSource
from .commits import RETRY, TRY_AGAIN, Commits
from .evidence import GroupEvidence
from .pacing import CommitCost, Pacing
from .positions import JobPositions
from .recent import Handover, Recent
from .stream_commits import StreamCommits

__all__ = ["Ending", "Membership"]

logger = logging.getLogger("kafka_layer")

# Seconds: the longest wait for a first message or for demand; for metadata.
_POLL = 0.1
_LIST_TIMEOUT = 1.0
# Seconds. During a rebalance a client of the classic protocol leaves only when its coordinator
# answers.
_LEAVE_TIMEOUT = 1.0
_LEAVE_POLL = 0.01
# Limit of the expired or unreadable messages that one commit skips.
_SKIP = 500


class Ending(enum.Enum):
    """Why a membership ended."""

    LEFT = "no receive waited for worker_idle seconds beside other members, or worker_park alone"
    STOPPED = "the channel closes, or the membership was deserted"
    OUTDATED = "the topic was deleted and created again"
    HALTED = "a record of a stream cannot be read, and the settings say to stop before it"
    DEAD = "the client does not work, while another client gets answers"
    REFUSED = "the broker refuses the group or its protocol"
    FAILED = "an unexpected error, which is logged"


class Membership:
    """One client's time in the group, from its subscription to its end; it runs once.

    One thread executes ``run`` and the callbacks within it, and makes every call on the client. If
    that thread hangs in a call, another thread may desert the membership, and counts the jobs in
    doubt. From then on this membership assigns, gives back and counts nothing, because another one
    reads.

    Args:
        config: The layer's settings.
        source: The group and its topic.
        client: The client; ``run`` closes it.
        sink: The receives.
        stats: Counts errors and drops.
        replacement: Decides whether another client has to replace this one; outlives it.
        joined: Resolved once the group has assigned partitions.
        stop: Ends the membership.
        cost: The cost of commits; it outlives the client.
        handover: By partition: what an earlier membership handed over, because the topic was
            created again. This one reads those partitions from their beginning, and resets each
            entry with the first commit.

    Attributes:
        called_at: When the last round of calls on the client began, on ``time.monotonic()``.
        deserted: Whether another membership has replaced this one.
        halted_by: The error that stops the channel, and the place of its record; None if there is
            none.
    """

    def __init__(
        self,
        config: LayerConfig,
        source: GroupSource,
        client: GroupClient,
        sink: JobSink[Any],
        stats: Stats,
        replacement: Replacement[GroupClient],
        joined: Ticket[None],
        stop: threading.Event,
        cost: CommitCost,
        handover: dict[int, Handover],
    ) -> None:
        self.client = client
        self.called_at = monotonic()
        self.deserted = False
        # Whether the topic was created again: its positions here are not valid any more.
        self._outdated = False
        self._recent = Recent()
        self._handover = handover
        self.halted_by: tuple[UnreadableRecord, Place] | None = None
        self._timings = config.timings
        self._topic = topic = source.topic
        # For a stream's topic, by partition: the offset after the last record that came. Otherwise
        # None.
        self._came: dict[int, int] | None = None if source.stream is None else {}
        # Partitions that the client reads again from a record that could not be decoded yet. Their
        # later records of the present call come again as well.
        self._rewound: set[int] = set()
        self._consumer = client.consumer
        self._sink = sink
        self._replacement = replacement
        self._joined = joined
        self._stop = stop
        # Guards `deserted` and which jobs are in doubt; never held in a call of the client.
        self._lock = Lock()
        self._positions: JobPositions[CarriedJob] = JobPositions()
        self._pacing = Pacing(config.timings, monotonic())
        self._commits = Commits(client, topic, stats, cost)
        if source.stream is not None:
            start, timeout = source.stream.start, config.timings.worker_begin
            self._commits = StreamCommits(
                client, topic, stats, cost, start, timeout, had_positions=source.made_anew
            )
        self._evidence = GroupEvidence(client, self._positions)
        # When to ask next whether a check is due: not in each of a thousand rounds a second.
        self._look_at = 0.0
        self._look_pause = min(_POLL, config.timings.worker_look / 30)
        self._paused = False
        self._partitions = 0
        self._count_again = 0.0

    @property
    def share(self) -> int:
        """The number of assigned partitions; any thread."""
        return len(self._positions.assigned)

    @property
    def death(self) -> str:
        """The log line for replacing the client."""
        return self._evidence.death

    def run(self) -> Ending:
        """Be a member while there is demand, or while no other member wants the partitions."""
        try:
            self._consumer.subscribe(
                [self._topic],
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
            return self._serve()
        finally:
            if not self.deserted:
                self._sink.backlog = None
            try:
                self._leave()
            finally:
                self._consumer.close()

    def desert(self) -> None:
        """Note that another membership replaces this one, which hangs; any thread."""
        with self._lock:
            self.deserted = True
            in_doubt = self._positions.in_doubt(self._positions.assigned)
        self._commits.count_in_doubt(in_doubt)

    @property
    def handover(self) -> dict[int, Handover]:
        """What this membership hands over to the next one, in a topic that was created again.

        Empty for a stream, in which timestamps, set by producers, do not identify records. Read it
        after the membership has ended.
        """
        return {} if self._came is not None else self._recent.handover(self._commits.marks)

    def outdate(self) -> None:
        """Note that the topic was created again; any thread. From now on nothing is committed."""
        self._outdated = True

    def _serve(self) -> Ending:
        sink, pacing = self._sink, self._pacing
        self._replacement.begin()
        while self._goes_on():
            self.called_at = now = monotonic()
            if self.client.refusal is not None:
                return Ending.REFUSED
            if self._outdated:
                return Ending.OUTDATED
            if now >= self._look_at and self._is_dead(now):
                return Ending.DEAD
            seen = sink.last_seen
            if sink.unclaimed and pacing.has_unclaimed(sink.unclaimed, seen, now):
                self._take_back(now)
            demand = pacing.demand(sink.demand, seen, now)
            if demand:
                self._resume()
                self._commit_and_assign(self._fetch(demand))
                if self.halted_by is not None and not (self._positions.jobs or sink.unclaimed):
                    # All jobs before that record are done.
                    return Ending.HALTED
            elif not self._joined.done:
                # The first receive begins to wait only when the member has partitions.
                pacing.want(now)
                self._accept(self._poll(_POLL))
            elif not self._stays_idle(pacing.idle_for(seen, now)):
                return Ending.LEFT
        return Ending.STOPPED

    def _goes_on(self) -> bool:
        """Begin a round; return False after a stop."""
        if self.deserted:
            # The nudges are for the thread of the next membership.
            return False
        # First: what is set from here on ends the wait at the end of this round.
        self._sink.changed.clear()
        return not self._stop.is_set()

    def _stays_idle(self, idle: float) -> bool:
        """Wait briefly for demand; return False if the membership has to end without it.

        Args:
            idle: The seconds without demand.
        """
        if idle >= self._timings.worker_park:
            return False
        if idle >= self._timings.worker_idle and not self._is_alone():
            return False
        if idle >= self._timings.worker_pause:
            # poll() has to go on, to answer rebalances; paused partitions fetch nothing.
            self._pause()
        if idle >= _POLL:
            self._accept(self._poll(0))
        if not self.deserted:
            self._sink.changed.wait(_POLL)
        return True

    def _leave(self) -> None:
        """Leave the group before the client closes; ``_on_revoke`` gives jobs back.

        Closing a client revokes all its partitions. If another revocation is pending, because a
        worker has just joined, librdkafka may never answer the second one. confluent-kafka holds
        the interpreter meanwhile, so the whole process would hang. Before the close librdkafka
        answers both.
        """
        consumer = self._consumer
        consumer.unsubscribe()
        deadline = monotonic() + _LEAVE_TIMEOUT
        # At least once, because an assignment may be queued. Messages come before rebalance events.
        message = consumer.poll(0)
        while (message is not None or consumer.assignment()) and monotonic() < deadline:
            message = consumer.poll(_LEAVE_POLL)

    # Jobs

    def _fetch(self, demand: int) -> int:
        """Fetch as many jobs as receives wait for, but wait for the first one alone.

        Returns:
            How many jobs receives wait for afterwards.
        """
        jobs = self._positions.jobs
        if not jobs:
            message = self._poll(_POLL)
            if message is None:
                self._evidence.note_nothing()
            jobs += self._accept(message)
            # A receive may have been cancelled meanwhile.
            demand = self._pacing.demand(self._sink.demand, self._sink.last_seen, monotonic())
        elif self._rewound:
            self._rewound.clear()
        while jobs < demand and self._positions.messages < _SKIP and not self._holds:
            messages = self._consumer.consume(demand - jobs, 0)
            if not messages:
                break
            jobs += sum(map(self._accept, messages))
        return demand

    def _fetch_ahead(self) -> None:
        """Fetch the next job, without waiting, while the event loop wakes for the last ones.

        It stays uncommitted until a receive waits. A record of a stream may need the answer of a
        registry, which would delay the jobs of receives that wait meanwhile.
        """
        if self._came is None and not self._positions.messages:
            for message in self._consumer.consume(1, 0):
                self._accept(message)

    @property
    def _holds(self) -> bool:
        """Whether the client reads a record again, or has to stop."""
        return bool(self._rewound) or self.halted_by is not None

    def _poll(self, timeout: float) -> Message | None:
        if self._rewound:
            self._rewound.clear()
        return self._consumer.poll(timeout)

    def _accept(self, message: Message | None) -> bool:
        """Take a message of the client; return whether it is a job for a receive."""
        if message is None:
            return False
        error = message.error()
        if error is not None and error.code() == KafkaError._PARTITION_EOF:
            self._note_end(message.partition() or 0, message.offset() or 0)
            return False
        if error is not None:
            self.client.on_error(error)
            client_logger.warning("CONSUME %s: %s", self._topic, error.str())
            return False
        self._evidence.note_message()
        partition, offset = message.partition() or 0, message.offset() or 0
        assignment = self._positions.assigned.get(partition)
        if assignment is None:
            # Fetched before a rebalance in the same call: the partition has another member now.
            return False
        if self._holds:
            self._hold_back(partition, offset)
            return False
        timestamp = message.timestamp()[1]
        self._commits.note_message(partition, timestamp)
        if self._handover and self._was_taken(partition, offset, timestamp):
            self._positions.fetch(partition, offset, None)
            return False
        place = (self._sink.topic, partition, offset, timestamp / 1000)
        try:
            job = self._sink.accept(message, place, assignment)
        except RegistryAway as away:
            client_logger.warning("REGISTRY %s waits: %s", self._topic, away)
            self._read_again(partition, offset)
            self._stop.wait(self._timings.registry_retry)
            return False
        except UnreadableRecord as unreadable:
            self.halted_by = unreadable, place
            return False
        self._positions.fetch(partition, offset, job)
        if self._came is None:
            self._recent.fetch(partition, offset, timestamp)
        else:
            self._came[partition] = offset + 1
        return job is not None

    def _hold_back(self, partition: int, offset: int) -> None:
        """Read a message again that came after the one that could not be decoded."""
        if self.halted_by is None and partition not in self._rewound:
            # Do not decode it now: one request to a registry that does not answer is enough.
            self._read_again(partition, offset)

    def _was_taken(self, partition: int, offset: int, timestamp: int) -> bool:
        """Tell whether the last membership took this message of the new topic already."""
        handover = self._handover.get(partition)
        return handover is not None and handover.messages.get(offset) == timestamp

    def _note_end(self, partition: int, offset: int) -> None:
        """Note that the client has read a stream's partition up to its end.

        Between the last record and that end are no records for consumers (such as markers of
        transactions), so the end can be committed.
        """
        if self._holds:
            return
        self.client.ends[partition] = offset
        came = -1 if self._came is None else self._came.get(partition, -1)
        if partition in self._positions.assigned and 0 <= came < offset:
            self._positions.fetch(partition, offset - 1, None)

    def _read_again(self, partition: int, offset: int) -> None:
        """Have the client return a record, and those behind it, again."""
        self._consumer.seek(TopicPartition(self._topic, partition, offset))
        self._rewound.add(partition)

    def _commit_and_assign(self, demand: int) -> None:
        """Commit as many jobs as receives wait for, and assign them."""
        with self._lock:
            if self.deserted or self._outdated:
                return
            batch = self._positions.next_batch(demand)
        if not batch.messages:
            return
        error = self._commits.commit_batch(batch)
        with self._lock:
            if self.deserted:
                return
            if error is None:
                jobs = self._positions.commit_succeeded(batch)
                if self._handover:
                    self._note_progress(batch.positions)
            else:
                self._positions.commit_failed(batch)
        if error is None:
            self._sink.assign(jobs)
            # What follows is done while the event loop wakes.
            self._recent.take(batch.messages)
            self._pacing.assign(monotonic())
            self._fetch_ahead()
            if len(jobs) >= demand and not self.deserted:
                # There is nothing more to do before another receive waits.
                self._sink.changed.wait(_POLL)
        else:
            if error.code() not in TRY_AGAIN:
                client_logger.warning("COMMIT %s: %s", self._topic, error.str())
            # poll() answers rebalances; without it the commit would never succeed.
            self._accept(self._poll(RETRY))

    def _note_progress(self, partitions: Collection[int]) -> None:
        """Note that partitions of a topic that was created again have committed offsets in it."""
        for partition in partitions:
            if partition in self._handover:
                self._handover[partition].mark = None

    def _take_back(self, now: float) -> None:
        """Uncommit jobs that no receive takes, so that a process that dies loses none of them."""
        partitions = self._take_unclaimed(self._positions.assigned)
        if not partitions:
            return
        self._pacing.take_back(now)
        positions = self._positions.to_give_back(partitions)
        errors = self._commits.commit(positions)
        with self._lock:
            # Jobs whose commit failed stay in doubt until their next commit.
            self._positions.settle(positions.keys() - errors.keys())

    def _take_unclaimed(self, partitions: Container[int]) -> Collection[int]:
        """Take unclaimed jobs out of the sink, if they can be given back; they are in doubt then.

        Args:
            partitions: The partitions whose jobs to take.

        Returns:
            The partitions that had unclaimed jobs.
        """
        if self.deserted or self._outdated:
            return ()
        jobs = self._sink.return_unclaimed(
            lambda job: job.partition in partitions and self._positions.is_current(job)
        )
        with self._lock:
            if not self.deserted:
                self._positions.take_back(jobs)
                self._recent.give_back(jobs)
                return {job.partition for job in jobs}
        # Deserted meanwhile: the jobs are committed, and can no longer be given back.
        self._sink.assign(jobs)
        return ()

    # Rebalances, called within the client's calls

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        starts = self._commits.begin([each.partition for each in partitions])
        for each in partitions:
            if self._begins_again(each.partition):
                starts[each.partition] = OFFSET_BEGINNING
            each.offset = starts.get(each.partition, each.offset)
            self.client.ends.pop(each.partition, None)
            if self._came is not None:
                self._came.pop(each.partition, None)
        self._positions.assign([each.partition for each in partitions])
        consumer.incremental_assign(partitions)
        if self._paused:
            consumer.pause(partitions)
        self._joined.resolve(None)

    def _begins_again(self, partition: int) -> bool:
        """Tell whether the last commit is an offset of the topic before it was created again."""
        handover = self._handover.get(partition)
        if handover is None or handover.mark is None:
            return False
        if handover.mark != self._commits.marks.get(partition):
            # Another member has committed since.
            handover.mark = None
            return False
        self._commits.restart(partition)
        return True

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        revoked = {each.partition for each in partitions}
        self._take_unclaimed(revoked)
        given_back: Collection[int] = ()
        if not (self.deserted or self._outdated):
            given_back = self._commits.give_back(self._positions.to_give_back(revoked))
        self._drop(revoked, given_back)
        consumer.incremental_unassign(partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Other members have the partitions by now. Jobs that receives have are committed, and stay
        # here.
        self._drop({each.partition for each in partitions}, ())
        consumer.incremental_unassign(partitions)

    def _drop(self, partitions: Collection[int], given_back: Collection[int]) -> None:
        """Note that partitions are revoked, and count their jobs in doubt.

        Args:
            partitions: The partitions.
            given_back: Those whose positions were given back, so that no job is in doubt.
        """
        with self._lock:
            self._positions.settle(given_back)
            self._recent.revoke(partitions)
            in_doubt = self._positions.revoke(partitions)
            if self.deserted:
                return
        self._commits.count_in_doubt(in_doubt)

    def _is_alone(self) -> bool:
        """Tell whether no other member has partitions; a new member would get some at once.

        Then no other member waits for this one's partitions, and leaving would only cost time
        later: a group without members waits for the broker's ``group.initial.rebalance.delay.ms``
        before it assigns partitions.
        """
        now = monotonic()
        if now >= self._count_again:
            self._count_again = now + self._timings.worker_idle
            with contextlib.suppress(KafkaException):
                metadata = self._consumer.list_topics(self._topic, timeout=_LIST_TIMEOUT)
                self._partitions = len(metadata.topics[self._topic].partitions)
        # With one partition the answer is not known, because other members may have none. Nor is it
        # known before a broker has reported the number of partitions.
        shares = len(self._positions.assigned)
        return shares >= 2 and 0 < self._partitions <= shares

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._consumer.pause(self._consumer.assignment())

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._consumer.resume(self._consumer.assignment())

    def _is_dead(self, now: float) -> bool:
        """Check the client, if that is due; return whether another one has to replace it."""
        self._look_at = now + self._look_pause
        return self._replacement.is_called_for(self._look)

    def _look(self) -> Evidence:
        self._recent.forget(monotonic())
        evidence = self._evidence.look()
        if evidence is UNANSWERED:
            # After a first check without an answer the second one follows soon.
            self._replacement.alert()
        elif self._sink.measured:
            assigned = self._positions.assigned
            backlog = self.client.backlog(list(assigned)) if assigned else None
            if not self.deserted:
                self._sink.backlog = backlog
        return evidence
