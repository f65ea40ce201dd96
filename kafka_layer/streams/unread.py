"""Messages of a stream that are kept for tracked channels as the client returned them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..exceptions import UnreadableRecord
from ..recovery.recent import Key
from ..transport import StreamSource
from ..wire.records import Record

__all__ = ["UnreadMessages"]

# Keys whose addresses are remembered.
_KEYS_KEPT = 10_000


class UnreadMessages:
    """Reads messages of a stream whose keys alone decide on receivers; see ``Unread``. Any thread.

    Args:
        source: Has the messages.
        addresses: Returns the addresses of a record, as ``Followed.addresses``.
        takes_tombstones: Whether records without a value have receivers.

    Attributes:
        facts: See ``Unread``.
        where: See ``Unread``.
        offset: See ``Unread``.
    """

    def __init__(
        self,
        source: StreamSource,
        addresses: Callable[[Record], Sequence[Key]],
        takes_tombstones: bool,
    ) -> None:
        self.facts = source.facts_of
        self.where = source.where
        self.offset = source.offset
        self._source = source
        self._addresses_of = addresses
        self._takes_tombstones = takes_tombstones
        # The addresses of the last keys.
        self._by_key: dict[bytes | None, Sequence[Key]] = {}

    def addresses(self, message: Any) -> Sequence[Key]:
        """See ``Unread``."""
        if not self._takes_tombstones and self._source.value(message) is None:
            return ()
        key = self._source.key(message)
        found = self._by_key.get(key)
        if found is None:
            record = self.record(message)
            if record is None:
                return ()
            found = self._addresses_of(record)
            if len(self._by_key) >= _KEYS_KEPT:
                self._by_key.clear()
            self._by_key[key] = found
        return found

    def record(self, message: Any) -> Record | None:
        """See ``Unread``."""
        try:
            return self._source.record(message)
        except UnreadableRecord:
            return None
