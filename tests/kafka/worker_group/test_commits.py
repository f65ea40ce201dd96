"""The check of committed positions at an assignment, on a client that only answers."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, TopicPartition

from kafka_layer.kafka.worker_group.commits import Commits
from kafka_layer.kafka.worker_group.pacing import CommitCost
from kafka_layer.observe.counters import Stats
from tests.support.tables import for_each

TOPIC = "channels-work.jobs"


class Group:
    """Stands in for a client and its group: one partition, and the times of its messages.

    Attributes:
        times: The time of each message of the log, in milliseconds.
        refusals: How many of the next requests get no answer.
    """

    def __init__(self, *times: int) -> None:
        self.times = list(times)
        self.refusals = 0
        self.consumer = self
        self._committed = TopicPartition(TOPIC, 0, -1001)

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition]:
        [self._committed] = offsets
        return offsets

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        if self.refusals:
            self.refusals -= 1
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return [self._committed]

    def offsets_for_times(
        self, partitions: list[TopicPartition], timeout: float
    ) -> list[TopicPartition]:
        [asked] = partitions
        if asked.offset == OFFSET_END:
            return [TopicPartition(TOPIC, 0, len(self.times))]
        later = (at for at, time in enumerate(self.times) if time >= asked.offset)
        return [TopicPartition(TOPIC, 0, next(later, -1))]


def member_of(group: Any) -> Commits:
    return Commits(group, TOPIC, Stats(), CommitCost())


def do(group: Group, position: int) -> None:
    """Have a member read up to a position and commit it."""
    member = member_of(group)
    assert not member.begin([0])
    for time in group.times[:position]:
        member.note_message(0, time)
    assert not member.commit({0: position})


@for_each("times", [(1, 2, 3, 4), (1, 1, 1, 1), (9, 2, 8, 1)])
@for_each("position", [1, 2, 4])
def test_a_position_of_the_log_is_kept(times: tuple[int, ...], position: int) -> None:
    group = Group(*times)
    do(group, position)
    assert not member_of(group).begin([0])
    group.times.append(20)
    assert not member_of(group).begin([0])


@for_each("position", [1, 2, 4])
@for_each("new", [(10,), (10, 11, 12, 13, 14), (10, 10)])
def test_a_position_of_another_log_is_found(position: int, new: tuple[int, ...]) -> None:
    group = Group(1, 2, 3, 4)
    do(group, position)
    group.times = [*new, *range(20, 24)]
    member = member_of(group)
    assert member.begin([0]) == {0: OFFSET_BEGINNING}
    member.note_message(0, new[0])
    member.commit({0: 1})
    assert not member_of(group).begin([0])


@pytest.mark.parametrize("new", [(), (10,)])
def test_a_position_behind_the_end_is_of_another_log(new: tuple[int, ...]) -> None:
    """Its messages may all be written between the check and the first fetch."""
    group = Group(1, 2, 3, 4)
    do(group, 4)
    group.times = list(new)
    assert member_of(group).begin([0]) == {0: OFFSET_BEGINNING}


def test_a_position_that_was_committed_without_a_time_is_kept() -> None:
    group = Group(1, 2, 3, 4)
    member_of(group).commit({0: 2})
    member = member_of(group)
    assert not member.begin([0])
    member.note_message(0, 3)
    member.commit({0: 3})
    assert not member_of(group).begin([0])
    group.times = [10, 11, 12]
    assert member_of(group).begin([0]) == {0: OFFSET_BEGINNING}


def test_the_time_outlives_a_member_that_reads_nothing() -> None:
    group = Group(1, 2, 3, 4)
    do(group, 4)
    member = member_of(group)
    member.begin([0])
    member.commit({0: 3})  # as it takes a job back
    group.times = [10, 11, 12, 13]
    assert member_of(group).begin([0]) == {0: OFFSET_BEGINNING}


def test_a_check_without_an_answer_is_repeated() -> None:
    group = Group(1, 2, 3, 4)
    do(group, 4)
    group.times = [10, 11, 12, 13]
    group.refusals = 2
    assert member_of(group).begin([0]) == {0: OFFSET_BEGINNING}
