"""Records of streams for tests that need no broker."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from kafka_layer.streams.codecs import CODECS, CodecContext, StreamCodec
from kafka_layer.streams.record import StreamRecord
from kafka_layer.wire.topics import StreamTopic

__all__ = ["CountingCodec", "record"]


class CountingCodec:
    """Passes through, and counts.

    Attributes:
        decoded: How many times it decoded.
    """

    def __init__(self, codec: StreamCodec) -> None:
        self.decoded = 0
        self.blocking = codec.blocking
        self._codec = codec

    def decode(self, data: bytes, context: CodecContext) -> Any:
        self.decoded += 1
        return self._codec.decode(data, context)

    def encode(self, obj: Any, context: CodecContext) -> bytes:
        return self._codec.encode(obj, context)


def record(
    value: bytes | None = b"{}",
    key: bytes | None = b"7",
    headers: Sequence[tuple[str, bytes | None]] = (),
    *,
    key_codec: StreamCodec = CODECS["str"],
    value_codec: StreamCodec = CODECS["json"],
    topic: str = "shop.orders",
) -> StreamRecord:
    read: Any = StreamTopic("orders", topic), key, value, headers, 1000.0, 3, 42
    return StreamRecord(read, SimpleNamespace(key=key_codec, value=value_codec))
