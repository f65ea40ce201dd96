"""Records as plain tuples: one that is to be written, and one that was read."""

from __future__ import annotations

from collections.abc import Sequence

from .topics import Topic, WorkTopic

__all__ = ["Outgoing", "Record"]

Outgoing = tuple[
    "Topic | WorkTopic", "str | None", bytes, "int | None", Sequence[tuple[str, bytes]]
]
"""A record to be written: which of the layer's topics, the address or None, the value as it stands
on the wire, the partition (None leaves that to the key, or to the backplane without one), and Kafka
headers. A plain tuple, as ``Record`` is: every send makes one."""

Record = tuple[Topic, "bytes | None", "bytes | None", Sequence[tuple[str, "bytes | None"]], float]
"""A record that was read: which of the layer's topics, the raw key, the raw value, Kafka headers
(none in most records), and the broker's timestamp in seconds since the epoch. A plain tuple, which
is made and taken apart in half the time of anything with names."""
