"""The place of a record, as a short text that browsers get beside a position: ``g3.1042``.

It names the lane, which is a topic, the partition and the offset. It has no signature. Pure.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping

from .records import Place
from .topics import StreamTopic, Topic, WorkTopic

__all__ = ["LETTERS", "MARK_LENGTH", "OF_STREAM", "lane_of", "mark_of", "place_text"]

LETTERS: Mapping[Topic | WorkTopic | StreamTopic, str] = {
    Topic.SEND_GROUP: "g",
    Topic.SEND_USER: "u",
    Topic.SEND_ALL: "a",
}
"""The lanes of the layer's own topics; they never change."""

OF_STREAM, MARK_LENGTH = "s", 6
"""The lane of a stream's topic: this letter, then a mark with so many characters."""

_HASH_BYTES = 8


def place_text(place: Place | None) -> str:
    """Return the place of a record as browsers get it; "" where positions do not cover it."""
    if place is None:
        return ""
    topic = place[0]
    lane = lane_of(topic) if isinstance(topic, StreamTopic) else LETTERS.get(topic, "")
    return f"{lane}{place[1]}.{place[2]}" if lane else ""


@functools.lru_cache(maxsize=1000)
def mark_of(*names: str) -> str:
    """Return the mark of a stream, or of a topic of a stream, as positions have it."""
    hashed = hashlib.blake2b("\0".join(names).encode(), digest_size=_HASH_BYTES).digest()
    return base64.urlsafe_b64encode(hashed).decode()[:MARK_LENGTH]


@functools.lru_cache(maxsize=10_000)
def lane_of(topic: StreamTopic) -> str:
    """Return the lane of a stream's topic, as places have it before the partition's number."""
    return OF_STREAM + mark_of(topic.stream, topic.name)
