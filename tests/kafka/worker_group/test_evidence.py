"""What a look at a worker group's client finds out, from messages and the brokers' answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest

from kafka_layer.kafka.liveness import (
    ANSWERED,
    PROGRESSED,
    UNANSWERED,
    Behind,
    Evidence,
    Liveness,
    Verdict,
)
from kafka_layer.kafka.worker_group.evidence import CUT_OFF, LEFT_OUT, SILENT, GroupEvidence
from kafka_layer.kafka.worker_group.positions import JobPositions
from tests.kafka.worker_group.test_positions import FakeJob

TOPIC = "channels-work.jobs"


class Brokers:
    """What brokers answer the client; ``asked`` are the partitions that it asked about last."""

    def __init__(self) -> None:
        self.answer = True
        self.left_out = False
        self.ends: dict[int, int] | None = {}
        self.asked: list[int] = []

    def is_answered(self) -> bool:
        return self.answer

    def is_left_out(self) -> bool:
        return self.left_out

    def behind(self, partitions: Collection[int]) -> Mapping[tuple[str, int], int] | None:
        self.asked = list(partitions)
        if self.ends is None:
            return None
        return {(TOPIC, each): self.ends[each] for each in partitions if each in self.ends}


class Site:
    def __init__(self) -> None:
        self.brokers = Brokers()
        self.positions: JobPositions[FakeJob] = JobPositions()
        self.evidence = GroupEvidence(self.brokers, self.positions)

    def look(self, death: str = SILENT) -> Evidence:
        found = self.evidence.look()
        assert self.evidence.death == death
        return found


@pytest.fixture
def group() -> Site:
    return Site()


def test_messages_are_progress_and_nobody_is_asked(group: Site) -> None:
    group.brokers.answer = False
    group.evidence.note_message()
    assert group.look() is PROGRESSED
    # Of the time since then.
    assert group.look(CUT_OFF) is UNANSWERED


def test_a_client_that_is_not_polled_has_to_be_answered(group: Site) -> None:
    assert group.look() is ANSWERED
    group.brokers.answer = False
    assert group.look(CUT_OFF) is UNANSWERED
    group.brokers.answer = True
    assert group.look() is ANSWERED


def test_a_client_without_messages_is_behind_where_the_log_holds_more(group: Site) -> None:
    group.positions.assign([0, 1])
    group.look()
    group.brokers.ends = {1: 7}
    group.evidence.note_nothing()
    assert group.look() == Behind({(TOPIC, 1): 7})
    assert group.brokers.asked == [0, 1]


def test_an_empty_poll_before_a_long_job_is_no_lack_of_messages(group: Site) -> None:
    group.positions.assign([0, 1])
    group.look()
    group.brokers.ends = {1: 7}
    liveness = Liveness(patience=2, interval=0.0)
    for _ in range(3):
        group.evidence.note_nothing()
        group.evidence.note_message()
        assert liveness.judge(group.look(), 0.0, lambda: True) is Verdict.ALIVE


def test_a_partition_that_was_assigned_since_the_last_look_is_not_asked_about(group: Site) -> None:
    group.positions.assign([0, 1])
    group.look()
    group.positions.assign([1, 2])
    group.evidence.note_nothing()
    assert group.look() == Behind({})
    assert group.brokers.asked == [0]


def test_what_is_fetched_and_not_committed_is_no_lack_of_messages(group: Site) -> None:
    group.positions.assign([0])
    group.look()
    group.positions.fetch(0, 3, None)
    group.evidence.note_nothing()
    assert group.look() is ANSWERED
    assert group.brokers.asked == []


def test_where_the_ends_are_not_told_an_answer_is_asked_for(group: Site) -> None:
    group.positions.assign([0])
    group.look()
    group.brokers.ends = None
    group.evidence.note_nothing()
    assert group.look() is ANSWERED
    group.brokers.answer = False
    group.evidence.note_nothing()
    assert group.look(CUT_OFF) is UNANSWERED


def test_a_member_without_partitions_is_left_out_if_all_members_are(group: Site) -> None:
    group.brokers.left_out = True
    assert group.look() is ANSWERED
    group.evidence.note_nothing()
    assert group.look(LEFT_OUT) is UNANSWERED
    group.positions.assign([0])
    group.evidence.note_nothing()
    assert group.look() is ANSWERED
