"""The commits of a group that shares the topic of a stream, and where such a group begins.

A partition without a committed offset is one of two kinds. Either the group is new: then it begins
where the setting ``start`` says. Or the partition was added later: then no record of it may be
missed. To tell them apart, each commit of the group carries, as metadata, the number of partitions
that the topic had when the group began. If a group had committed offsets and has none any more, its
topic was deleted and created again: no record of the new topic may be missed.

Producers of such a topic may set the timestamps of records as they like, so the timestamps do not
show that a topic was created again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from ...config.realtime import monotonic
from ...config.streams import Start
from ...config.threads import sleep
from ...observe.counters import Stats
from ..errors import kafka_error
from ..starts import start_offsets
from .client import GroupClient
from .commits import RETRY, Commits
from .pacing import CommitCost
from .positions import Positions

__all__ = ["StreamCommits"]

# The metadata of a commit, with a number of partitions.
_BEGAN = re.compile(r"began-with=(\d{1,7})")

# Requests that may time out before begin() fails.
_REQUESTS = 4

_UNANSWERED = KafkaError(KafkaError._TIMED_OUT, "no leader told where to begin")


class StreamCommits(Commits):
    """As ``Commits``, for the topic of a stream.

    Args:
        client: The client.
        topic: Kafka's name of the topic.
        stats: Counts errors and drops.
        cost: The cost of commits; it outlives the client.
        start: Where a new group begins.
        timeout: Seconds for finding the offsets to begin at.
        had_positions: Whether the group is known to have had committed offsets.
    """

    def __init__(
        self,
        client: GroupClient,
        topic: str,
        stats: Stats,
        cost: CommitCost,
        start: Start,
        timeout: float,
        *,
        had_positions: bool = False,
    ) -> None:
        super().__init__(client, topic, stats, cost)
        self._start = start
        self._timeout = timeout
        # The number of partitions that the topic had when the group began; None: not known (yet).
        self._began_with: int | None = None
        # Whether the group is known to have, or to have had, committed offsets.
        self._had_positions = had_positions

    def begin(self, partitions: Iterable[int]) -> Positions:
        """Find and commit the first offsets of partitions without a committed one; blocks.

        Returns:
            The offsets, for these partitions.

        Raises:
            KafkaException: If no broker answers; to begin at another offset would lose records.
        """
        unplaced, places = set(partitions), Positions()
        deadline = monotonic() + self._timeout
        while True:
            try:
                self._place(unplaced, places)
            except KafkaException as exception:
                self._stats.count(f"errors.{kafka_error(exception).name()}")
                if monotonic() >= deadline:
                    raise
                sleep(RETRY)
                continue
            break
        if places:
            # If the broker refuses the commit, the next member finds the same offsets, or (with
            # "latest") later ones.
            self._had_positions |= bool(self.give_back(places))
        return places

    def note_message(self, partition: int, timestamp: int) -> None:
        """Do nothing: the timestamps of records mean nothing here."""

    def _place(self, unplaced: set[int], places: Positions) -> None:
        """Move partitions from ``unplaced`` to ``places``; drop those with a committed offset."""
        timeout = self._timeout / _REQUESTS
        told = self._consumer.list_topics(self._topic, timeout).topics[self._topic]
        known = told.partitions
        if told.error is not None or not known:
            # Go no further: all of its partitions would count as added later.
            raise KafkaException(told.error or _UNANSWERED)
        asked = [TopicPartition(self._topic, number) for number in known]
        positions = {}
        for each in self._consumer.committed(asked, timeout):
            if each.error is not None:
                raise KafkaException(each.error)
            if each.offset >= 0:
                positions[each.partition] = each.offset
                began = _BEGAN.fullmatch(each.metadata or "")
                if began:
                    self._began_with = int(began[1])
        if positions:
            self._had_positions = True
        else:
            # In a topic that was created again every partition counts as added.
            self._began_with = 0 if self._had_positions else len(known)
        began_with = self._began_with or 0
        unplaced -= positions.keys()
        first = [(self._topic, number) for number in unplaced if number < began_with]
        added = [(self._topic, number) for number in unplaced if number >= began_with]
        found = {
            **start_offsets(self._consumer, first, self._start, timeout),
            **start_offsets(self._consumer, added, "earliest", timeout),
        }
        for (_, number), offset in found.items():
            places[number] = offset
            unplaced.discard(number)
        if unplaced:
            raise KafkaException(_UNANSWERED)

    def _metadata(self, partition: int) -> str:
        return "" if self._began_with is None else f"began-with={self._began_with}"
