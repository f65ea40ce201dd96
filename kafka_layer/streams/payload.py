"""What an envelope carries of a stream's record, instead of a serialized message."""

from __future__ import annotations

import copy
from typing import Any

from .record import StreamRecord

__all__ = ["StreamPayload"]


class StreamPayload:
    """A record that becomes a message for each receiver; made by the thread that reads.

    The constructor decodes the record, so it raises ``UnreadableRecord`` or ``RegistryAway``, and
    no event loop waits for a registry.

    Args:
        stream: The stream's name.
        type: The message's type.
        record: The record.
    """

    __slots__ = ("_key", "_record", "_stream", "_type", "_value")

    def __init__(self, stream: str, type: str, record: StreamRecord) -> None:
        self._stream = stream
        self._type = type
        self._record = record
        self._key = record.key
        self._value = record.value

    def open(self) -> dict[str, Any]:
        """Return the message, a copy of its own for each receiver; any thread."""
        # The first receiver gets the value that was decoded already. Of several threads one alone
        # deletes it without an error.
        try:
            value = self._value
            del self._value
        except AttributeError:
            value = self._record.new_value()
        key = self._key
        return {
            "type": self._type,
            "stream": self._stream,
            "key": copy.deepcopy(key) if isinstance(key, (dict, list)) else key,
            "value": value,
            "headers": dict(self._record.headers),
        }
