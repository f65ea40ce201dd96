"""The consumer of one worker channel: a member of a consumer group that shares the messages.

A message's position is committed before the message is handed to a receive that waits, so nothing
is handed out twice, whoever dies. Only as much is taken as receives wait for, times
``prefetch_count``. What was fetched and not handed out belongs to whoever gets the partition next;
what was handed out and no receive takes is uncommitted, to the same end. A process whose receives
stop gives its share back to the others after some seconds.

One thread owns every call on the client.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from ..config.librdkafka import Properties
from ..config.settings import LayerConfig
from ..exceptions import KafkaLayerError, TopicError
from ..jobs.channel import Job, WorkChannel
from ..observe.counters import Stats
from .clients import abandon, ends_of, new_client
from .connection import Connection
from .errors import kafka_error, topic_error
from .log import client_logger
from .properties import work_properties

__all__ = ["GIVE_BACK_AFTER", "WorkConsumer"]

logger = logging.getLogger("kafka_layer")

GIVE_BACK_AFTER = 5.0
"""Seconds without a receive after which this process leaves the group to others."""

# Seconds without a receive after which what was handed out and not taken is taken back.
_TAKE_BACK_AFTER = 0.1
_PAUSE_AFTER = 1.0
_POLL = 0.1
_RETRY = 0.05
_REJOIN = 1.0
_GIVE_BACK_TIMEOUT = 2.0
# A client of the classic protocol that is rebalancing leaves only once its coordinator answers.
_LEAVE_TIMEOUT = 1.0
_LEAVE_POLL = 0.01

# How often a client has to show that it gets what the log holds, and where nothing moved since the
# last time, that it reaches a broker; the broker has so long to answer.
_SILENT_AFTER = 3.0
_ANSWER_TIMEOUT = 2.0
# A commit without an answer is repeated when ``socket.timeout.ms`` is over; what waits for longer,
# while a broker answers others, and so many looks later still waits, does so for ever.
_STUCK_AFTER = 12.0
_PATIENCE = 3

# How many messages that expired or cannot be read one commit may skip.
_SKIP = 500

# What a commit says while the group is rebalancing or the coordinator moves: ask again.
_TRY_AGAIN = frozenset(
    {
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._WAIT_COORD,
    }
)

# What no retry of this process mends.
_REFUSALS = frozenset(
    {
        KafkaError._FATAL,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)

_CUT_OFF = (
    "The Kafka consumer of worker channel %s reaches no broker, as another does; that one goes on"
)
_SILENT = "The Kafka consumer of worker channel %s got nothing that the log holds; another goes on"

Partition = tuple[str, int]


class _Fetched(NamedTuple):
    """A message that was fetched and not committed yet."""

    where: Partition
    offset: int
    # The mark of the time in which this member held the partition.
    holding: object
    # None if it expired or cannot be read: only its position has to be committed.
    job: Job | None


class WorkConsumer:
    """Serves the receives of one worker channel of one server.

    Args:
        config: The layer's settings.
        topic: Kafka's name of the channel's topic.
        channel: The receives.
        stats: Counts what went wrong.
        connection: Is told of errors.
    """

    def __init__(
        self,
        config: LayerConfig,
        topic: str,
        channel: WorkChannel,
        stats: Stats,
        connection: Connection,
    ) -> None:
        self._config = config
        self._topic = topic
        self._channel = channel
        self._stats = stats
        self._connection = connection
        self._properties = Properties(
            {
                **work_properties(config, topic),
                "error_cb": self._on_error,
                "logger": client_logger,
            }
        )
        self._client: Consumer | None = None
        # The partitions of this member, each with a mark of this one time that it holds it: a
        # message that was fetched in an earlier time is fetched again by whoever holds it now.
        self._held: dict[Partition, object] = {}
        # Fetched and not committed, in the order in which they came.
        self._fetched: deque[_Fetched] = deque()
        # Where a commit failed and may have taken effect all the same: its first offset.
        self._doubtful: dict[Partition, int] = {}
        self._partitions = 0
        self._count_again = 0.0
        self._paused = False
        self._refused: KafkaError | None = None
        # What the broker was asked to commit and did not answer yet.
        self._asked: dict[Partition, int] = {}
        self._moved_at = self._looked_at = self._round_at = time.monotonic()
        self._suspicions = 0
        # Whether the client had nothing more since the last look, where the log held more than
        # was read then, and where it did so when a client was replaced for it.
        self._emptied = False
        self._behind: dict[Partition, int] = {}
        self._stuck: dict[Partition, int] = {}
        # Another one is in its place: the channel is not its business any more.
        self._replaced = False
        self._settled = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, timeout: float) -> None:
        """Join the group; returns once that is settled, or the time is up and it goes on.

        Args:
            timeout: Seconds that this may block.

        Raises:
            TopicError: If the broker refuses the group or its protocol.
            ImproperlyConfigured: If librdkafka refuses a property.
        """
        self._begin(self._new_client())
        self._settled.wait(max(0.0, timeout))
        if self._refused is not None:
            raise self._refusal(self._refused)

    def checked(self) -> WorkConsumer:
        """Return this consumer, or one that took its place; any thread but its own, blocks briefly.

        A commit has no time-out, and a client that was told of no broker waits in it for ever. No
        other thread can call that client meanwhile.
        """
        stuck = self._client is not None and time.monotonic() - self._round_at > _STUCK_AFTER
        if not stuck or self._stop.is_set() or self._connection.lost:
            self._suspicions = 0
            return self
        self._suspicions += 1
        if self._suspicions < _PATIENCE:
            return self
        another = self._answered_client()
        return self if another is None else self._give_way_to(another)

    def stop(self) -> None:
        """Ask the thread to end, without waiting for it."""
        self._stop.set()
        self._channel.waiting.set()

    def join(self, timeout: float) -> None:
        """Wait for the thread to end, at most ``timeout`` seconds."""
        self.stop()
        if self._thread is not None:
            self._thread.join(timeout)

    def abandon(self) -> None:
        """Keep the client from ever being freed: in a forked child that aborts the process."""
        abandon(self._client)

    def _begin(self, client: Consumer) -> None:
        self._client = client
        self._round_at = time.monotonic()
        self._thread = threading.Thread(
            target=self._run, name=f"kafka-layer-work-{self._channel.topic.channel}", daemon=True
        )
        self._thread.start()

    def _is_answered(self, client: Consumer) -> bool:
        try:
            client.list_topics(self._topic, _ANSWER_TIMEOUT)
        except KafkaException:
            return False
        return True

    def _is_cut_off(self, client: Consumer) -> bool:
        """Tell whether a client is not answered where another one is.

        One whose only broker was away for a moment may be told of no broker at all; then it asks
        nobody any more.
        """
        if self._connection.lost or self._is_answered(client):
            return False
        another = self._answered_client()
        if another is None:
            return False
        another.close()
        return True

    def _answered_client(self) -> Consumer | None:
        """Return a client that is answered, where a new one is."""
        client = self._new_client()
        if self._is_answered(client):
            return client
        client.close()
        return None

    def _new_client(self) -> Consumer:
        return new_client(Consumer, self._properties, "consumer_config")

    def _is_silent(self, client: Consumer) -> bool:
        """Tell whether a client gets nothing of what the log holds, at two looks in a row.

        After an outage librdkafka may stay silent for good, without an error.
        """
        emptied, self._emptied = self._emptied, False
        asks = emptied and not self._fetched and not self._connection.lost
        before, self._behind = self._behind, self._behind_of(client) if asks else {}
        silent = dict(before.items() & self._behind.items())
        # Where another client did not get on either, there is nothing to get.
        if not silent or silent == self._stuck:
            return False
        self._stuck = silent
        return True

    def _behind_of(self, client: Consumer) -> dict[Partition, int]:
        """Return the positions of partitions of which the log holds more, as far as is known.

        What was read is committed when this is asked.
        """
        behind = {}
        try:
            positions = client.committed(client.assignment(), _ANSWER_TIMEOUT)
            partitions = [(each.topic, each.partition) for each in positions]
            ends = ends_of(client, partitions, _ANSWER_TIMEOUT)
            for each in positions:
                where = each.topic, each.partition
                if each.offset < ends.get(where, 0):
                    # Retention may have taken what was not read.
                    low, end = client.get_watermark_offsets(each, _ANSWER_TIMEOUT, cached=False)
                    if max(low, each.offset) < end:
                        behind[where] = each.offset
        except KafkaException:
            return {}
        return behind

    def _is_dead(self, client: Consumer) -> bool:
        """Tell, at every look, whether another client has to take the place of this one."""
        if self._round_at - self._looked_at <= _SILENT_AFTER:
            return False
        unmoved = self._moved_at < self._looked_at
        if unmoved and self._is_cut_off(client):
            self._note_replacement(_CUT_OFF)
            return True
        if self._is_silent(client):
            self._note_replacement(_SILENT)
            return True
        self._looked_at = time.monotonic()
        return False

    def _note_replacement(self, message: str) -> None:
        self._stats.count("consumer.replaced")
        logger.error(message, self._topic)

    def _give_way_to(self, client: Consumer) -> WorkConsumer:
        self._replaced = True
        # Its thread may never notice.
        self.stop()
        self._count_doubtful(self._asked)
        self._note_replacement(_CUT_OFF)
        another = WorkConsumer(
            self._config, self._topic, self._channel, self._stats, self._connection
        )
        # Nobody waits for its start: what the broker refuses it says in the log.
        another._settled.set()
        another._begin(client)
        return another

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._take_part()
            except Exception:
                self._stats.count("errors.worker")
                logger.exception("The thread of worker channel %s goes on", self._topic)
                self._stop.wait(_RETRY)
            if self._refused is not None:
                client_logger.error("REFUSED %s", self._refusal(self._refused))
                if not self._settled.is_set():
                    # start() raises it.
                    self._settled.set()
                    return
                # It worked before, so it may work again; a fatal error needs a new client.
                self._refused = None
                self._stop.wait(_REJOIN)
        self._count_left()

    def _take_part(self) -> None:
        """Be a member of the group for as long as receives come."""
        client = self._client = self._client or self._new_client()
        try:
            client.subscribe(
                [self._topic],
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
            self._serve(client)
        finally:
            try:
                self._leave(client)
            finally:
                client.close()
                self._client = None
            self._fetched.clear()
            self._held.clear()
            self._doubtful.clear()
        while not self._stop.is_set() and self._refused is None and not self._channel.wanted:
            self._channel.waiting.wait()
            self._channel.waiting.clear()

    def _leave(self, client: Consumer) -> None:
        """Leave the group, as a client has to before it closes; on_revoke gives jobs back.

        Closing asks to revoke all that is assigned. Where another revocation waits already, as when
        a worker has just joined, librdkafka may never answer the second one, and confluent-kafka
        would hold the interpreter meanwhile: the whole process would stand still. A client that is
        not closing answers all of them.
        """
        client.unsubscribe()
        deadline = time.monotonic() + _LEAVE_TIMEOUT
        # An assignment may wait as well, so one look at least; messages come before both.
        message = client.poll(0)
        while (message is not None or client.assignment()) and time.monotonic() < deadline:
            message = client.poll(_LEAVE_POLL)

    def _serve(self, client: Consumer) -> None:
        last_wanted = self._moved_at = self._looked_at = time.monotonic()
        while not self._stop.is_set() and self._refused is None:
            self._round_at = time.monotonic()
            if self._is_dead(client):
                return
            wanted = self._channel.wanted
            if wanted:
                last_wanted = time.monotonic()
                self._resume(client)
                self._fetch(client, wanted)
                self._hand_out(client)
                continue
            idle = time.monotonic() - max(last_wanted, self._channel.last_taken)
            if idle >= GIVE_BACK_AFTER and not self._is_alone(client):
                return
            if idle >= _TAKE_BACK_AFTER:
                self._take_back(client)
            if idle >= _PAUSE_AFTER:
                # Rebalances are answered in poll(), and it must not bring messages for ever.
                self._pause(client)
            if idle >= _POLL:
                self._keep(client.poll(0))
            self._channel.waiting.wait(_POLL)
            self._channel.waiting.clear()

    def _is_alone(self, client: Consumer) -> bool:
        """Tell whether no other member holds a share; a new one would get its own at once.

        Then nobody waits for what this process holds, and leaving would only cost it time when its
        job is done: a group without members waits for the broker's
        ``group.initial.rebalance.delay.ms`` before it assigns anything.
        """
        now = time.monotonic()
        if now >= self._count_again:
            self._count_again = now + GIVE_BACK_AFTER
            with contextlib.suppress(KafkaException):
                metadata = client.list_topics(self._topic, timeout=_REJOIN)
                self._partitions = len(metadata.topics[self._topic].partitions)
        # One partition tells nothing: the others may have none.
        return len(self._held) >= max(2, self._partitions)

    def _fetch(self, client: Consumer, wanted: int) -> None:
        live = sum(each.job is not None for each in self._fetched)
        if not live:
            message = client.poll(_POLL)
            self._emptied = self._emptied or message is None
            live += self._keep(message)
        while live < wanted and len(self._fetched) < _SKIP:
            messages = client.consume(wanted - live, 0)
            if not messages:
                break
            live += sum(map(self._keep, messages))

    def _keep(self, message: Message | None) -> bool:
        """Take a message from the client; tells whether a receive can have it."""
        if message is None:
            return False
        error = message.error()
        if error is not None:
            self._on_error(error)
            client_logger.warning("CONSUME %s: %s", self._topic, error.str())
            return False
        self._moved_at = time.monotonic()
        where = (message.topic() or "", message.partition() or 0)
        holding = self._held.get(where)
        if holding is None:
            # Fetched before a rebalance that came in the same call: another member's by now.
            return False
        offset = message.offset() or 0
        timestamp = message.timestamp()[1] / 1000
        job = self._channel.job(message.value(), timestamp, where[1], offset, holding)
        self._fetched.append(_Fetched(where, offset, holding, job))
        return job is not None

    def _hand_out(self, client: Consumer) -> None:
        # Asked again: a receive may have been cancelled while poll() waited.
        batch = self._next(self._channel.wanted)
        if not batch:
            return
        error = self._commit(client, {each.where: each.offset + 1 for each in batch})
        if error is not None:
            if error.code() not in _TRY_AGAIN:
                client_logger.warning("COMMIT %s: %s", self._topic, error.str())
            # Whatever the error is: the client repeats a commit that got no answer, and what the
            # repetition is told (the session ended, say) tells nothing of the first one.
            self._doubt((each.where, each.offset) for each in batch)
            self._fetched.extendleft(reversed(batch))
            # Rebalances are answered in poll(): without it the commit would fail for ever.
            self._keep(client.poll(_RETRY))
            return
        for each in batch:
            self._doubtful.pop(each.where, None)
        self._channel.hand_out([each.job for each in batch if each.job is not None])

    def _take_back(self, client: Consumer) -> None:
        """Uncommit what was handed out while no receive takes it: who dies now loses none of it."""
        unread = self._unread(self._held.keys())
        if not unread:
            return
        self._fetched.extendleft(
            _Fetched(self._where(job), job.offset, job.holding, job) for job in reversed(unread)
        )
        first = self._first(unread)
        if self._commit(client, first) is not None:
            # They are committed anew before they are handed out again.
            self._doubt(first.items())

    def _doubt(self, positions: Iterable[tuple[Partition, int]]) -> None:
        if self._replaced:
            # It is counted already, and the other one reads them again.
            return
        for where, offset in positions:
            self._doubtful.setdefault(where, offset)

    def _unread(self, partitions: Collection[Partition]) -> list[Job]:
        """Take what no receive has taken yet out of the channel, where it can be given back."""
        return self._taken_back(
            lambda job: (
                self._where(job) in partitions and self._held.get(self._where(job)) is job.holding
            )
        )

    def _taken_back(self, wanted: Callable[[Job], bool]) -> list[Job]:
        return [] if self._replaced else self._channel.take_back(wanted)

    def _where(self, job: Job) -> Partition:
        return self._topic, job.partition

    def _first(self, jobs: Sequence[Job]) -> dict[Partition, int]:
        first: dict[Partition, int] = {}
        for job in jobs:
            where = self._where(job)
            first[where] = min(job.offset, first.get(where, job.offset))
        return first

    def _next(self, wanted: int) -> list[_Fetched]:
        batch: list[_Fetched] = []
        while self._fetched and wanted > 0:
            batch.append(self._fetched.popleft())
            wanted -= batch[-1].job is not None
        return batch

    def _commit(self, client: Consumer, positions: dict[Partition, int]) -> KafkaError | None:
        offsets = [TopicPartition(*where, offset) for where, offset in positions.items()]
        error = None
        self._asked = positions
        try:
            for answer in client.commit(offsets=offsets, asynchronous=False) or ():
                error = error or answer.error
        except KafkaException as exception:
            error = kafka_error(exception)
        self._asked = {}
        if error is not None:
            self._stats.count(f"errors.{error.name()}")
        return error

    def _commit_back(self, client: Consumer, positions: dict[Partition, int]) -> bool:
        deadline = time.monotonic() + _GIVE_BACK_TIMEOUT
        while (error := self._commit(client, positions)) is not None:
            if error.code() not in _TRY_AGAIN or time.monotonic() >= deadline:
                return False
            # Another member's coming or going is on its way through the broker.
            time.sleep(_RETRY)
        return True

    def _pause(self, client: Consumer) -> None:
        if not self._paused:
            self._paused = True
            client.pause(client.assignment())

    def _resume(self, client: Consumer) -> None:
        if self._paused:
            self._paused = False
            client.resume(client.assignment())

    def _on_assign(self, client: Consumer, partitions: list[TopicPartition]) -> None:
        self._held.update({(each.topic, each.partition): object() for each in partitions})
        client.incremental_assign(partitions)
        if self._paused:
            client.pause(partitions)
        self._settled.set()

    def _on_revoke(self, client: Consumer, partitions: list[TopicPartition]) -> None:
        revoked = {(each.topic, each.partition) for each in partitions}
        unread = self._unread(revoked)
        doubtful = self._doubtful_of(revoked)
        first = self._first(unread)
        first.update((where, min(at, first.get(where, at))) for where, at in doubtful.items())
        if first and not self._commit_back(client, first):
            # They are this process's own, then: the position has passed them.
            self._channel.hand_out(unread)
            self._count_doubtful(doubtful)
        self._drop(revoked)
        client.incremental_unassign(partitions)

    def _on_lost(self, client: Consumer, partitions: list[TopicPartition]) -> None:
        # Others have them by now. What was handed out here is committed and stays here.
        lost = {(each.topic, each.partition) for each in partitions}
        self._count_doubtful(self._doubtful_of(lost))
        self._drop(lost)
        client.incremental_unassign(partitions)

    def _doubtful_of(self, partitions: set[Partition]) -> dict[Partition, int]:
        return {where: self._doubtful[where] for where in partitions & self._doubtful.keys()}

    def _drop(self, partitions: set[Partition]) -> None:
        for where in partitions:
            self._held.pop(where, None)
            self._doubtful.pop(where, None)
        self._fetched = deque(
            each for each in self._fetched if self._held.get(each.where) is each.holding
        )

    def _count_doubtful(self, positions: Mapping[Partition, int]) -> None:
        """Count the messages that nobody may get: whoever dies, none is handed out twice."""
        for (topic, partition), offset in positions.items():
            self._stats.dropped(
                "doubtful",
                f"{topic}[{partition}] about offset {offset}: the partition was lost while the "
                "answer to a commit was missing; another worker may have them",
            )

    def _count_left(self) -> None:
        left = self._taken_back(lambda job: True)
        if left:
            self._stats.dropped(
                "closed", f"{self._topic}: the broker did not take them back", len(left)
            )

    def _on_error(self, error: KafkaError) -> None:
        self._stats.count(f"errors.{error.name()}")
        if error.fatal() or error.code() in _REFUSALS:
            # The first one names the cause.
            self._refused = self._refused or error

    def _refusal(self, error: KafkaError) -> KafkaLayerError:
        what = (
            f"receive from worker channel {self._channel.topic.channel!r} "
            f"(consumer group {self._topic})"
        )
        protocol = self._config.worker_group_protocol
        if protocol == "consumer" and "ConsumerGroupHeartbeat" in error.str():
            return TopicError(
                f"Cannot {what}: {error.str()}. If the broker does not know, or does not allow, "
                "the group protocol of KIP-848, set worker_group_protocol='classic'."
            )
        return topic_error(what, error, self._config.bootstrap_servers)
