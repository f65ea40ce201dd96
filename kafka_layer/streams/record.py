"""A record of a stream, as templates, filters and other functions of the settings see it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any, Protocol

from ..wire.records import Record
from .codecs import CodecContext, StreamCodec

__all__ = [
    "Codecs",
    "StreamRecord",
    "decode_part",
    "headers_by_name",
    "key_context",
    "value_context",
]


class Codecs(Protocol):
    """The codecs of one stream; its settings are these."""

    @property
    def key(self) -> StreamCodec:
        """Decodes the keys."""

    @property
    def value(self) -> StreamCodec:
        """Decodes the values."""


class StreamRecord:
    """A record that was read. The first access to its key or its value decodes it.

    The thread that reads the stream uses it first. Afterwards any thread may call ``new_key`` and
    ``new_value``.

    Args:
        record: The record as it was read, of a ``StreamTopic``.
        stream: The settings of its stream.

    Attributes:
        raw_key: The key as bytes, or None.
        raw_value: The value as bytes; None for a tombstone.
        raw_headers: Kafka's headers, in their order.
        timestamp: The record's time, in seconds since the epoch.
        partition: Number of the partition.
        offset: The record's offset in it.
    """

    __slots__ = (
        "_key",
        "_stream",
        "_topic",
        "_unused",
        "_value",
        "offset",
        "partition",
        "raw_headers",
        "raw_key",
        "raw_value",
        "timestamp",
    )

    # Hot path: called for each record that may have a receiver.
    def __init__(self, record: Record, stream: Codecs) -> None:
        (
            self._topic,
            self.raw_key,
            self.raw_value,
            self.raw_headers,
            self.timestamp,
            self.partition,
            self.offset,
        ) = record
        self._stream = stream
        self._key: Any = _NOT_DECODED
        self._value: Any = _NOT_DECODED

    @property
    def topic(self) -> str:
        """Kafka's name of the topic."""
        return self._topic.name

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
        """A new dict of the headers: text if they are UTF-8; the last one of each name."""
        return headers_by_name(self.raw_headers)

    def new_key(self) -> Any:
        """Return the key as an object that only the caller has, and may change.

        It never waits for a schema registry if ``key`` was read before: event loops may call it
        then.

        Raises:
            UnreadableRecord: As ``key``.
            RegistryAway: As ``key``.
        """
        key = self.key
        return key if type(key) in _UNCHANGEABLE else copy.deepcopy(key)

    def new_value(self) -> Any:
        """Return the value as an object that only the caller has; as ``new_key``.

        Raises:
            UnreadableRecord: As ``value``.
            RegistryAway: As ``value``.
        """
        if self._stream.value.blocking:
            return copy.deepcopy(self.value)
        try:
            # The value that was decoded for a template is not used again: one caller gets it.
            value = self._unused.pop()
        except (AttributeError, IndexError):
            return self._decode_value()
        self._value = _NOT_DECODED
        return value

    def _decode_key(self) -> Any:
        context = key_context(self._topic.name)
        return decode_part(self._stream.key, self.raw_key, self.raw_headers, context)

    def _decode_value(self) -> Any:
        context = value_context(self._topic.name)
        return decode_part(self._stream.value, self.raw_value, self.raw_headers, context)


def decode_part(
    codec: StreamCodec,
    raw: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    context: CodecContext,
) -> Any:
    """Return the key or the value of a record, decoded; None where it has none.

    Args:
        codec: Its codec.
        raw: Its bytes.
        headers: The record's headers.
        context: The part and the topic.

    Raises:
        UnreadableRecord: If the codec cannot decode it.
        RegistryAway: If the codec needs a schema registry, which does not answer.
    """
    if raw is None:
        return None
    return codec.decode(raw, context._replace(headers=headers) if headers else context)


_NOT_DECODED = object()

_UNCHANGEABLE = frozenset({str, bytes, int, float, bool, type(None)})

# Cached by topic: making a context takes as long as decoding a short text.
key_context = functools.lru_cache(maxsize=1000)(functools.partial(CodecContext, part="key"))
value_context = functools.lru_cache(maxsize=1000)(functools.partial(CodecContext, part="value"))


def headers_by_name(
    headers: Sequence[tuple[str, bytes | None]],
) -> dict[str, str | bytes | None]:
    """Return a new dict of headers: text if they are UTF-8; the last one of each name."""
    return {name: _as_text(value) for name, value in headers}


def _as_text(value: bytes | None) -> str | bytes | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value
