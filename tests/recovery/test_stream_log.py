"""What a server keeps of a stream: exact, bounded, without holes."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kafka_layer.delivery.tickets import Ticket
from kafka_layer.exceptions import RegistryAway, UnreadableRecord
from kafka_layer.recovery.kept_stream import KeptStream
from kafka_layer.recovery.recent import Key
from kafka_layer.recovery.stream_log import UNREADABLE, StreamLog
from kafka_layer.transport import BatchFacts, Extent, ReadFrom
from kafka_layer.wire.record_block import RECORD_BYTES, RecordBlock
from kafka_layer.wire.topics import StreamTopic, Topic

TOPIC = StreamTopic("orders", "shop.orders")
WHERES = [(TOPIC, 0), (TOPIC, 1)]
A, B, C = ((Topic.SEND_GROUP, "a"), (Topic.SEND_GROUP, "b"), (Topic.SEND_USER, "a"))
KEYS: list[Key] = [A, B, C]
MOST_BYTES = 20 * RECORD_BYTES
# What a record may be for; and any record of a batch: where it is, for what, and how far behind the
# one before it. As one list, because hypothesis takes long for each thing that it draws.
ADDRESSES = [keys for count in range(len(KEYS) + 1) for keys in combinations(sorted(KEYS), count)]
RECORDS = [(where, keys, step) for step, keys, where in product((1, 2, 3), ADDRESSES, WHERES)]


def record(where: Any, offset: int) -> Any:
    return (where[0], b"key", b"x" * (offset % 7), (), 1000.0, where[1], offset)


class Log(RuleBasedStateMachine):
    """The topics as they are, and what is kept of them."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = StreamLog(MOST_BYTES, 300.0)
        # Each with its addresses, and where the reader is.
        self.log: dict[Any, list[tuple[Any, tuple[Key, ...]]]] = {where: [] for where in WHERES}
        self.ends = dict.fromkeys(WHERES, 0)
        self.kept.move({where: ReadFrom(0, "id") for where in WHERES})

    @rule(batch=st.lists(st.sampled_from(RECORDS), max_size=12))
    def read(self, batch: list[tuple[Any, tuple[Key, ...], int]]) -> None:
        made = []
        ends = dict(self.ends)
        for where, keys, step in batch:
            # Offsets may be missing, such as those of transactions, or of compaction.
            offset = ends[where] + step - 1
            made.append((record(where, offset), keys))
            ends[where] = offset + 1
        self.add(made)
        self.kept.note_routed()
        assert self.kept.routed == self.ends

    def add(self, made: list[tuple[Any, tuple[Key, ...]]]) -> None:
        """Add records with their addresses, one by one."""
        for each, addresses in made:
            where, offset = (each[0], each[5]), each[6]
            self.kept.append(each, addresses)
            assert self.kept.before(each) == {**self.ends, where: offset}
            self.log[where].append((each, addresses))
            self.ends[where] = offset + 1
            # What was prepended stays until the next record that is kept.
            assert not addresses or self.kept.size <= MOST_BYTES

    @rule(back=st.integers(0, 50), back_in_the_other=st.integers(0, 50))
    def read_the_past(self, back: int, back_in_the_other: int) -> None:
        parts = {}
        for where, by in zip(WHERES, (back, back_in_the_other), strict=True):
            begin = self.kept.begin(where)
            first = max(0, begin - by)
            older = [
                (*each, keys) for each, keys in self.log[where] if keys and first <= each[6] < begin
            ]
            parts[where] = first, begin, older
        self.kept.prepend(parts)

    @precondition(lambda self: any(self.ends.values()))
    @rule(where=st.sampled_from(WHERES), left=st.integers(0, 3))
    def leave_records_unread(self, where: Any, left: int) -> None:
        """The stream stops within a batch, and goes on there."""
        offset = max(0, self.ends[where] - left)
        self.log[where] = [each for each in self.log[where] if each[0][6] < offset]
        self.ends[where] = offset
        assert not self.kept.move({where: ReadFrom(offset, "id")})

    @rule(where=st.sampled_from(WHERES), by=st.integers(1, 5), lost=st.booleans())
    def go_on_behind(self, where: Any, by: int, lost: bool) -> None:
        self.ends[where] += by
        if lost:
            self.kept.lose(where, "truncated")
        found = self.kept.move({where: ReadFrom(self.ends[where], "id")})
        assert found == ({where: "truncated"} if lost else {})
        if lost:
            self.log[where] = []
            assert self.kept.begin(where) == self.ends[where]

    @rule(where=st.sampled_from(WHERES), offset=st.integers(0, 50))
    def seek(self, where: Any, offset: int) -> None:
        if offset == self.ends[where]:
            return
        self.kept.sought = True
        assert not self.kept.move({where: ReadFrom(offset, "id")})
        # What lies between is there, and was not read.
        assert self.kept.begin(where) == offset
        self.log[where] = [each for each in self.log[where] if each[0][6] < offset]
        self.ends[where] = offset

    @invariant()
    def finds_what_the_topics_hold(self) -> None:
        assert self.kept.ends == self.ends
        for where in WHERES:
            begin, end = self.kept.begin(where), self.ends[where]
            for first in range(max(0, begin - 1), end + 1):
                for key in KEYS:
                    wanted = [
                        each[6]
                        for each, keys in self.log[where]
                        if each[6] >= first and key in keys
                    ]
                    found = self.kept.find(where, key, first, end)
                    if first < begin and first < end:
                        assert found is None
                    else:
                        assert found is not None
                        assert [each[6] for each in found] == wanted


