"""Which records are duplicates: a rule of the log alone, on which all readers agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_layer.wire.encryption import Encryption
from kafka_layer.wire.idempotency import (
    LONGEST_KEY,
    WINDOW,
    Duplicates,
    has_key,
    idempotency_header,
)
from kafka_layer.wire.records import Record
from kafka_layer.wire.topics import Topic
from tests.support.tables import for_each

GROUP = Topic.SEND_GROUP
PLAIN = Encryption()


def record(
    key: str | None,
    written: float,
    *,
    offset: int = 0,
    partition: int = 0,
    topic: Topic = GROUP,
    address: str = "room",
    encryption: Encryption = PLAIN,
) -> Record:
    headers = [] if key is None else [idempotency_header(encryption, topic, address, key)]
    return topic, address.encode(), b"value", headers, written, partition, offset


def judged(records: Sequence[Record], encrypted: bool = False) -> list[bool]:
    duplicates = Duplicates(encrypted)
    return [duplicates.is_duplicate(each) for each in records]


class TestHeader:
    def test_a_golden_header(self) -> None:
        assert idempotency_header(PLAIN, GROUP, "room", "grüße") == (
            "idempotency-key",
            b"gr\xc3\xbc\xc3\x9fe",
        )

    def test_a_golden_header_with_encryption(self) -> None:
        """Computed with openssl: HMAC-SHA256 by the SHA-256 of the key, its first 16 bytes."""
        header = idempotency_header(Encryption([b"example-key-1"]), GROUP, "room-1", "order-17")
        assert header == ("idempotency-key", b"cbcbb7cf82ae2e2d8d150993a2bcb41a")

    def test_a_header_with_encryption_fits_one_address_and_tells_nothing(self) -> None:
        encryption = Encryption([b"secret"])
        ways = [
            (GROUP, "room"),
            (GROUP, "other"),
            (Topic.SEND_USER, "room"),
            (Topic.SEND_ALL, None),
        ]
        headers = {idempotency_header(encryption, *way, "order-17")[1] for way in ways}
        assert len(headers) == len(ways)
        assert not any(b"order" in each for each in headers)

    @for_each(
        ("key", "error", "told"),
        [
            (7, TypeError, r"a str, not int; give str\(key\)"),
            (b"x", TypeError, "a str, not bytes"),
            ("", ValueError, "has 0 characters; give 1 to 200"),
            ("x" * (LONGEST_KEY + 1), ValueError, "has 201 characters; give 1 to 200"),
            ("\ud800", ValueError, "surrogates"),
        ],
    )
    def test_bad_keys_are_refused(self, key: object, error: type[Exception], told: str) -> None:
        with pytest.raises(error, match=told):
            idempotency_header(PLAIN, GROUP, "room", key)  # type: ignore[arg-type]

    def test_the_last_header_of_the_name_counts(self) -> None:
        headers = [("idempotency-key", b"a"), ("idempotency-key", b"b"), ("exclude", b"x")]
        first: Record = (GROUP, b"room", b"", headers, 0.0, 0, 0)
        assert has_key(headers)
        assert judged([first, record("a", 1.0, offset=1), record("b", 2.0, offset=2)]) == [
            False,
            False,
            True,
        ]

    @pytest.mark.parametrize("value", [None, b""])
    def test_an_empty_header_is_no_key(self, value: bytes | None) -> None:
        keyed: list[Record] = [
            (GROUP, b"room", b"", [("idempotency-key", value)], 0.0, 0, n) for n in range(2)
        ]
        assert judged(keyed) == [False, False]


class TestRule:
    def test_the_second_one_within_the_window(self) -> None:
        times = [0.0, WINDOW, 2 * WINDOW + 0.1]
        records = [record("k", time, offset=n) for n, time in enumerate(times)]
        assert judged(records) == [False, True, False]

    def test_the_window_begins_anew_with_each_copy(self) -> None:
        """So it takes no more than the window before a record to tell."""
        times = [0.0, 200.0, 400.0, 600.0]
        records = [record("k", time, offset=n) for n, time in enumerate(times)]
        assert judged(records) == [False, True, True, True]

    def test_records_without_a_key_are_no_duplicates(self) -> None:
        duplicates = Duplicates(encrypted=False)
        assert not any(duplicates.is_duplicate(record(None, 0.0, offset=n)) for n in range(2))
        assert len(duplicates) == 0

    def test_a_key_counts_for_one_address(self) -> None:
        records = [
            record("k", 0.0, offset=0),
            record("k", 0.0, offset=1, address="other"),
            record("k", 0.0, offset=0, topic=Topic.SEND_USER),
            record("K", 0.0, offset=2),
        ]
        assert not any(judged(records))

    def test_copies_in_two_partitions(self) -> None:
        """Those of all_send from two processes; or partitions were added between them."""
        assert judged([record("k", 5.0), record("k", 6.0, partition=1)]) == [False, True]
        # Read in the other order, by a reader that is behind with one of them: one is told.
        assert judged([record("k", 6.0, partition=1), record("k", 5.0)]) == [False, True]

    def test_an_older_series_in_a_partition_that_is_read_late_is_another_one(self) -> None:
        late = record("k", 0.0, partition=1)
        assert judged([record("k", 5 * WINDOW), late]) == [False, False]

    def test_a_record_that_is_read_again_is_judged_as_before(self) -> None:
        records = [record("k", float(n), offset=n) for n in range(3)]
        duplicates = Duplicates(encrypted=False)
        for _ in range(2):
            assert [duplicates.is_duplicate(each) for each in records] == [False, True, True]

    def test_what_a_flush_dropped_is_no_original(self) -> None:
        duplicates = Duplicates(encrypted=False)
        assert not duplicates.is_duplicate(record("k", 1.0))
        assert not duplicates.is_duplicate(record("k", 3.0, offset=1), flushed_until=2.0)
        assert duplicates.is_duplicate(record("k", 4.0, offset=2), flushed_until=2.0)

    def test_while_the_encryption_keys_change(self) -> None:
        """Each deployment has one key in common with the one before."""
        stages = [
            Encryption(keys) for keys in ([b"old"], [b"old", b"new"], [b"new", b"old"], [b"new"])
        ]
        records = [record("k", n, offset=n, encryption=each) for n, each in enumerate(stages)]
        for first, second in pairwise(records):
            assert judged([first, second], encrypted=True) == [False, True]
        assert judged(records, encrypted=True) == [False, True, True, True]
        assert judged([records[0], records[3]], encrypted=True) == [False, False]

    def test_a_comma_in_a_plain_key_separates_nothing(self) -> None:
        assert judged([record("a,b", 0.0), record("b,c", 1.0, offset=1)]) == [False, False]


# By partition: the seconds since the record before, and the key, if it has one.
COURSES = st.lists(
    st.tuples(st.integers(0, 1), st.floats(0, 200, width=16), st.sampled_from([None, "a", "b"])),
    max_size=40,
)


def course(steps: Sequence[tuple[int, float, str | None]]) -> list[Record]:
    records, time, ends = [], 0.0, [0, 0]
    for partition, pause, key in steps:
        time += pause
        records.append(record(key, time, offset=ends[partition], partition=partition))
        ends[partition] += 1
    return records


@given(COURSES)
def test_the_rule(steps: list[tuple[int, float, str | None]]) -> None:
    records = course(steps)
    expected = [
        has_key(one[3])
        and any(one[3] == each[3] and one[4] - each[4] <= WINDOW for each in records[:number])
        for number, one in enumerate(records)
    ]
    assert judged(records) == expected


@given(COURSES, st.integers(0, 40))
def test_a_reader_that_starts_late_agrees_if_it_learns_the_window_before(
    steps: list[tuple[int, float, str | None]], start: int
) -> None:
    records = course(steps)
    whole = judged(records)
    for number in range(start, len(records)):
        # What it has read live, up to this record, and learns of the time before its start.
        duplicates = Duplicates(encrypted=False)
        since = records[number][4] - WINDOW
        duplicates.learn([each for each in records[:start] if each[4] >= since])
        live = [duplicates.is_duplicate(each) for each in records[start : number + 1]]
        assert live[-1] == whole[number]


@given(COURSES, st.integers(0, 40))
def test_what_is_learnt_afterwards_corrects_what_is_judged_again(
    steps: list[tuple[int, float, str | None]], start: int
) -> None:
    """A replay judges records that are older than those of the router."""
    # Of two that were written in the same millisecond that of the lower partition is the original.
    records = sorted(course(steps), key=lambda each: (each[4], each[5], each[6]))
    duplicates = Duplicates(encrypted=False)
    for each in records[start:]:
        duplicates.is_duplicate(each)
    duplicates.learn(records[:start])
    last = max((each[4] for each in records), default=0.0)
    # Of a key that was used anew after its window only the last series is known.
    known = [
        (each, verdict)
        for each, verdict in zip(records, judged(records), strict=True)
        if each[4] >= last - WINDOW
    ]
    assert [duplicates.is_duplicate(each) for each, _ in known] == [verdict for _, verdict in known]


class TestBounds:
    def test_keys_are_forgotten_after_their_window(self) -> None:
        forgotten: list[int] = []
        duplicates = Duplicates(False, forgotten.append)
        for number in range(1000):
            duplicates.is_duplicate(record(str(number), number * 10.0, offset=number))
        assert len(duplicates) <= 2 * (WINDOW / 10 + 2)
        assert not forgotten

    def test_of_too_many_older_keys_the_last_ones_are_learnt(self) -> None:
        forgotten: list[int] = []
        duplicates = Duplicates(False, forgotten.append, max_keys=10)
        duplicates.learn(
            [record(str(number), float(number), offset=number) for number in range(30)]
        )
        assert forgotten == [20]
        copies = [record(str(number), 40.0, offset=30 + number) for number in (29, 20, 19)]
        assert [duplicates.is_duplicate(each) for each in copies] == [True, True, False]

    def test_more_than_it_remembers_are_counted(self) -> None:
        forgotten: list[int] = []
        duplicates = Duplicates(False, forgotten.append, max_keys=10)
        for number in range(30):
            duplicates.is_duplicate(record(str(number), 1.0, offset=number))
        assert len(duplicates) <= 20
        assert sum(forgotten) == 10
        assert duplicates.is_duplicate(record("29", 1.0, offset=30))
        assert duplicates.is_duplicate(record("20", 1.0, offset=31))
        assert not duplicates.is_duplicate(record("9", 1.0, offset=32))
