"""A record of a stream, as templates, filters and other functions of the settings see it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any, Literal

from .codecs import CodecContext, StreamCodec

__all__ = ["StreamRecord"]


class StreamRecord:
    """A record that was read. Its key and its value are decoded when they are first asked for.

    The thread that reads the stream uses it, and hands it on. Afterwards any thread may call
    ``new_key`` and ``new_value``.

    Args:
        topic: Kafka's name of the topic.
        partition: Number of the partition.
        offset: The record's offset in it.
        timestamp: The record's time, in seconds since the epoch.
        raw_key: The key as bytes, or None.
        raw_value: The value as bytes; None for a tombstone.
        raw_headers: Kafka's headers, in their order.
        key_codec: Decodes the key.
        value_codec: Decodes the value.

    Attributes:
        topic: As given.
        partition: As given.
        offset: As given.
        timestamp: As given.
        raw_key: As given.
        raw_value: As given.
        raw_headers: As given.
    """

    __slots__ = (
        "_key",
        "_key_codec",
        "_unused",
        "_value",
        "_value_codec",
        "offset",
        "partition",
        "raw_headers",
        "raw_key",
        "raw_value",
        "timestamp",
        "topic",
    )

    # Hot path: each record that a stream reads becomes one.
    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        timestamp: float,
        raw_key: bytes | None,
        raw_value: bytes | None,
        raw_headers: Sequence[tuple[str, bytes | None]],
        key_codec: StreamCodec,
        value_codec: StreamCodec,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.timestamp = timestamp
        self.raw_key = raw_key
        self.raw_value = raw_value
        self.raw_headers = raw_headers
        self._key_codec = key_codec
        self._value_codec = value_codec
        self._key: Any = _NOT_DECODED
        self._value: Any = _NOT_DECODED

    @property
    def key(self) -> Any:
        """The key, decoded by the stream's codec; None if the record has none.

        Raises:
            UnreadableRecord: If the codec cannot decode it.
            RegistryAway: If the codec needs a schema registry, which does not answer.
        """
        key = self._key
        if key is _NOT_DECODED:
            key = self._key = self._decode_key()
        return key

    @property
    def value(self) -> Any:
        """The value, decoded by the stream's codec; None for a tombstone.

        Raises:
            UnreadableRecord: If the codec cannot decode it.
            RegistryAway: If the codec needs a schema registry, which does not answer.
        """
        value = self._value
        if value is _NOT_DECODED:
            value = self._value = self._decode_value()
            self._unused = [value]
        return value

    @property
    def headers(self) -> dict[str, str | bytes | None]:
        """A new dict of the headers: text where they are UTF-8; of several of a name the last."""
        return {name: _as_text(value) for name, value in self.raw_headers}

    def new_key(self) -> Any:
        """Return the key as an object of the caller's own, which may be changed.

        It asks no registry if ``key`` was read before, so event loops may call it then.

        Raises:
            UnreadableRecord: As ``key``.
            RegistryAway: As ``key``.
        """
        key = self.key
        return key if type(key) in _UNCHANGEABLE else copy.deepcopy(key)

    def new_value(self) -> Any:
        """Return the value as an object of the caller's own; as ``new_key``.

        Raises:
            UnreadableRecord: As ``value``.
            RegistryAway: As ``value``.
        """
        if self._value_codec.blocking:
            return copy.deepcopy(self.value)
        try:
            # What was decoded for a template has no other use. One of two threads gets it.
            value = self._unused.pop()
        except (AttributeError, IndexError):
            return self._decode_value()
        self._value = _NOT_DECODED
        return value

    def _decode_key(self) -> Any:
        raw = self.raw_key
        return None if raw is None else self._key_codec.decode(raw, self._context("key"))

    def _decode_value(self) -> Any:
        raw = self.raw_value
        return None if raw is None else self._value_codec.decode(raw, self._context("value"))

    def _context(self, part: Literal["key", "value"]) -> CodecContext:
        if self.raw_headers:
            return CodecContext(self.topic, part, self.raw_headers)
        return _context_without_headers(self.topic, part)


_NOT_DECODED = object()

_UNCHANGEABLE = frozenset({str, bytes, int, float, bool, type(None)})

# Most records have none, and to make the tuple takes as long as to decode a short text.
_context_without_headers = functools.lru_cache(maxsize=1000)(CodecContext)


def _as_text(value: bytes | None) -> str | bytes | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value
