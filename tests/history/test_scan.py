"""Scans of the log, over any course of records in several partitions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_layer.history import scan
from kafka_layer.history.flushes import Flushes
from kafka_layer.history.scan import Budget, Cursor, in_order, read_back, read_on, told_until
from kafka_layer.transport import Extent
from kafka_layer.wire.records import Record
from kafka_layer.wire.topics import Topic

TOPIC = Topic.SEND_ALL
Place = tuple[Topic, int]


class FakePast:
    """A log in memory that counts what is read of it.

    Args:
        writes: For each record its partition and whether it is wanted, in the order in which they
            were written. A record's time is its place in this order.
        partitions: How many partitions there are.
    """

    deadline = 0.0

    def __init__(self, writes: Sequence[tuple[int, bool]], partitions: int) -> None:
        self.logs: list[list[Record]] = [[] for _ in range(partitions)]
        for time, (number, wanted) in enumerate(writes):
            log = self.logs[number]
            key = b"wanted" if wanted else b"other"
            log.append((TOPIC, key, b"x", (), float(time), number, len(log)))
        self.starts = [0] * partitions
        self.read_records = 0
        self.is_late = False

    def wanted(self) -> list[Record]:
        return sorted(filter(is_wanted, chain(*self.logs)), key=lambda record: record[4])

    def cursors(self) -> list[Cursor]:
        return [
            Cursor((TOPIC, number), self.starts[number], len(log), self.starts[number] > 0)
            for number, log in enumerate(self.logs)
        ]

    def extents(self, topics: Sequence[Topic] = ()) -> dict[Place, Extent]:
        return {
            (TOPIC, number): Extent("id", self.starts[number], len(log))
            for number, log in enumerate(self.logs)
        }

    def first_since(self, where: Place, extent: Extent, timestamp: float) -> int:
        raise NotImplementedError

    def read(self, where: Place, first: int, end: int) -> tuple[int, list[Record]]:
        if self.is_late:
            raise TimeoutError
        self.read_records += end - first
        start = max(first, min(end, self.starts[where[1]]))
        return start, self.logs[where[1]][start:end]


def is_wanted(record: Record) -> bool:
    return record[1] == b"wanted"


WRITES = st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=150)
LIMITS = st.integers(1, 30)


@given(WRITES, LIMITS)
def test_back_from_the_end_the_last_ones_are_found(
    writes: list[tuple[int, bool]], limit: int
) -> None:
    past = FakePast(writes, 3)
    cursors = past.cursors()
    assert read_back(Budget(past), cursors, is_wanted, limit)
    assert list(in_order(cursors))[-limit:] == past.wanted()[-limit:]


@given(WRITES, st.integers(0, 150))
def test_back_to_a_time_all_since_then_are_found(
    writes: list[tuple[int, bool]], since: int
) -> None:
    past = FakePast(writes, 3)
    cursors = past.cursors()
    assert read_back(Budget(past), cursors, is_wanted, since=since)
    found = [each for each in in_order(cursors) if each[4] >= since]
    assert found == [each for each in past.wanted() if each[4] >= since]


@given(WRITES, LIMITS)
def test_page_by_page_each_is_found_once_and_in_order(
    writes: list[tuple[int, bool]], limit: int
) -> None:
    past = FakePast(writes, 3)
    told: list[Record] = []
    offsets = {0: 0, 1: 0, 2: 0}
    while True:
        cursors = past.cursors()
        for cursor in cursors:
            cursor.first = offsets[cursor.where[1]]
        assert read_on(Budget(past), cursors, is_wanted, limit)
        found = list(in_order(cursors))
        offsets = told_until(cursors, found[limit:])
        if not found:
            break
        told += found[:limit]
    assert told == past.wanted()


def test_a_few_are_found_without_reading_all() -> None:
    past = FakePast([(number % 3, True) for number in range(9000)], 3)
    read_back(Budget(past), past.cursors(), is_wanted, 10)
    assert past.read_records < 500


@pytest.mark.parametrize("reads", [read_back, read_on])
def test_the_bounds_cut_a_scan(reads: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_RECORDS", 1000)
    past = FakePast([(0, False)] * 5000, 1)
    cursors = past.cursors()
    assert not reads(Budget(past), cursors, is_wanted, 10)  # type: ignore[operator]
    assert 1000 <= past.read_records < 1000 + scan._LARGEST_CHUNK
    assert not cursors[0].done


def test_large_records_are_read_in_small_parts() -> None:
    past, large = FakePast([(0, False)] * 500, 1), b"x" * 1_000_000
    past.logs[0] = [(*each[:2], large, *each[3:]) for each in past.logs[0]]  # type: ignore[misc]
    assert not read_back(Budget(past), past.cursors(), is_wanted, 10)
    assert past.read_records <= 120


def test_a_broker_that_falls_silent_cuts_a_scan_and_one_that_never_spoke_ends_it() -> None:
    past = FakePast([(0, True)] * 300, 1)
    past.is_late = True
    with pytest.raises(TimeoutError):
        read_back(Budget(past), past.cursors(), is_wanted, 10)
    assert not read_back(Budget(past, answered=True), past.cursors(), is_wanted, 10)


@pytest.mark.parametrize("reads", [read_back, read_on])
def test_records_that_are_deleted_meanwhile_are_told_as_missing(reads: object) -> None:
    past = FakePast([(0, True)] * 300, 1)
    cursors = past.cursors()
    past.starts[0] = 200
    assert reads(Budget(past), cursors, is_wanted, 1000)  # type: ignore[operator]
    assert cursors[0].cut
    assert list(in_order(cursors)) == past.logs[0][200:]


class TestFlushes:
    @given(st.lists(st.tuples(WRITES, st.integers(0, 150)), min_size=1, max_size=4))
    def test_the_latest_is_known_however_the_log_grows(
        self, turns: list[tuple[list[tuple[int, bool]], int]]
    ) -> None:
        flushes, writes = Flushes(is_wanted), list[tuple[int, bool]]()
        for more, since in turns:
            writes += more
            past = FakePast(writes, 3)
            assert flushes.learn(Budget(past), past.extents(), since)
            expected = [each[4] for each in past.wanted() if each[4] >= since]
            if expected:
                assert flushes.latest == expected[-1]

    def test_what_is_known_is_not_read_again(self) -> None:
        flushes, past = Flushes(is_wanted), FakePast([(0, False)] * 500, 1)
        assert flushes.learn(Budget(past), past.extents(), 0.0)
        past.read_records = 0
        assert flushes.learn(Budget(past), past.extents(), 0.0)
        assert past.read_records == 0

    def test_a_scan_that_was_cut_goes_on_at_the_next_question(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(scan, "MAX_RECORDS", 1000)
        flushes, past = Flushes(is_wanted), FakePast([(0, True), *[(0, False)] * 4999], 1)
        sure = [flushes.learn(Budget(past), past.extents(), 0.0) for _ in range(6)]
        assert sure[0] is False
        assert sure[-1] is True
        assert flushes.latest == 0.0

    def test_another_topic_is_read_anew(self) -> None:
        flushes, past = Flushes(is_wanted), FakePast([(0, False)] * 50, 1)
        assert flushes.learn(Budget(past), past.extents(), 0.0)
        anew = FakePast([(0, True)] * 50, 1)
        extents = {where: each._replace(topic_id="anew") for where, each in anew.extents().items()}
        assert flushes.learn(Budget(anew), extents, 0.0)
        assert flushes.latest == 49.0
