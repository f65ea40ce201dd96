"""What a look at a worker group's client finds out, from messages and the brokers' answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest

from kafka_layer.kafka.liveness import ANSWERED, PROGRESSED, UNANSWERED, Behind, Evidence
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
def site() -> Site:
    return Site()


def test_messages_are_progress_and_nobody_is_asked(site: Site) -> None:
    site.brokers.answer = False
    site.evidence.note_message()
    assert site.look() is PROGRESSED
    # Of the time since then.
    assert site.look(CUT_OFF) is UNANSWERED


def test_a_client_that_is_not_polled_has_to_be_answered(site: Site) -> None:
    assert site.look() is ANSWERED
    site.brokers.answer = False
    assert site.look(CUT_OFF) is UNANSWERED
    site.brokers.answer = True
    assert site.look() is ANSWERED


def test_a_client_without_messages_is_behind_where_the_log_holds_more(site: Site) -> None:
    site.positions.assign([0, 1])
    site.look()
    site.brokers.ends = {1: 7}
    site.evidence.note_nothing()
    assert site.look() == Behind({(TOPIC, 1): 7})
    assert site.brokers.asked == [0, 1]


def test_a_partition_that_was_assigned_since_the_last_look_is_not_asked_about(site: Site) -> None:
    site.positions.assign([0, 1])
    site.look()
    site.positions.assign([1, 2])
    site.evidence.note_nothing()
    assert site.look() == Behind({})
    assert site.brokers.asked == [0]


def test_what_is_fetched_and_not_committed_is_no_lack_of_messages(site: Site) -> None:
    site.positions.assign([0])
    site.look()
    site.positions.fetch(0, 3, None)
    site.evidence.note_nothing()
    assert site.look() is ANSWERED
    assert site.brokers.asked == []


def test_where_the_ends_are_not_told_an_answer_is_asked_for(site: Site) -> None:
    site.positions.assign([0])
    site.look()
    site.brokers.ends = None
    site.evidence.note_nothing()
    assert site.look() is ANSWERED
    site.brokers.answer = False
    site.evidence.note_nothing()
    assert site.look(CUT_OFF) is UNANSWERED


def test_a_member_without_partitions_is_left_out_if_all_members_are(site: Site) -> None:
    site.brokers.left_out = True
    assert site.look() is ANSWERED
    site.evidence.note_nothing()
    assert site.look(LEFT_OUT) is UNANSWERED
    site.positions.assign([0])
    site.evidence.note_nothing()
    assert site.look() is ANSWERED
