"""What is kept of the messages that a member took, for a topic that was created again."""

from __future__ import annotations

from kafka_layer.kafka.worker_group.recent import MOST, Handover, Recent
from tests.kafka.worker_group.test_membership import FakeJob

MARK = (8, "read-until=9")


def take(recent: Recent, *messages: tuple[int, int, int]) -> None:
    for partition, offset, timestamp in messages:
        recent.fetch(partition, offset, timestamp)
        recent.take([(partition, offset, None, None)])


def test_what_was_taken_is_left_for_half_a_minute_at_least() -> None:
    recent = Recent()
    recent.forget(0.0)
    take(recent, (0, 6, 100))
    recent.forget(29.0)
    take(recent, (0, 7, 200))
    recent.forget(31.0)
    take(recent, (0, 8, 300), (1, 5, 400))
    assert recent.handover({0: MARK}) == {0: Handover(MARK, {6: 100, 7: 200, 8: 300})}
    recent.forget(62.0)
    assert recent.handover({0: MARK}) == {0: Handover(MARK, {8: 300})}


def test_what_was_only_fetched_or_given_back_was_not_taken() -> None:
    recent = Recent()
    take(recent, (0, 0, 100), (0, 1, 200))
    recent.fetch(0, 2, 300)
    recent.give_back([FakeJob(0, 1, None)])
    assert recent.handover({0: MARK}) == {0: Handover(MARK, {0: 100})}
    recent.take([(0, 1, None, None)])
    recent.revoke({0})
    recent.take([(0, 2, None, None)])
    assert recent.handover({0: MARK}) == {0: Handover(MARK, {0: 100, 1: 200})}


def test_nothing_is_left_where_some_of_it_would_be_missing() -> None:
    recent = Recent()
    take(recent, *((0, offset, 100) for offset in range(MOST + 1)))
    assert recent.handover({0: MARK}) == {}
    recent.forget(0.0)
    assert recent.handover({0: MARK}) == {}
    recent.forget(40.0)
    assert recent.handover({0: MARK}) == {0: Handover(MARK, {})}
