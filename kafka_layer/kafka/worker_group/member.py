"""Serves the receives of one worker channel, with one membership in its group after another."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from ...config.realtime import monotonic
from ...config.settings import LayerConfig
from ...config.threads import Lock, died, new_event, new_thread
from ...delivery.tickets import Ticket
from ...exceptions import KafkaLayerError, TopicError
from ...observe.counters import Stats
from ...transport import JobSink
from ..connection import Connection
from ..errors import topic_error
from ..liveness import ANSWERED, UNANSWERED, Liveness
from ..log import client_logger
from ..replacement import Replacement
from .client import GroupClient, GroupSource, describe_group
from .evidence import CUT_OFF
from .membership import Ending, Membership
from .pacing import CommitCost
from .recent import Handover

__all__ = ["GroupMember"]

logger = logging.getLogger("kafka_layer")

# Checks in a row that find a client silent, or find that a call of it has not returned, before the
# client is replaced.
_SILENT_LOOKS = 2
_STUCK_LOOKS = 3
# As parts of the time of a start: when to describe the group, twice; and the time-out of doing so.
_ASK_AT = (0.3, 0.9)
_ASK_FOR = 0.2

_MADE_ANEW = "The topic of worker channel %s was deleted and created again; another client reads it"
_OLD_BROKER = (
    "If the broker does not know, or does not allow, the group protocol of KIP-848 (Kafka 4.0 and "
    "newer), set worker_group_protocol='classic'."
)


class GroupMember:
    """Serves the receives of one worker channel of one server, with one membership after another.

    ======= ====================================================== ==============================
    state   entered                                                left
    ======= ====================================================== ==============================
    member  by ``start``; by demand                                when its membership ends
    resting when a membership ended for want of receives           after a while, or by demand
    parked  after a long rest: no thread, no client                by demand
    stopped by ``stop``; when ``start`` raises; before a record    never
            at which the channel has to stop
    ======= ====================================================== ==============================

    One thread runs a membership until it ends, and then rests. If a call of the client never
    returns, the membership does not end: ``check`` deserts it together with its thread, and starts
    the next membership in a new thread.

    Args:
        config: The layer's settings, or those of the stream that has the topic.
        source: The group and its topic.
        sink: The receives.
        stats: Counts errors and replaced clients.
        connection: Knows whether all brokers are down.
    """

    def __init__(
        self,
        config: LayerConfig,
        source: GroupSource,
        sink: JobSink[Any],
        stats: Stats,
        connection: Connection,
    ) -> None:
        self._config = config
        self._source = source
        self._group = source.group
        self._sink = sink
        self._stats = stats
        self._connection = connection
        look = config.timings.worker_look
        # After a first check without an answer the second one follows soon.
        liveness = Liveness(_SILENT_LOOKS, look, alert_interval=look / 10, alert_for=look)
        self._replacement = self._replacement_by(liveness)
        self._cost = CommitCost()
        # Judges whether the calls of the client return; for the thread that calls ``check``.
        self._returns = self._replacement_by(Liveness(_STUCK_LOOKS, 0))
        # The outcome of ``start``: the group has assigned or refused, or the time is up.
        self._joined: Ticket[None] = Ticket()
        # Kafka's id of the topic; None until it is known. Written by ``learn_id`` alone.
        self._topic_id: str | None = None
        # By partition: what the last membership handed over to the next one, in a topic that was
        # created again.
        self._handover: dict[int, Handover] = {}
        self._stop = new_event()
        # Guards _membership and _thread, which change together, and do not change after a stop.
        self._lock = Lock()
        self._membership: Membership | None = None
        # None while it is parked.
        self._thread: threading.Thread | None = None

    @property
    def is_member(self) -> bool:
        """Whether it takes part in the group, or tries to."""
        return self._membership is not None

    @property
    def died(self) -> bool:
        """Whether its thread has ended although nobody stopped or parked it."""
        return died(self._thread) and not self._stop.is_set()

    @property
    def share(self) -> int:
        """How many partitions of the topic the group has assigned to it."""
        membership = self._membership
        return 0 if membership is None else membership.share

    def start(self, timeout: float) -> None:
        """Join the group; return when it has joined, or at the time-out while it still tries.

        Args:
            timeout: Seconds that this may block.

        Raises:
            TopicError: If the broker refuses the group or its protocol.
            ImproperlyConfigured: If librdkafka refuses a property.
        """
        with self._lock:
            self._begin(self._replacement)
        began = now = monotonic()
        # Since when the coordinator has known no member of the group. That alone is no refusal: for
        # the first group of a cluster, the coordinator waits for the topic of committed offsets.
        nobody_since = float("inf")
        for share in _ASK_AT:
            with contextlib.suppress(TimeoutError):
                self._joined.result(max(0.0, began + timeout * share - monotonic()))
                return
            lets_nobody_in = self._lets_nobody_in(max(0.1, timeout * _ASK_FOR))
            now = monotonic()
            nobody_since = min(nobody_since, now) if lets_nobody_in else float("inf")
        if now - nobody_since >= self._config.timings.worker_join:
            raise TopicError(
                f"Cannot {self._attempt}: the broker did not let this client join. {_OLD_BROKER}"
            )
        with contextlib.suppress(TimeoutError):
            self._joined.result(max(0.0, began + timeout - monotonic()))
            return
        # The time is up, unless an outcome has just come.
        self._joined.resolve(None)
        self._joined.result(0)

    def _lets_nobody_in(self, timeout: float) -> bool:
        """Tell whether the broker has no member of the group, with the protocol of KIP-848.

        With a broker of Kafka 3.x, which does not know that protocol, librdkafka waits without an
        error.
        """
        if self._config.worker_group_protocol != "consumer" or not self.is_member:
            return False
        try:
            group = describe_group(self._config, self._group, timeout)
        except KafkaException:
            return False
        return group is None or not group.members

    def learn_id(self, topic_id: str | None) -> None:
        """Take Kafka's id of the topic; called by one thread at a time, never blocks.

        If the id has changed, the topic was created again. Then the membership has to end: its
        client may consider the metadata of the new topic outdated, and offsets of the old topic
        would skip jobs of the new one.

        Args:
            topic_id: The id; None if it is not known.
        """
        before, membership = self._topic_id, self._membership
        if topic_id is None or topic_id == before:
            return
        self._topic_id = topic_id
        if before is None:
            return
        self._source = self._source._replace(made_anew=True)
        if membership is not None:
            membership.outdate()

    def check(self) -> None:
        """Desert a membership whose client does not return from a call; blocks briefly.

        A commit has no time-out, and a client with an empty broker list waits in it for ever; no
        other thread can call the client meanwhile. ``check`` is called by another thread.

        If no thread could be started for a parked channel, this tries it again.
        """
        membership = self._membership
        if membership is None:
            if self._sink.demand:
                self._unpark()
            return
        if self._stop.is_set() or self._connection.lost:
            return
        hangs = monotonic() - membership.called_at > self._config.timings.worker_stuck
        evidence = UNANSWERED if hangs else ANSWERED
        if not self._returns.is_called_for(lambda: evidence):
            return
        try:
            with self._lock:
                if not self._stop.is_set() and self._membership is membership:
                    self._begin(self._returns)
                    membership.desert()
                    self._note_replacement(CUT_OFF)
        except RuntimeError as error:
            self._note_error(error)
        self._returns.drop()

    def stop(self) -> None:
        """Ask the thread to end, without waiting for it."""
        self._stop.set()
        self._sink.changed.set()

    def join(self, timeout: float) -> None:
        """Wait for the thread to end, at most ``timeout`` seconds."""
        self.stop()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout)
        else:
            self._count_left()

    def _begin(self, replacement: Replacement[GroupClient]) -> None:
        """Start a membership in a new thread; the lock is held. RuntimeError without a thread."""
        client = replacement.take()
        try:
            membership = self._new_membership(client)
            self._thread = self._start_thread(membership)
        except BaseException:
            client.consumer.close()
            raise
        self._membership = membership

    def _start_thread(self, membership: Membership | None) -> threading.Thread:
        thread = new_thread(
            target=self._run,
            args=(membership,),
            name=f"kafka-layer-work-{self._sink.topic.channel}",
        )
        thread.start()
        return thread

    def _run(self, membership: Membership | None) -> None:
        """Serve one membership after another, until it is stopped, parked or deserted."""
        if membership is None:
            membership = self._next_membership()
        while membership is not None:
            ending = self._serve(membership)
            with self._lock:
                if membership.deserted:
                    return
                self._membership = None
            # Regardless of the ending: a refused client may fail when it leaves.
            refusal = membership.client.refusal
            if refusal is not None and self._is_final(refusal):
                return
            if membership.halted_by is not None:
                # Not earlier: leaving has returned the jobs that no receive took to the group.
                self._stop.set()
                self._sink.stop(*membership.halted_by)
            if ending is Ending.LEFT and not self._rest():
                return
            membership = self._next_membership()
        self._replacement.drop()
        self._count_left()

    def _new_membership(self, client: GroupClient) -> Membership:
        return Membership(
            self._config,
            self._source,
            client,
            self._sink,
            self._stats,
            self._replacement,
            self._joined,
            self._stop,
            self._cost,
            self._handover,
        )

    def _next_membership(self) -> Membership | None:
        """Return the next membership, before its run; None after a stop."""
        while not self._stop.is_set():
            try:
                membership = self._new_membership(self._replacement.take())
            except Exception as error:
                self._note_error(error)
                self._stop.wait(self._config.timings.worker_retry)
                continue
            with self._lock:
                self._membership = membership
            return membership
        return None

    def _replacement_by(self, liveness: Liveness) -> Replacement[GroupClient]:
        return Replacement(
            liveness,
            self._connection,
            self._new_client,
            lambda client, _: client.is_answered(),
            GroupClient.close,
        )

    def _new_client(self) -> GroupClient:
        return GroupClient(self._config, self._source, self._stats)

    def _serve(self, membership: Membership) -> Ending:
        try:
            ending = membership.run()
        except Exception as error:
            if membership.client.refusal is None:
                self._note_error(error)
                self._stop.wait(self._config.timings.worker_retry)
            return Ending.FAILED
        if ending is Ending.DEAD:
            self._note_replacement(membership.death)
        elif ending is Ending.OUTDATED:
            self._handover = membership.handover
            self._note_replacement(_MADE_ANEW)
        return ending

    def _rest(self) -> bool:
        """Wait for demand or a stop; return False if it parks instead."""
        until = monotonic() + self._config.timings.worker_park
        while not self._stop.is_set() and not self._sink.demand:
            left = until - monotonic()
            if left <= 0:
                return self._park()
            self._sink.changed.wait(left)
        return True

    def _park(self) -> bool:
        """Let the thread end; return True if a receive has just begun to wait."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._sink.on_demand = self._unpark
            # A receive that began to wait before the line above has not called on_demand.
            if self._stop.is_set() or not self._sink.demand:
                return False
            self._thread = thread
            self._sink.on_demand = None
            return True

    def _unpark(self) -> None:
        """Serve the receives of a parked channel again; called in an event loop, too."""
        try:
            with self._lock:
                if self._thread is None and not self._stop.is_set():
                    self._thread = self._start_thread(None)
                    self._sink.on_demand = None
        except RuntimeError as error:
            # It stays parked: the next receive or ``check`` tries again.
            self._note_error(error)

    def _is_final(self, refusal: KafkaError) -> bool:
        """Tell whether ``start`` raises this refusal, so that the thread has to end."""
        error = self._error_of(refusal)
        client_logger.error("REFUSED %s", error)
        if self._joined.fail(error):
            return True
        # The group worked before, so it may work again; a fatal error needs a new client.
        self._stop.wait(self._config.timings.worker_retry)
        return False

    def _note_error(self, error: Exception) -> None:
        self._stats.count("errors.worker")
        logger.error("Worker channel %s goes on after an error", self._group, exc_info=error)

    def _note_replacement(self, message: str) -> None:
        self._stats.count("consumer.replaced")
        logger.error(message, self._group)

    def _count_left(self) -> None:
        left = self._sink.return_unclaimed(lambda job: True)
        if left:
            self._stats.dropped(
                "closed", f"{self._group}: the broker did not take them back", len(left)
            )

    def _error_of(self, refusal: KafkaError) -> KafkaLayerError:
        protocol = self._config.worker_group_protocol
        if protocol == "consumer" and "ConsumerGroupHeartbeat" in refusal.str():
            return TopicError(f"Cannot {self._attempt}: {refusal.str()}. {_OLD_BROKER}")
        return topic_error(self._attempt, refusal, self._config.bootstrap_servers)

    @property
    def _attempt(self) -> str:
        channel = self._sink.topic.channel
        return f"receive from worker channel {channel!r} (consumer group {self._group})"
