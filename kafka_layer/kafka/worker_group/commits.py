"""The commits of a worker group's member, the check of earlier ones, and the jobs in doubt.

Kafka stores a group's committed offsets by the name of the topic. It deletes them with the topic,
but not while the group's coordinator is loading; and a member that has not noticed may commit one
afterwards. In a topic that was created again such an offset would skip jobs. So each commit has, as
metadata, the latest timestamp of the messages before its offset. If a message with a later
timestamp is before the offset, or the log ends before it, the offset belongs to another log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from ...config.realtime import monotonic
from ...config.threads import sleep
from ...observe.counters import Stats
from ..clients import ends_of
from ..errors import kafka_error
from .client import GroupClient
from .pacing import CommitCost
from .positions import Batch, Doubts, Positions
from .recent import Mark

__all__ = ["RETRY", "TRY_AGAIN", "Commits"]

logger = logging.getLogger("kafka_layer")

# Seconds between two tries.
RETRY = 0.05
# Seconds within which positions are given back before a revocation.
_GIVE_BACK_TIMEOUT = 2.0
# Seconds within which the positions of new partitions are checked.
_CHECK_TIMEOUT = 2.0

# The metadata of a commit, with a time in milliseconds since the epoch.
_READ_UNTIL = re.compile(r"read-until=(\d{1,18})")

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

    Attributes:
        marks: By partition: the last commit that a broker reported or accepted.
    """

    def __init__(self, client: GroupClient, topic: str, stats: Stats, cost: CommitCost) -> None:
        self._consumer = client.consumer
        self._topic = topic
        self._stats = stats
        self._cost = cost
        # By partition: the latest timestamp, in milliseconds, of the messages before the position.
        # Missing if the last commit has no such metadata.
        self._read_until: dict[int, int] = {}
        self.marks: dict[int, Mark] = {}

    def begin(self, partitions: Iterable[int]) -> Positions:
        """Check the committed offsets of partitions that are assigned now; blocks briefly.

        Returns:
            Where to read the partitions whose committed offset belongs to another log, a deleted
            topic of this name: from the beginning. Other partitions begin at that offset.
        """
        unchecked, foreign = set(partitions), set[int]()
        for partition in unchecked:
            self._read_until.pop(partition, None)
        deadline = monotonic() + _CHECK_TIMEOUT
        while True:
            try:
                foreign |= self._check(unchecked, max(RETRY, deadline - monotonic()))
            except KafkaException as exception:
                self._stats.count(f"errors.{kafka_error(exception).name()}")
            if unchecked and monotonic() < deadline:
                sleep(RETRY)
                continue
            if unchecked:
                # They are probably right.
                logger.warning(
                    "Worker channel %s goes on at the committed positions of partitions %s, though "
                    "no broker told whether they are of a topic that was deleted",
                    self._topic,
                    sorted(unchecked),
                )
            return dict.fromkeys(foreign, OFFSET_BEGINNING)

    def _check(self, unchecked: set[int], timeout: float) -> set[int]:
        """Remove checked partitions from ``unchecked``; return those with another log's offset."""
        positions: Positions = {}
        asked = [TopicPartition(self._topic, partition) for partition in unchecked]
        for each in self._consumer.committed(asked, timeout):
            if each.error is not None:
                continue
            self.marks[each.partition] = each.offset, each.metadata or ""
            known = _READ_UNTIL.fullmatch(each.metadata or "")
            if each.offset >= 0 and known:
                positions[each.partition] = each.offset
                self._read_until[each.partition] = int(known[1])
            else:
                unchecked.discard(each.partition)
        if not positions:
            return set()
        # Before the next request, because the log may grow beyond the offset meanwhile.
        ends = ends_of(self._consumer, [(self._topic, each) for each in positions], timeout)
        later = [
            TopicPartition(self._topic, partition, self._read_until[partition] + 1)
            for partition in positions
        ]
        foreign = set()
        for each in self._consumer.offsets_for_times(later, timeout):
            position, end = positions[each.partition], ends.get((self._topic, each.partition))
            if each.error is None and end is not None:
                unchecked.discard(each.partition)
                if end < position or 0 <= each.offset < position:
                    foreign.add(each.partition)
                    del self._read_until[each.partition]
        return foreign

    def restart(self, partition: int) -> None:
        """Note that a partition is read from its beginning, whatever its committed offset."""
        self._read_until.pop(partition, None)

    def note_message(self, partition: int, timestamp: int) -> None:
        """Note a fetched message.

        Args:
            partition: Its partition.
            timestamp: Its timestamp, in milliseconds since the epoch.
        """
        if timestamp > self._read_until.get(partition, -1):
            self._read_until[partition] = timestamp

    def commit_batch(self, batch: Batch[Any]) -> KafkaError | None:
        """Commit the positions of a batch; return the error, or None."""
        began = monotonic()
        errors = self.commit(batch.positions)
        if errors:
            return next(iter(errors.values()))
        mean = self._cost.add(began, monotonic())
        if mean is not None:
            self._warn_of_cost(mean)
        return None

    def commit(self, positions: Positions) -> dict[int, KafkaError]:
        """Commit positions; return the errors by partition. Without an entry it succeeded."""
        offsets = []
        for partition, offset in positions.items():
            metadata = self._metadata(partition)
            offsets.append(TopicPartition(self._topic, partition, offset, metadata))
        errors = {}
        try:
            for answer in self._consumer.commit(offsets=offsets, asynchronous=False) or ():
                if answer.error is not None:
                    errors[answer.partition] = answer.error
        except KafkaException as exception:
            errors = dict.fromkeys(positions, kafka_error(exception))
        if errors:
            for name in {error.name() for error in errors.values()}:
                self._stats.count(f"errors.{name}")
        for each in offsets:
            if each.partition not in errors:
                self.marks[each.partition] = each.offset, each.metadata or ""
        return errors

    def give_back(self, positions: Positions) -> Collection[int]:
        """Commit positions before their partitions are revoked.

        Returns:
            The partitions whose commit succeeded.
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

    def _metadata(self, partition: int) -> str:
        until = self._read_until.get(partition)
        return "" if until is None else f"read-until={until}"

    def _warn_of_cost(self, mean: float) -> None:
        logger.warning(
            "Each commit of worker channel %s takes %.1f ms, so one receive gets at most %d jobs a "
            "second. Kafka 4.0 and 4.1 hold each commit back by themselves, unless the brokers' "
            "group.coordinator.append.linger.ms is 0; other brokers are busy or far away. Several "
            "receives at once, or a larger prefetch_count, get more jobs.",
            self._topic,
            mean * 1000,
            1 / mean,
        )
