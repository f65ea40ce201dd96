"""Records for partitions that the producer's client does not know yet.

An inbox may be in a partition that was added a moment ago. The client learns of new partitions when
it asks, at the latest after ``Timings.refresh``, and refuses records for them until then. A client
that knows nothing of the topic takes them, and reports them as failed when it learns of the topic
from a broker that does not know the partition either.
"""

from __future__ import annotations

import threading
from collections import deque
from itertools import takewhile
from typing import NamedTuple

from confluent_kafka import KafkaError

from ..config.realtime import monotonic
from ..config.threads import RLock
from ..transport_values import QueueFull
from .pending import Pending, PendingSink, UnknownPartition

__all__ = ["UnknownPartitions"]

# Records that may wait: an answer takes some milliseconds.
_MOST = 1_000


class UnknownPartitions:
    """Keeps the records of unknown partitions, in order, until the client takes them; any thread.

    Args:
        sink: Takes the records.
        patience: Seconds after which a record that the client still refuses has failed.
        pause: Seconds between two questions for partitions.
        roused: Set when a record is kept: ``hand_over`` is due at once.
    """

    def __init__(
        self, sink: PendingSink, patience: float, pause: float, roused: threading.Event
    ) -> None:
        self._sink = sink
        self._patience = patience
        self._pause = pause
        self._roused = roused
        # By topic and partition. A partition stays until its last record is handed over, so that
        # later ones come behind.
        self._kept: dict[tuple[str, int], deque[_Kept]] = {}
        # How many records are kept, with the one that hand_over() has in hand.
        self._count = 0
        self._closed = False
        self._next_question = float("-inf")
        # Guards all fields but _next_question. Re-entrant: a signal handler may send.
        self._lock = RLock()

    def __len__(self) -> int:
        return self._count

    def has_before(self, pending: Pending) -> bool:
        """Whether records wait that are to come before this one."""
        return bool(self._kept) and _where(pending) in self._kept

    def keep(self, pending: Pending, reported: bool) -> bool:
        """Keep a record, behind others of its partition.

        Args:
            pending: The record.
            reported: Whether the client took it and reported it: then it is older than those that
                the client refused.

        Returns:
            False if it is not kept: there are too many, or after ``close``.
        """
        with self._lock:
            if self._closed or self._count >= _MOST:
                return False
            records = self._kept.setdefault(_where(pending), deque())
            place = _reported(records) if reported else len(records)
            records.insert(place, _Kept(monotonic() + self._patience, pending, reported))
            self._count += 1
        self._roused.set()
        return True

    def hand_over(self) -> None:
        """Hand over what the client takes by now, and ask for partitions; one thread, never blocks.

        Rejects records that waited for ``patience``.
        """
        if not self._kept:
            return
        with self._lock:
            partitions = list(self._kept)
        unknown = {topic for topic, number in partitions if not self._hand_over((topic, number))}
        now = monotonic()
        if unknown and now >= self._next_question:
            self._next_question = now + self._pause
            for topic in unknown:
                self._sink.ask_for_partitions(topic)

    def close(self) -> None:
        """Reject all records, and keep no more."""
        with self._lock:
            self._closed = True
            kept, self._kept = self._kept, {}
            self._count -= sum(map(len, kept.values()))
        for records in kept.values():
            for _, pending, _ in records:
                self._reject(pending)

    def _hand_over(self, where: tuple[str, int]) -> bool:
        """Hand over the records of a partition; return False if some stay."""
        while True:
            with self._lock:
                records = self._kept.get(where)
                if not records:
                    self._kept.pop(where, None)
                    return True
                kept = records.popleft()
            failed_at, pending, reported = kept
            # Outside the lock: a callback of the record may send.
            taken = self._try(pending, failed_at)
            with self._lock:
                stays = not taken and not self._closed
                if stays:
                    records.insert(0 if reported else _reported(records), kept)
                else:
                    self._count -= 1
            if stays:
                return False
            if not taken:
                self._reject(pending)

    def _try(self, pending: Pending, failed_at: float) -> bool:
        """Return whether the client has taken a record, or it was rejected."""
        client = self._sink.current
        if client is None:
            return False
        try:
            self._sink.enqueue(client, pending)
        except QueueFull:
            return False
        except UnknownPartition:
            if monotonic() < failed_at:
                return False
            self._reject(pending)
        return True

    def _reject(self, pending: Pending) -> None:
        self._sink.reject(pending, KafkaError(KafkaError._UNKNOWN_PARTITION))


class _Kept(NamedTuple):
    """A record that is kept: the time at which it has failed, and whether the client took it."""

    failed_at: float
    pending: Pending
    reported: bool


def _reported(records: deque[_Kept]) -> int:
    """Return how many records, the first of these, the client took and reported."""
    return sum(1 for _ in takewhile(lambda each: each.reported, records))


def _where(pending: Pending) -> tuple[str, int]:
    name, _, _, partition, _, _ = pending
    return name, partition
