"""What an envelope carries of a stream's record, instead of a serialized message."""

from __future__ import annotations

from typing import Any

from ..wire.topics import StreamTopic
from .record import StreamRecord

__all__ = ["StreamPayload"]


class StreamPayload(StreamRecord):
    """A record that becomes a message for each receiver.

    The thread that reads makes it, has templates and functions look at it, and calls ``decode``.
    From then on any thread may call ``open``.

    Attributes:
        stream: The stream's name.
        type: The message's type.
    """

    __slots__ = ("stream", "type")

    stream: str
    type: str

    @property
    def record(self) -> Any:
        """The record as it was read."""
        topic = StreamTopic(self.stream, self.topic)
        raw = self.raw_key, self.raw_value, self.raw_headers
        return topic, *raw, self.timestamp, self.partition, self.offset

    def decode(self) -> None:
        """Decode the key and the value, so that no event loop finds an error or asks a registry.

        Raises:
            UnreadableRecord: As ``key`` and ``value``.
            RegistryAway: As ``key`` and ``value``.
        """
        _ = self.key, self.value

    def open(self) -> dict[str, Any]:
        """Return the message, a copy of its own for each receiver."""
        return {
            "type": self.type,
            "stream": self.stream,
            "key": self.new_key(),
            "value": self.new_value(),
            "headers": self.headers,
        }
