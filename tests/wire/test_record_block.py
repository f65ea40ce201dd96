"""Records by column: what is found is what would be found among the records themselves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kafka_layer.wire.record_block import RECORD_BYTES, RecordBlock
from kafka_layer.wire.records import Record
from kafka_layer.wire.topics import Topic

WHERE = (Topic.SEND_GROUP, 2)
KEYS = [b"a", b"b", None]


@st.composite
def records(draw: st.DrawFn) -> list[Record]:
    # Offsets may be missing, such as those of transactions.
    offsets = sorted(draw(st.sets(st.integers(5, 30), min_size=1)))
    return [
        (
            WHERE[0],
            draw(st.sampled_from(KEYS)),
            draw(st.sampled_from([b"", b"value", None])),
            draw(st.sampled_from([(), [("exclude", b"name"), ("empty", None)]])),
            float(offset),
            WHERE[1],
            offset,
        )
        for offset in offsets
    ]


@given(records(), st.integers(0, 40), st.integers(0, 40), st.sampled_from([b"a", b"b", b"other"]))
def test_what_is_found(records: list[Record], first: int, end: int, key: bytes) -> None:
    block = RecordBlock.of(records)
    between = [each for each in records if first <= each[6] < end]
    assert block.find(None, first, end) == between
    assert block.find(key, first, end) == [each for each in between if each[1] == key]
    assert (len(block), block.end, block.youngest) == (
        len(records),
        records[-1][6] + 1,
        records[-1][4],
    )
    assert block.size == sum(
        RECORD_BYTES + len(each[2] or b"") + (len("excludenameempty") if each[3] else 0)
        for each in records
    )


@given(records(), st.integers(0, 40))
def test_the_part_before_an_offset(records: list[Record], offset: int) -> None:
    part = RecordBlock.of(records).before(offset)
    found = [] if part is None else part.find(None, 0, 100)
    assert found == [each for each in records if each[6] < offset]
