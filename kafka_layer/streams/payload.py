"""What an envelope carries of a stream's record, instead of a serialized message."""

from __future__ import annotations

from typing import Any

from .record import StreamRecord

__all__ = ["StreamPayload"]


class StreamPayload:
    """A record that becomes a message for each receiver; made by the thread that reads.

    The constructor decodes the record, so it raises ``UnreadableRecord`` or ``RegistryAway``, and
    no event loop waits for a registry.

    Args:
        stream: The stream's name.
        kind: The message's type.
        record: The record.
    """

    __slots__ = ("_record", "_stream", "_type")

    def __init__(self, stream: str, kind: str, record: StreamRecord) -> None:
        self._stream = stream
        self._type = kind
        self._record = record
        _ = record.key, record.value

    def open(self) -> dict[str, Any]:
        """Return the message, a copy of its own for each receiver; any thread.

        Raises:
            UnreadableRecord: If a codec decodes the record only once.
        """
        record = self._record
        return {
            "type": self._type,
            "stream": self._stream,
            "key": record.new_key(),
            "value": record.new_value(),
            "headers": record.headers,
        }