class LogOfBatches(Log):
    """The same, where the records of a batch are added at once, and some of it may be left."""

    def __init__(self) -> None:
        super().__init__()
        self.unread = Messages()

    def add(self, made: list[tuple[Any, tuple[Key, ...]]], left: int = 0) -> None:
        if not made:
            return
        self.unread.of.update({id(each): (each, addresses) for each, addresses in made})
        batch = [each for each, _ in made]
        self.kept.extend(batch, self.unread)
        assert self.kept.size <= MOST_BYTES
        for number, (each, addresses) in enumerate(made):
            where, offset = (each[0], each[5]), each[6]
            if number == len(made) - left:
                assert self.kept.leave(each) == left
                # From here on it is read again, also where nothing was read of a partition.
                self.ends[where] = offset
                break
            if number % 2:
                assert self.kept.before_in_batch(each) == {**self.ends, where: offset}
            self.log[where].append((each, addresses))
            self.ends[where] = offset + 1

    @rule(batch=st.lists(st.sampled_from(RECORDS), min_size=1), left=st.integers(1, 12))
    def read_a_part(self, batch: list[tuple[Any, tuple[Key, ...], int]], left: int) -> None:
        """The stream is paused within a batch."""
        made, ends = [], dict(self.ends)
        for where, keys, _ in batch:
            made.append((record(where, ends[where]), keys))
            ends[where] += 1
        self.add(made, min(left, len(made)))
        self.kept.note_routed()
        assert self.kept.routed == self.ends


class Messages:
    """Reads the messages of a source: here records, with the addresses that a test gave them."""

    def __init__(self) -> None:
        # By their ids: the messages, so that the ids stay theirs, and the addresses.
        self.of: dict[int, tuple[Any, tuple[Key, ...]]] = {}

    def facts(self, messages: Any) -> BatchFacts:
        size = sum(len(each[2]) for each in messages)
        return BatchFacts({self.where(each): each[6] + 1 for each in messages}, size)

    def where(self, message: Any) -> Any:
        return message[0], message[5]

    def offset(self, message: Any) -> int:
        offset: int = message[6]
        return offset

    def addresses(self, message: Any) -> tuple[Key, ...]:
        return self.of[id(message)][1]

    def record(self, message: Any) -> Any:
        return message


TestLog = Log.TestCase
TestLog.settings = settings(stateful_step_count=30)
TestLogOfBatches = LogOfBatches.TestCase
TestLogOfBatches.settings = settings(stateful_step_count=30)


def test_a_topic_that_was_made_anew() -> None:
    log = StreamLog(1 << 20, 300.0)
    log.move({WHERES[0]: ReadFrom(5, "old")})
    log.epochs.read(WHERES[0], 5, 1)
    log.append(record(WHERES[0], 5), (A,))
    before = log.epochs
    assert log.move({WHERES[0]: ReadFrom(0, "new")}) == {WHERES[0]: "epoch"}
    assert (log.begin(WHERES[0]), log.ends) == (0, {WHERES[0]: 0})
    assert (before.at(WHERES[0], 5, 6), log.epochs.at(WHERES[0], 5, 6)) == (1, -1)


def test_a_record_that_is_tried_again_is_kept_once() -> None:
    """A schema registry was away when it was to be delivered."""
    log = StreamLog(1 << 20, 300.0)
    log.move({WHERES[0]: ReadFrom(0, None)})
    for _ in range(2):
        log.append(record(WHERES[0], 0), (A,))
    found = log.find(WHERES[0], A, 0, 1)
    assert found is not None
    assert len(found) == 1


def test_batches_that_arrived_long_ago_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("kafka_layer.recovery.stream_log.monotonic", lambda: now)
    log, unread = StreamLog(1 << 20, 300.0), Messages()
    log.move({WHERES[0]: ReadFrom(5, None)})
    # What was read of the past goes first.
    log.prepend({WHERES[0]: (0, 5, [(*record(WHERES[0], 4), (A,))])})
    for offset in range(5, 9):
        message = record(WHERES[0], offset)
        unread.of[id(message)] = message, (A,)
        log.extend([message], unread)
        log.note_routed()
        now += 101.0
    assert log.begin(WHERES[0]) == 6
    found = log.find(WHERES[0], A, 6, 9)
    assert found is not None
    assert [each[6] for each in found] == [6, 7, 8]
    assert log.size == sum(RECORD_BYTES + offset % 7 for offset in (6, 7, 8))


def test_a_message_that_cannot_be_read_is_not_found() -> None:
    class Unreadable(Messages):
        def record(self, message: Any) -> Any:
            return None if message[6] == 1 else message

    log, unread = StreamLog(1 << 20, 300.0), Unreadable()
    log.move({WHERES[0]: ReadFrom(0, None)})
    messages = [record(WHERES[0], offset) for offset in range(3)]
    unread.of.update({id(each): (each, (A,)) for each in messages})
    log.extend(messages, unread)
    found = log.find(WHERES[0], A, 0, 3)
    assert found is not None
    assert [each[6] for each in found] == [0, 2]


def test_what_arrived_long_ago_is_dropped_whatever_its_own_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("kafka_layer.recovery.stream_log.monotonic", lambda: now)
    log = StreamLog(1 << 20, 300.0)
    log.move({WHERES[0]: ReadFrom(0, None)})
    for offset in range(3):
        log.append(record(WHERES[0], offset), (A,))
        log.note_routed()
        now += 200.0
    assert log.begin(WHERES[0]) == 1
    assert log.size == sum(RECORD_BYTES + offset % 7 for offset in (1, 2))


class Held:
    """A stream whose thread has not told where it is."""

    name = "orders"
    keepers: list[Any]

    def __init__(self) -> None:
        self.keepers = []

    def concerns(self, key: Key) -> bool:
        return True

    def keep(self, keeper: Any) -> None:
        self.keepers.append(keeper)


def test_it_is_off_then_beginning_then_on_and_off_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("kafka_layer.recovery.kept_stream.monotonic", lambda: now)
    moved: list[Any] = []
    stream: Any = Held()

    def ask(question: Any, deadline: float) -> Ticket[Any]:
        return Ticket()

    def on_moved(kept: KeptStream, lost: Any) -> None:
        moved.append((lost, dict(kept.log.routed)))

    kept = KeptStream(stream, 1 << 20, 300.0, 60.0, 0.5, ask, on_moved)
    assert (kept.is_begun, stream.keepers) == (False, [])
    waits = kept.before_join()
    assert waits is not None
    assert kept.before_join() is waits
    assert stream.keepers == [kept]
    now += 1.0
    # Its brokers take too long: no further join waits.
    assert kept.before_join() is None
    kept.begun({WHERES[0]: ReadFrom(5, "id")})
    assert (kept.is_begun, waits.done, moved) == (True, True, [(None, {WHERES[0]: 5})])
    kept.moved({WHERES[0]: ReadFrom(7, "id")})
    assert len(moved) == 1
    kept.log.lose(WHERES[0], "truncated")
    kept.moved({WHERES[0]: ReadFrom(9, "id")})
    # Routed until before the loss, as long as no channel knows of it.
    assert moved[1] == ({WHERES[0]: "truncated"}, {WHERES[0]: 7})
    assert kept.log.routed == {WHERES[0]: 9}
    kept.moved({WHERES[0]: ReadFrom(0, "another")})
    assert moved[2] == ({WHERES[0]: "epoch"}, {WHERES[0]: 0})
    kept.ended()
    assert (kept.is_begun, kept.log.ends) == (False, {})
    assert kept.before_join() is not None
    assert stream.keepers == [kept, kept]


class Broken:
    """A stream of which no record can be addressed."""

    name = "orders"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def concerns(self, key: Key) -> bool:
        return True

    def addresses(self, record: Any) -> Any:
        raise self.error


def test_what_cannot_be_addressed_where_the_stream_stops_is_known_to_be_there() -> None:
    def read(error: Exception) -> KeptStream:
        asked: list[Any] = []

        def ask(question: Any, deadline: float) -> Ticket[Any]:
            asked.append(question)
            return Ticket()

        stream: Any = Broken(error)
        kept = KeptStream(stream, 1 << 20, 300.0, 60.0, 0.5, ask, lambda *moved: None)
        kept.log.move({WHERES[0]: ReadFrom(2, None)})
        kept.past.read({WHERES[0]: 0}, {}, 0.0)
        asked[0](Past())
        return kept

    kept = read(UnreadableRecord("undecodable", "made so"))
    assert len(kept.log.find(WHERES[0], UNREADABLE, 0, 2) or ()) == 2
    with pytest.raises(RegistryAway):
        read(RegistryAway("no answer"))


class Past:
    """Two records."""

    def extents(self, topics: Any) -> Any:
        return {WHERES[0]: Extent(None, 0, 2)}

    def read_blocks(self, where: Any, first: int, end: int) -> Any:
        return 0, [RecordBlock.of([record(where, offset) for offset in range(2)])]
