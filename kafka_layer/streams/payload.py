"""What an envelope carries of a stream's record, instead of a serialized message."""

from __future__ import annotations

from typing import Any, Protocol

from .record import Codecs, StreamRecord

__all__ = ["Messages", "StreamPayload"]


class Messages(Codecs, Protocol):
    """What the messages of one stream are like; its settings say it."""

    @property
    def name(self) -> str:
        """The stream's name."""

    @property
    def type(self) -> str:
        """Their type."""

    @property
    def tombstone(self) -> str | None:
        """The type where the record has no value."""


class StreamPayload(StreamRecord):
    """A record that becomes a message for each receiver.

    The thread that reads makes it, has templates and functions look at it, and calls ``decode``.
    From then on any thread may call ``open``.
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
        return self._message(self.key, self.value)

    def open(self) -> dict[str, Any]:
        """Return the message, a copy of its own for each receiver."""
        return self._message(self.new_key(), self.new_value())

    def _message(self, key: Any, value: Any) -> dict[str, Any]:
        stream = self._stream
        is_tombstone = self.raw_value is None
        return {
            "type": stream.tombstone or stream.type if is_tombstone else stream.type,
            "stream": stream.name,
            "key": key,
            "value": value,
            "headers": self.headers if self.raw_headers else {},
        }
