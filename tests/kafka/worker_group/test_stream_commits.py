"""Where a group begins that shares the topic of a stream, on a client that only answers."""

from __future__ import annotations

import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, TopicPartition

from kafka_layer.config.streams import Start
from kafka_layer.kafka.worker_group.pacing import CommitCost
from kafka_layer.kafka.worker_group.stream_commits import StreamCommits
from kafka_layer.observe.counters import Stats
from tests.support.tables import for_each

TOPIC = "shop.orders"
NO_POSITION = -1001
NOON = datetime.datetime(2026, 11, 28, 12, tzinfo=datetime.timezone.utc)


class Group:
    """Stands in for a client and its group: partitions with their first and last offsets.

    Attributes:
        logs: The oldest offset, and the offset behind the last record, of each partition.
        since: The offset of the first record since a time, if there is one.
        committed_as: The positions of the group, with their metadata.
        refusals: How many of the next requests get no answer.
        untold: How many of the next answers have the topic without its partitions.
        refuses_commits: Whether it takes no positions.
    """

    def __init__(self, *logs: tuple[int, int]) -> None:
        self.logs = list(logs)
        self.since: dict[int, int] = {}
        self.committed_as: dict[int, tuple[int, str]] = {}
        self.refusals = 0
        self.untold = 0
        self.refuses_commits = False
        self.consumer = self

    def list_topics(self, topic: str, timeout: float) -> Any:
        partitions = dict.fromkeys(range(len(self.logs)))
        error = None
        if self.untold:
            self.untold -= 1
            partitions, error = {}, KafkaError(KafkaError.LEADER_NOT_AVAILABLE)
        return SimpleNamespace(topics={topic: SimpleNamespace(partitions=partitions, error=error)})

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition]:
        if self.refuses_commits:
            raise KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
        for each in offsets:
            self.committed_as[each.partition] = each.offset, each.metadata or ""
        return offsets

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        if self.refusals:
            self.refusals -= 1
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        known = [self.committed_as.get(each.partition, (NO_POSITION, "")) for each in partitions]
        return [
            TopicPartition(TOPIC, each.partition, offset, metadata)
            for each, (offset, metadata) in zip(partitions, known, strict=True)
        ]

    def offsets_for_times(
        self, partitions: list[TopicPartition], timeout: float
    ) -> list[TopicPartition]:
        def answer(asked: TopicPartition) -> int:
            first, end = self.logs[asked.partition]
            if asked.offset == OFFSET_END:
                return end
            if asked.offset == OFFSET_BEGINNING:
                return first
            return self.since.get(asked.partition, OFFSET_END)

        return [TopicPartition(TOPIC, each.partition, answer(each)) for each in partitions]


def member_of(
    group: Any, start: Start = "latest", timeout: float = 10.0, had_positions: bool = False
) -> StreamCommits:
    stats, cost = Stats(), CommitCost()
    return StreamCommits(group, TOPIC, stats, cost, start, timeout, had_positions=had_positions)


@for_each(
    ("start", "places"),
    [
        ("latest", {0: 10, 1: 20}),
        ("earliest", {0: 4, 1: 0}),
        (NOON, {0: 7, 1: 20}),
        (datetime.timedelta(minutes=5), {0: 7, 1: 20}),
    ],
)
def test_a_new_group_begins_where_start_says_and_has_that_as_its_position(
    start: Start, places: dict[int, int]
) -> None:
    group = Group((4, 10), (0, 20))
    group.since = {0: 7}
    assert member_of(group, start).begin([0, 1]) == places
    assert group.committed_as == {each: (at, "began-with=2") for each, at in places.items()}
    # And goes on there, whatever has come since.
    group.logs = [(4, 50), (0, 60)]
    assert member_of(group, start).begin([0, 1]) == {}


def test_members_that_share_a_new_group_all_begin_at_its_start() -> None:
    group = Group((0, 10), (0, 20), (0, 30))
    assert member_of(group).begin([0]) == {0: 10}
    # The group has a position now; partition 2 is none that was added since.
    assert member_of(group).begin([1, 2]) == {1: 20, 2: 30}


def test_a_partition_that_was_added_is_read_from_its_oldest_record() -> None:
    group = Group((0, 10))
    member = member_of(group)
    member.begin([0])
    member.commit({0: 11})
    group.logs.append((2, 5))
    assert member_of(group).begin([0, 1]) == {1: 2}
    assert group.committed_as[1] == (2, "began-with=1")


@for_each("noticed_by", ["the member that began", "a later one", "its process"])
def test_a_topic_that_was_made_anew_is_read_from_its_oldest_record(noticed_by: str) -> None:
    """Its group has no positions, as a new one; and begins at its end, as a new one may."""
    group = Group((0, 10), (0, 20))
    member = member_of(group)
    member.begin([0, 1])
    if noticed_by == "a later one":
        member = member_of(group)
        member.begin([0, 1])
    elif noticed_by == "its process":
        member = member_of(group, had_positions=True)
    # Kafka deletes them with the topic.
    group.committed_as.clear()
    group.logs = [(0, 3), (0, 30)]
    assert member.begin([0]) == {0: 0}
    # Members that know nothing of it find that out.
    assert member_of(group).begin([1]) == {1: 0}


def test_a_new_group_whose_first_positions_a_broker_refused_is_a_new_one() -> None:
    group = Group((0, 10))
    group.refuses_commits = True
    member = member_of(group)
    assert member.begin([0]) == {0: 10}
    group.logs = [(0, 12)]
    assert member.begin([0]) == {0: 12}


def test_positions_of_another_tool_are_kept_and_further_partitions_read_from_their_oldest() -> None:
    group = Group((0, 10), (3, 20))
    group.committed_as = {0: (6, "")}
    assert member_of(group).begin([0, 1]) == {1: 3}


def test_a_request_without_an_answer_is_repeated() -> None:
    group = Group((0, 10))
    group.refusals = 2
    assert member_of(group).begin([0]) == {0: 10}


def test_a_broker_that_does_not_tell_of_the_topic_is_asked_again() -> None:
    """A topic without partitions would make all of them look like added ones."""
    group = Group((0, 10))
    group.untold = 2
    assert member_of(group).begin([0]) == {0: 10}
    assert group.committed_as == {0: (10, "began-with=1")}


def test_it_begins_nowhere_where_no_broker_tells_where() -> None:
    group = Group((0, 10))
    group.refusals = 1_000
    with pytest.raises(KafkaException):
        member_of(group, timeout=0.1).begin([0])
    assert group.committed_as == {}


def test_times_of_records_say_nothing_of_the_log() -> None:
    """Their producers set them: one that is behind the others would look like another log."""
    group = Group((0, 10))
    member = member_of(group)
    member.begin([0])
    member.note_message(0, 5)
    member.commit({0: 11})
    group.since = {0: 3}
    assert member_of(group).begin([0]) == {}
