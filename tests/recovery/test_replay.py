"""The order in which records are told."""

from __future__ import annotations

from kafka_layer.recovery.replay import in_order
from kafka_layer.wire.records import Record
from kafka_layer.wire.topics import Topic


def record(partition: int, offset: int, written: float) -> Record:
    return (Topic.SEND_GROUP, b"a", b"", (), written, partition, offset)


def test_each_partition_is_in_its_order_also_where_it_is_the_only_one() -> None:
    """The parts of a channel that reads on have the records of one key behind another's."""
    one, two, three = (record(0, offset, 1.0) for offset in range(3))
    other = record(1, 0, 0.5)
    assert list(in_order([[one, three, two], []])) == [one, two, three]
    assert list(in_order([[three, one], [other], [two]])) == [other, one, two, three]
