"""Partitions of keys, compared with the values that docs/wire-format.md names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kafka_layer.wire.partitions import murmur2, partition_of
from tests.support.tables import for_each


@for_each(
    ("key", "value", "partition"),
    [
        ("room-1", 0xFFE54CE7, 3),
        ("7", 0x8B18F973, 9),
        ("lobby", 0xE1DE354E, 0),
        ("grüße", 0x73DA9E0C, 8),
    ],
)
def test_the_keys_of_the_wire_format(key: str, value: int, partition: int) -> None:
    assert murmur2(key.encode()) == value
    assert partition_of(key, 10) == partition


@given(st.text(), st.integers(1, 1000))
def test_every_key_has_a_partition(key: str, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions
