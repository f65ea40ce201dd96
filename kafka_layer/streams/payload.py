"""The payload of an envelope with a stream's record, in place of a serialized message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..wire.records import Record
from .record import (
    Codecs,
    StreamRecord,
    decode_part,
    headers_by_name,
    key_context,
    value_context,
)

__all__ = ["Messages", "StreamPayload", "message_of"]


class Messages(Codecs, Protocol):
    """How a stream's records become messages; its settings implement this."""

    @property
    def name(self) -> str:
        """The stream's name."""

    @property
    def type(self) -> str:
        """The type of its messages."""

    @property
    def tombstone(self) -> str | None:
        """The type of messages of records without a value; None if these have no receivers."""


class StreamPayload(StreamRecord):
    """A record that becomes a message for each receiver.

    The reading thread makes it, passes it to templates and functions, and calls ``decode``. From
    then on any thread may call ``open``.
    """

    __slots__ = ()

    _stream: Messages

    @property
    def record(self) -> Any:
        """The record as it was read."""
        raw = self.raw_key, self.raw_value, self.raw_headers
        return self._topic, *raw, self.timestamp, self.partition, self.offset

    def decode(self) -> None:
        """Decode the key and the value, so that no event loop finds an error or asks a registry.

        Raises:
            UnreadableRecord: As ``key`` and ``value``.
            RegistryAway: As ``key`` and ``value``.
        """
        _ = self.key
        _ = self.value

    def message(self) -> dict[str, Any]:
        """Return the message for its only receiver, to whom all that was decoded belongs.

        Raises:
            UnreadableRecord: As ``key`` and ``value``.
            RegistryAway: As ``key`` and ``value``.
        """
        return self._made(self.key, self.value)

    def open(self) -> dict[str, Any]:
        """Return the message, a copy of its own for each receiver."""
        return self._made(self.new_key(), self.new_value())

    def _made(self, key: Any, value: Any) -> dict[str, Any]:
        return _message(self._stream, key, value, self.raw_value is None, self.raw_headers)


def message_of(record: Record, stream: Messages) -> dict[str, Any]:
    """Return the message of a record for its only receiver, as ``StreamPayload.message``.

    Hot path: each record that a key alone addresses to one channel.
    """
    topic, raw_key, raw_value, headers, _, _, _ = record
    name: str = topic.name
    key = decode_part(stream.key, raw_key, headers, key_context(name))
    value = decode_part(stream.value, raw_value, headers, value_context(name))
    return _message(stream, key, value, raw_value is None, headers)


def _message(
    stream: Messages,
    key: Any,
    value: Any,
    is_tombstone: bool,
    headers: Sequence[tuple[str, bytes | None]],
) -> dict[str, Any]:
    return {
        "type": stream.tombstone or stream.type if is_tombstone else stream.type,
        "stream": stream.name,
        "key": key,
        "value": value,
        "headers": headers_by_name(headers) if headers else {},
    }
