"""The commits of a worker group's member, and the count of jobs in doubt."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from ...config.realtime import monotonic
from ...config.threads import sleep
from ...observe.counters import Stats
from ..errors import kafka_error
from .client import GroupClient
from .pacing import CommitCost
from .positions import Batch, Doubts, Positions

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
    """Commits for one membership; its thread alone, but for ``count_in_doubt``.

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

    def commit_batch(self, batch: Batch[Any]) -> KafkaError | None:
        """Commit the positions of a batch; return the error, or None."""
        began = monotonic()
        errors = self.commit(batch.positions)
        if not errors:
            self._note_cost(self._cost.add(began, monotonic()))
        return next(iter(errors.values()), None)

    def commit(self, positions: Positions) -> dict[int, KafkaError]:
        """Commit positions; return the errors by partition, none for a commit that succeeded."""
        offsets = [TopicPartition(self._topic, *each) for each in positions.items()]
        errors = {}
        try:
            for answer in self._consumer.commit(offsets=offsets, asynchronous=False) or ():
                if answer.error is not None:
                    errors[answer.partition] = answer.error
        except KafkaException as exception:
            errors = dict.fromkeys(positions, kafka_error(exception))
        for name in {error.name() for error in errors.values()}:
            self._stats.count(f"errors.{name}")
        return errors

    def give_back(self, positions: Positions) -> Collection[int]:
        """Commit positions before their partitions are revoked.

        Returns:
            The partitions of which that succeeded.
        """
        deadline = monotonic() + _GIVE_BACK_TIMEOUT
        left = positions
        while left:
            errors = self.commit(left)
            left = {each: positions[each] for each in errors}
            may_succeed = any(error.code() in TRY_AGAIN for error in errors.values())
            if not may_succeed or monotonic() >= deadline:
                break
            # A rebalance is in progress; commits fail until it is over.
            sleep(RETRY)
        return positions.keys() - left.keys()

    def count_in_doubt(self, jobs: Doubts) -> None:
        """Count jobs in doubt as dropped: a redelivery might deliver them twice; any thread."""
        for partition, offsets in jobs.items():
            self._stats.dropped(
                "doubtful",
                f"{self._topic}[{partition}] about offset {min(offsets)}: the partition was lost "
                "while the answer to a commit was missing; another worker may have them",
                len(offsets),
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
