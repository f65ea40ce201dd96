"""What a server keeps of the log: exact, bounded, without holes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kafka_layer.recovery.recent import RecentLog
from kafka_layer.transport import ReadFrom
from kafka_layer.wire.record_block import RECORD_BYTES, RecordBlock
from kafka_layer.wire.records import Record
from kafka_layer.wire.topics import Topic

WHERES = [(Topic.SEND_GROUP, 0), (Topic.SEND_GROUP, 1), (Topic.SEND_ALL, 0)]
KEYS = [b"a", b"b", b"c"]
# Any record of a batch: where it is, its key, and how far behind the one before it. As one list,
# because hypothesis takes long for each thing that it draws.
RECORDS = [(where, key, step) for step, key, where in itertools.product((1, 2, 3), KEYS, WHERES)]
MOST_BYTES = 20 * RECORD_BYTES
SECONDS = 30.0


def record(
    where: tuple[Topic, int], offset: int, key: bytes | None = b"a", written: float = 0.0
) -> Record:
    return (where[0], key, b"x" * (offset % 7), (), written, where[1], offset)


def blocks(records: Sequence[Record], most: int = 3) -> list[RecordBlock]:
    return [RecordBlock.of(records[at : at + most]) for at in range(0, len(records), most)]


class Log(RuleBasedStateMachine):
    """The log as it is, and what is kept of it."""

    def __init__(self) -> None:
        super().__init__()
        self.recent = RecentLog(MOST_BYTES, SECONDS)
        self.now = 1000.0
        # The whole log, and where its reader is.
        self.log: dict[Any, list[Record]] = {where: [] for where in WHERES}
        self.ends = dict.fromkeys(WHERES, 0)
        self.recent.move({where: ReadFrom(0, "id") for where in WHERES})
        self.begins = dict.fromkeys(WHERES, 0)

    @rule(batch=st.lists(st.sampled_from(RECORDS), max_size=12), seconds=st.integers(0, 20))
    def read(self, batch: list[tuple[Any, bytes, int]], seconds: int) -> None:
        self.now += seconds
        records = []
        for where, key, step in batch:
            # Offsets may be missing, such as those of transactions.
            offset = self.ends[where] + step - 1
            records.append(record(where, offset, key, self.now))
            self.log[where].append(records[-1])
            self.ends[where] = offset + 1
        self.recent.append(records)
        if records:
            assert self.recent.size <= MOST_BYTES
            self.recent.note_routed()

    @rule(back=st.integers(0, 50), since=st.integers(-2, 2))
    def read_the_past(self, back: int, since: int) -> None:
        for where in WHERES:
            begin = self.recent.begin(where)
            first = max(0, begin - back)
            # Sometimes others were dropped since it was asked for, or were added.
            end = max(first, begin + since)
            older = [each for each in self.log[where] if first <= each[6] < end]
            self.recent.prepend(where, first, end, blocks(older))
            assert self.recent.begin(where) == (first if end >= begin else begin)

    @rule(where=st.sampled_from(WHERES), by=st.integers(1, 5))
    def lose_records(self, where: Any, by: int) -> None:
        """The reader goes on behind what the log has lost."""
        self.ends[where] += by
        moved = {each: ReadFrom(end, "id") for each, end in self.ends.items()}
        assert self.recent.move(moved) == {where: "truncated"}
        self.log[where] = [each for each in self.log[where] if each[6] >= self.ends[where]]
        assert self.recent.begin(where) == self.ends[where]

    @precondition(lambda self: any(self.ends.values()))
    @rule()
    def look_again(self) -> None:
        assert not self.recent.move({where: ReadFrom(at, "id") for where, at in self.ends.items()})

    @invariant()
    def finds_what_the_log_holds(self) -> None:
        assert self.recent.ends == self.ends
        kept = 0
        for where in WHERES:
            begin, end = self.recent.begin(where), self.ends[where]
            for first in range(max(0, begin - 1), end + 1):
                for key in [None] if where[0] is Topic.SEND_ALL else KEYS:
                    wanted = [
                        each
                        for each in self.log[where]
                        if each[6] >= first and key in (None, each[1])
                    ]
                    found = self.recent.find(where, key, first, end)
                    assert found == (wanted if first >= begin or first == end else None)
            kept += sum(
                RECORD_BYTES + len(each[2] or b"") for each in self.log[where] if each[6] >= begin
            )
        assert self.recent.size == kept


TestLog = Log.TestCase
TestLog.settings = settings(stateful_step_count=30)


def test_a_part_of_what_a_key_has() -> None:
    recent, where = RecentLog(1 << 20, SECONDS), (Topic.SEND_GROUP, 0)
    recent.append([record(where, offset, KEYS[offset % 2]) for offset in range(10)])
    found = recent.find(where, b"a", 1, 8, most=2)
    assert found is not None
    assert [each[6] for each in found] == [2, 4]
    assert recent.find(where, b"nobody", 0, 10) == []
    assert recent.find((Topic.SEND_USER, 0), b"a", 0, 10) is None


def test_what_is_sent_to_everybody_has_one_key() -> None:
    recent, where = RecentLog(1 << 20, SECONDS), (Topic.SEND_ALL, 0)
    recent.append([record(where, 0, None), record(where, 1, b""), record(where, 2, b"x")])
    found = recent.find(where, None, 0, 3)
    assert found is not None
    assert len(found) == 3


def test_messages_to_channels_are_not_kept() -> None:
    recent = RecentLog(1 << 20, SECONDS)
    recent.append([record((Topic.SEND_CONN, 0), 5)])
    assert (recent.size, recent.ends) == (0, {})


def test_what_is_routed_is_told_apart_from_what_is_read() -> None:
    recent, where = RecentLog(1 << 20, SECONDS), (Topic.SEND_GROUP, 0)
    recent.append([record(where, 0)])
    recent.note_routed()
    recent.append([record(where, 1)])
    assert (recent.routed[where], recent.ends[where]) == (1, 2)


@pytest.mark.parametrize("topic_id", ["new", None])
def test_a_topic_that_was_made_anew_begins_again(topic_id: str | None) -> None:
    recent, where = RecentLog(1 << 20, SECONDS), (Topic.SEND_GROUP, 0)
    assert not recent.move({where: ReadFrom(0, "old")})
    recent.append([record(where, offset) for offset in range(3)])
    assert recent.move({where: ReadFrom(0, topic_id)}) == {where: "epoch"}
    assert (recent.size, recent.begin(where), recent.ends[where]) == (0, 0, 0)
    assert recent.topic_ids[Topic.SEND_GROUP] == (topic_id or "old")


def test_the_bytes_are_shared_by_all_partitions() -> None:
    """A busy one does not keep less than its share: the oldest of all go first."""
    recent = RecentLog(4 * RECORD_BYTES, SECONDS)
    offsets = itertools.count()
    quiet, busy = (Topic.SEND_GROUP, 0), (Topic.SEND_GROUP, 1)
    recent.append([(*record(quiet, 0)[:2], b"", (), 0.0, 0, 0)])
    recent.append([(busy[0], b"a", b"", (), 1.0, 1, next(offsets)) for _ in range(6)])
    assert recent.begin(quiet) == 1
    assert recent.begin(busy) == 2


def test_headers_count() -> None:
    """A message may exclude very many channels."""
    recent, where = RecentLog(10_000, SECONDS), (Topic.SEND_GROUP, 0)
    headers = [("exclude", b"x" * 6_000)]
    recent.append([(where[0], b"a", b"", headers, 0.0, 0, offset) for offset in range(3)])
    assert recent.begin(where) == 2
    recent.prepend(where, 1, 2, blocks([(where[0], b"a", b"", headers, 0.0, 0, 1)]))
    assert recent.size > 12_000


def test_what_was_prepended_goes_first_and_only_what_has_to() -> None:
    recent, where, other = RecentLog(1 << 20, 10.0), (Topic.SEND_GROUP, 0), (Topic.SEND_GROUP, 1)
    recent.append([record(where, 8, written=20.0), record(other, 8, written=20.0)])
    for each, ages in ((where, (1, 11, 12, 13)), (other, (2, 3, 4, 20))):
        older = [record(each, 4 + row, written=float(age)) for row, age in enumerate(ages)]
        recent.prepend(each, 4, 8, blocks(older, 2))
    # 10 seconds before: the first block of one partition has one as young as that.
    recent.append([record(where, 9, written=21.0)])
    assert (recent.begin(where), recent.begin(other)) == (4, 6)
    recent.append([record(where, 10, written=22.0)])
    assert (recent.begin(where), recent.begin(other)) == (6, 6)
    assert recent.find(where, b"a", 6, 11) == [
        record(where, offset, written=float(age))
        for offset, age in ((6, 12), (7, 13), (8, 20), (9, 21), (10, 22))
    ]
