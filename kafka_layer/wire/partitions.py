"""The partition of a key: murmur2, as Java's clients compute it. Pure functions."""

from __future__ import annotations

import functools

__all__ = ["murmur2", "partition_of", "partition_of_bytes", "partitions_while_growing"]

_MASK = 0xFFFFFFFF
_M = 0x5BD1E995
_SEED = 0x9747B28C


def murmur2(data: bytes) -> int:
    """Return the hash of a key, as an unsigned number of 32 bits."""
    length = len(data)
    value = _SEED ^ length
    whole = length & ~3
    for start in range(0, whole, 4):
        part = int.from_bytes(data[start : start + 4], "little") * _M & _MASK
        part = (part ^ part >> 24) * _M & _MASK
        value = (value * _M & _MASK) ^ part
    if whole < length:
        value = (value ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    value = (value ^ value >> 13) * _M & _MASK
    return value ^ value >> 15


def partition_of(key: str, partitions: int) -> int:
    """Return the partition of a key, among a number of partitions."""
    return partition_of_bytes(key.encode(), partitions)


def partition_of_bytes(key: bytes, partitions: int) -> int:
    """Return the partition of a raw key, among a number of partitions."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


@functools.lru_cache(maxsize=10_000)
def partitions_while_growing(key: str, fewest: int, count: int) -> tuple[int, ...]:
    """Return the partitions that a key had while its topic grew, in their order.

    Args:
        key: The key.
        fewest: How many partitions the topic had at first; at least 1 is assumed.
        count: How many it has now.
    """
    counts = range(min(max(1, fewest), count), count + 1)
    return tuple(sorted({partition_of(key, each) for each in counts if each}))
