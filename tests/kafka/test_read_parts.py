"""Parts of partitions that are kept: every read gives what the log holds, whatever is kept."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_layer.kafka import read_parts
from kafka_layer.kafka.read_parts import ReadParts
from kafka_layer.wire.records import Record
from kafka_layer.wire.topics import Topic

WHERE = (Topic.SEND_GROUP, 0)


class Log:
    """A log whose first records can be deleted; counts what is read of it."""

    def __init__(self, present: Sequence[bool]) -> None:
        self.present = present
        self.start = 0
        self.read_offsets = 0

    def read(self, first: int, end: int) -> tuple[int, list[Record]]:
        start = min(max(first, self.start), end)
        self.read_offsets += end - first
        return start, self.records(start, end)

    def records(self, first: int, end: int) -> list[Record]:
        return [
            (Topic.SEND_GROUP, b"key", b"x", (), 0.0, 0, offset)
            for offset in range(first, end)
            if self.present[offset]
        ]


@given(
    st.lists(st.booleans(), min_size=60, max_size=60),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60)), max_size=20),
)
def test_each_read_gives_what_the_log_holds(
    present: list[bool], turns: list[tuple[int, int, int]]
) -> None:
    log, parts = Log(present), ReadParts()
    for one, other, deleted in turns:
        log.start = max(log.start, deleted - 40)
        first, end = min(one, other), max(one, other)
        start, records = parts.read(WHERE, first, end, log.read)
        # Records that are kept may be told although the log has lost them since.
        assert first <= start <= max(first, min(end, log.start))
        assert list(records) == log.records(start, end)


def test_what_is_kept_is_not_read_again() -> None:
    log, parts = Log([True] * 100), ReadParts()
    for first, end in ((50, 100), (20, 50), (30, 90), (20, 100)):
        parts.read(WHERE, first, end, log.read)
    assert log.read_offsets == 80


def test_a_read_that_fails_changes_nothing() -> None:
    log, parts = Log([True] * 100), ReadParts()
    parts.read(WHERE, 40, 60, log.read)

    def fail(first: int, end: int) -> tuple[int, list[Record]]:
        raise TimeoutError

    for first, end in ((20, 50), (50, 80), (80, 90)):
        with pytest.raises(TimeoutError):
            parts.read(WHERE, first, end, fail)
    assert parts.read(WHERE, 40, 60, fail) == (40, log.records(40, 60))


def test_a_log_whose_end_was_cut_off_is_read_anew() -> None:
    log, parts = Log([True] * 100), ReadParts()
    parts.read(WHERE, 0, 100, log.read)
    parts.forget(lambda where: None)
    parts.forget(lambda where: 100)
    parts.read(WHERE, 0, 100, log.read)
    assert log.read_offsets == 100
    parts.forget(lambda where: 90)
    parts.read(WHERE, 0, 90, log.read)
    assert log.read_offsets == 190


def test_it_keeps_no_more_than_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_parts, "_MAX_BYTES", 10_000)
    log, parts = Log([True] * 100), ReadParts()
    for _ in range(2):
        assert len(parts.read(WHERE, 0, 100, log.read)[1]) == 100
    assert log.read_offsets == 200
