"""The consumer of one worker channel: a member of a consumer group that shares the messages.

A message's position is committed before the message is handed to a receive that waits, so nothing
is handed out twice, whoever dies. Only as much is taken as receives wait for; what was fetched
and not handed out belongs to whoever gets the partition next. A process whose receives stop gives
its share back after some seconds.

One thread owns every call on the client.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections import deque
from typing import Any

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from django.core.exceptions import ImproperlyConfigured

from ..conf import LayerConfig
from ..exceptions import KafkaLayerError
from ..stats import Stats
from ..work import WorkChannel
from .connection import Connection
from .errors import client_logger, kafka_error, topic_error
from .properties import work_properties

__all__ = ["GIVE_BACK_AFTER", "WorkConsumer"]

logger = logging.getLogger("kafka_layer")

GIVE_BACK_AFTER = 5.0
"""Seconds without a receive after which this process leaves the group to others."""

_PAUSE_AFTER = 0.1
_POLL = 0.1
_RETRY = 0.05

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

Partition = tuple[str, int]


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
        self._topic = topic
        self._servers = config.bootstrap_servers
        self._channel = channel
        self._stats = stats
        self._connection = connection
        self._properties: dict[str, Any] = {
            **work_properties(config, topic),
            "error_cb": self._on_error,
            "logger": client_logger,
        }
        self._client: Consumer | None = None
        # The partitions of this member, each with a mark of this one time that it holds it: a
        # message that was fetched in an earlier time is fetched again by whoever holds it now.
        self._held: dict[Partition, object] = {}
        # Fetched and not committed, in the order in which they came, with that mark.
        self._fetched: deque[tuple[object, Message]] = deque()
        self._paused = False
        self._fatal: KafkaError | None = None
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
        self._client = self._new_client()
        self._thread = threading.Thread(
            target=self._run, name=f"kafka-layer-work-{self._channel.topic.channel}", daemon=True
        )
        self._thread.start()
        self._settled.wait(max(0.0, timeout))
        if self._fatal is not None:
            self.stop()
            raise self._refusal(self._fatal)

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
        if self._client is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._client))

    def _new_client(self) -> Consumer:
        try:
            return Consumer(self._properties)
        except KafkaException as exception:
            raise ImproperlyConfigured(
                f"The Kafka consumer refuses its configuration: {kafka_error(exception).str()}. "
                "Correct client_config or consumer_config."
            ) from None

    def _run(self) -> None:
        while not self._stop.is_set() and self._fatal is None:
            try:
                self._take_part()
            except Exception:
                self._stats.count("errors.worker")
                logger.exception("The thread of worker channel %s goes on", self._topic)
                self._stop.wait(_RETRY)
        if self._fatal is not None:
            self._settled.set()
            logger.error("%s", self._refusal(self._fatal))

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
            # Leaves the group; on_revoke gives back what no receive has taken.
            self._client = None
            client.close()
            self._fetched.clear()
            self._held.clear()
        while not self._stop.is_set() and not self._channel.wanted:
            self._channel.waiting.wait()
            self._channel.waiting.clear()

    def _serve(self, client: Consumer) -> None:
        last_wanted = time.monotonic()
        while not self._stop.is_set() and self._fatal is None:
            wanted = self._channel.wanted
            if wanted:
                last_wanted = time.monotonic()
                self._resume(client)
                self._fetch(client, wanted)
                self._hand_out(client, wanted)
                continue
            idle = time.monotonic() - last_wanted
            if idle >= GIVE_BACK_AFTER:
                return
            if idle < _PAUSE_AFTER:
                self._channel.waiting.wait(_PAUSE_AFTER - idle)
            else:
                # Rebalances are answered in poll(), and it must not bring messages now.
                self._pause(client)
                self._keep(client.poll(0))
                self._channel.waiting.wait(_POLL)
            self._channel.waiting.clear()

    def _fetch(self, client: Consumer, wanted: int) -> None:
        if len(self._fetched) < wanted:
            for message in client.consume(wanted - len(self._fetched), 0):
                self._keep(message)
        if not self._fetched:
            self._keep(client.poll(_POLL))

    def _keep(self, message: Message | None) -> None:
        if message is None:
            return
        error = message.error()
        if error is not None:
            self._on_error(error)
            return
        where = _partition(message)
        self._fetched.append((self._held.get(where), message))

    def _hand_out(self, client: Consumer, wanted: int) -> None:
        batch = [self._fetched.popleft() for _ in range(min(wanted, len(self._fetched)))]
        if not batch:
            return
        error = self._commit(
            client, {_partition(message): _offset(message) + 1 for _, message in batch}
        )
        if error is not None:
            if error.code() not in _TRY_AGAIN:
                client_logger.warning("COMMIT %s: %s", self._topic, error.str())
            # Rebalances are answered in poll(): without it the commit would fail for ever.
            self._keep(client.poll(_RETRY))
            self._fetched.extendleft(each for each in reversed(batch) if self._is_held(*each))
            return
        jobs = [
            self._channel.job(
                message.value(),
                message.timestamp()[1] / 1000,
                message.partition() or 0,
                _offset(message),
            )
            for _, message in batch
        ]
        self._channel.hand_out([job for job in jobs if job is not None])

    def _commit(self, client: Consumer, positions: dict[Partition, int]) -> KafkaError | None:
        offsets = [TopicPartition(*where, offset) for where, offset in positions.items()]
        error = None
        try:
            for answer in client.commit(offsets=offsets, asynchronous=False) or ():
                error = error or answer.error
        except KafkaException as exception:
            error = kafka_error(exception)
        if error is not None:
            self._stats.count(f"errors.{error.name()}")
        return error

    def _is_held(self, holding: object, message: Message) -> bool:
        return holding is not None and self._held.get(_partition(message)) is holding

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
        unread = self._channel.take_back(lambda job: (self._topic, job.partition) in revoked)
        first: dict[Partition, int] = {}
        for job in unread:
            where = (self._topic, job.partition)
            first[where] = min(job.offset, first.get(where, job.offset))
        if first and self._commit(client, first) is not None:
            # They are this process's own, then: the position has passed them.
            self._channel.hand_out(unread)
        self._drop(revoked)
        client.incremental_unassign(partitions)

    def _on_lost(self, client: Consumer, partitions: list[TopicPartition]) -> None:
        # Others have them by now. What was handed out here is committed and stays here.
        self._drop({(each.topic, each.partition) for each in partitions})
        client.incremental_unassign(partitions)

    def _drop(self, partitions: set[Partition]) -> None:
        for where in partitions:
            self._held.pop(where, None)
        self._fetched = deque(each for each in self._fetched if self._is_held(*each))

    def _on_error(self, error: KafkaError) -> None:
        self._connection.on_error(error)
        if error.fatal():
            self._fatal = error
        elif error.code() in (
            KafkaError.GROUP_AUTHORIZATION_FAILED,
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
        ):
            logger.error("%s", self._refusal(error))

    def _refusal(self, error: KafkaError) -> KafkaLayerError:
        return topic_error(
            f"receive from worker channel {self._channel.topic.channel!r} "
            f"(consumer group {self._topic})",
            error,
            self._servers,
        )


def _partition(message: Message) -> Partition:
    return message.topic() or "", message.partition() or 0


def _offset(message: Message) -> int:
    return message.offset() or 0
