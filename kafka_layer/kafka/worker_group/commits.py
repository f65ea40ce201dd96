"""The commits of a worker group's member, and the count of messages in doubt."""

from __future__ import annotations

import logging
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from ...config.realtime import monotonic
from ...config.threads import sleep
from ...observe.counters import Stats
from ..errors import kafka_error
from .client import GroupClient
from .pacing import CommitCost
from .positions import Batch, Positions

__all__ = ["RETRY", "TRY_AGAIN", "Commits"]

logger = logging.getLogger("kafka_layer")

# Seconds between two tries.
RETRY = 0.05
# Seconds within which positions are given back before a revocation.
_GIVE_BACK_TIMEOUT = 2.0

# Errors of a commit during a rebalance or a move of the coordinator: worth another try.
TRY_AGAIN = frozenset(
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


class Commits:
    """Commits for one membership; its thread alone, but for ``desert``.

    Args:
        client: The client.
        topic: Kafka's name of the topic.
        stats: Counts errors and drops.
        cost: The cost of commits; it outlives the client.
    """

    def __init__(self, client: GroupClient, topic: str, stats: Stats, cost: CommitCost) -> None:
        self._consumer = client.consumer
        self._topic = topic
        self._stats = stats
        self._cost = cost
        # The first offsets of the batch whose commit the broker has not answered yet.
        self._asked: Positions = {}

    def commit_batch(self, batch: Batch[Any]) -> KafkaError | None:
        """Commit the positions of a batch; return the error, or None."""
        self._asked = batch.first
        began = monotonic()
        error = self.commit(batch.positions)
        self._asked = {}
        if error is None:
            self._note_cost(self._cost.add(began, monotonic()))
        return error

    def commit(self, positions: Positions) -> KafkaError | None:
        """Commit positions; return the error, or None."""
        offsets = [TopicPartition(self._topic, *each) for each in positions.items()]
        error = None
        try:
            for answer in self._consumer.commit(offsets=offsets, asynchronous=False) or ():
                error = error or answer.error
        except KafkaException as exception:
            error = kafka_error(exception)
        if error is not None:
            self._stats.count(f"errors.{error.name()}")
        return error

    def give_back(self, positions: Positions) -> bool:
        """Commit positions before their partitions are revoked; return whether that succeeded."""
        deadline = monotonic() + _GIVE_BACK_TIMEOUT
        while (error := self.commit(positions)) is not None:
            if error.code() not in TRY_AGAIN or monotonic() >= deadline:
                return False
            # A rebalance is in progress; commits fail until it is over.
            sleep(RETRY)
        return True

    def desert(self) -> None:
        """Count the batch whose commit has no answer as in doubt; any thread."""
        self.count_in_doubt(self._asked)

    def count_in_doubt(self, positions: Positions) -> None:
        """Count messages in doubt as dropped: a redelivery might deliver them twice."""
        for partition, offset in positions.items():
            self._stats.dropped(
                "doubtful",
                f"{self._topic}[{partition}] about offset {offset}: the partition was lost while "
                "the answer to a commit was missing; another worker may have them",
            )

    def _note_cost(self, mean: float | None) -> None:
        if mean is not None:
            logger.warning(
                "Each commit of worker channel %s takes %.1f ms, so one receive gets at most %d "
                "jobs a second. Kafka 4.0 and 4.1 hold each commit back by themselves, unless the "
                "brokers' group.coordinator.append.linger.ms is 0; other brokers are busy or far "
                "away. Several receives at once, or a larger prefetch_count, get more jobs.",
                self._topic,
                mean * 1000,
                1 / mean,
            )
