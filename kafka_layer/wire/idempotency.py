"""Idempotency keys: their header, and the rule by which every reader drops the same duplicates.

A record is a duplicate where an earlier record of the same topic, address and idempotency key was
written at most ``WINDOW`` seconds before it, by the broker's clock. So a duplicate can be told by
the log alone, from the ``WINDOW`` seconds before it, and all readers of the log agree. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from ..config.threads import RLock
from .encryption import Encryption
from .records import Record
from .topics import Topic

__all__ = [
    "IDEMPOTENCY_KEY",
    "LONGEST_KEY",
    "MAX_KEYS",
    "WINDOW",
    "Duplicates",
    "has_key",
    "idempotency_header",
    "require_key",
]

IDEMPOTENCY_KEY = "idempotency-key"
"""Header: what the copies of one message have in common."""

WINDOW = 300.0
"""Seconds of the broker's clock in which a second record counts as a duplicate."""

LONGEST_KEY = 200
"""Characters that an idempotency key may have."""

MAX_KEYS = 100_000
"""How many keys ``Duplicates`` remembers for the whole window; it holds up to twice as many."""

_DIGEST_BYTES = 16


def require_key(key: object) -> None:
    """Check an application's idempotency key; None stands for a message without one.

    Raises:
        TypeError: If it is no str.
        ValueError: If it is empty or too long, or has no UTF-8.
    """
    if key is None:
        return
    if not isinstance(key, str):
        raise TypeError(
            f"idempotency_key must be a str, not {type(key).__name__}; give str(key), or None for "
            "a message that may be sent twice."
        )
    if not 0 < len(key) <= LONGEST_KEY:
        raise ValueError(
            f"idempotency_key has {len(key)} characters; give 1 to {LONGEST_KEY}, such as "
            "str(uuid.uuid4()) or a hash, or None for a message that may be sent twice."
        )
    try:
        key.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"idempotency_key {key!r} has surrogates, which are no text; give str(uuid.uuid4()) or "
            "a hash."
        ) from None


def idempotency_header(
    encryption: Encryption, topic: Topic, address: str | None, key: str
) -> tuple[str, bytes]:
    """Return the header of a record with an idempotency key.

    Args:
        encryption: Conceals the key, where it is active.
        topic: The record's topic.
        address: The record's key: a group, a user, or None for everybody.
        key: The application's idempotency key.

    Errors as for ``require_key``.
    """
    require_key(key)
    return IDEMPOTENCY_KEY, encryption.conceal(topic, address, key)


def has_key(headers: Iterable[tuple[str, bytes | None]]) -> bool:
    """Tell whether a record with these headers has an idempotency key."""
    # Not any(): a generator costs more than the look at one or two headers.
    for name, _ in headers:  # noqa: SIM110
        if name == IDEMPOTENCY_KEY:
            return True
    return False


class _Series:
    """The copies of one message.

    Attributes:
        first: When the first of them was written, in seconds of the broker's clock.
        last: When the last of them was written.
        partition: The partition of the original.
        offset: Its offset.
    """

    __slots__ = ("first", "last", "offset", "partition")

    def __init__(self, written: float, partition: int, offset: int) -> None:
        self.first = self.last = written
        self.partition, self.offset = partition, offset


class Duplicates:
    """Tells which records are duplicates, for one reader of the log; any thread.

    It knows the originals by their places, so a record that is read a second time, for a replay,
    is judged as it was the first time.

    Args:
        encrypted: Whether readers take only encrypted records, whose keys are concealed.
        on_forgotten: Gets how many keys were forgotten before their window ended, because more than
            ``max_keys`` came in it: later copies of those messages are taken for originals.
        max_keys: How many keys it remembers for the whole window; it holds up to twice as many.
    """

    def __init__(
        self,
        encrypted: bool,
        on_forgotten: Callable[[int], object] = lambda _: None,
        max_keys: int = MAX_KEYS,
    ) -> None:
        self._encrypted = encrypted
        self._on_forgotten = on_forgotten
        self._max_keys = max_keys
        # Re-entrant: a signal handler may interrupt the holder and use the layer.
        self._lock = RLock()
        # In two generations: an entry moves to the younger one with each copy, and the older one is
        # dropped when its entries are too old to matter, or when the younger one is full.
        self._series: dict[bytes, _Series] = {}
        self._series_before: dict[bytes, _Series] = {}
        self._since = float("-inf")

    def __len__(self) -> int:
        """Return how many keys are remembered."""
        return len(self._series) + len(self._series_before)

    def is_duplicate(self, record: Record, flushed_until: float = float("-inf")) -> bool:
        """Tell whether a record is a duplicate, and remember it.

        Args:
            record: The record; the ones before it were judged, or learnt.
            flushed_until: Records that were written up to this time, in seconds of the broker's
                clock, are no originals: a flush dropped them.
        """
        identities = self._identities(record)
        if not identities:
            return False
        _, _, _, _, _, partition, offset = record
        with self._lock:
            series = self._note(identities, record, flushed_until)
        return series is not None and (series.partition, series.offset) != (partition, offset)

    def learn(self, records: Sequence[Record]) -> None:
        """Remember older records, which lie before those that were judged.

        Args:
            records: In the order in which they were written.
        """
        with self._lock:
            # The last one first, which may belong to a series that is known, and is needed longest.
            for number, record in enumerate(reversed(records)):
                if len(self) >= self._max_keys:
                    self._on_forgotten(len(records) - number)
                    return
                identities = self._identities(record)
                if identities:
                    self._note(identities, record, is_older=True)

    def _note(
        self,
        identities: Sequence[bytes],
        record: Record,
        flushed_until: float = float("-inf"),
        is_older: bool = False,
    ) -> _Series | None:
        """Add a record to its series, or begin one; None where only later series are known."""
        _, _, _, _, written, partition, offset = record
        if written - self._since > WINDOW or len(self._series) >= self._max_keys:
            self._begin_generation(written)
        found = (self._series.get(each) or self._series_before.get(each) for each in identities)
        series = next(filter(None, found), None)
        if series is not None and written < series.first - WINDOW:
            return None
        if series is None or series.last < written - WINDOW or series.last <= flushed_until:
            series = _Series(written, partition, offset)
        elif is_older and _is_before(record, series):
            series.partition, series.offset = partition, offset
        series.first = min(series.first, written)
        series.last = max(series.last, written)
        for each in identities:
            self._series[each] = series
        return series

    def _begin_generation(self, written: float) -> None:
        forgotten, self._series_before, self._series = self._series_before, self._series, {}
        if written - self._since <= WINDOW:
            too_early = sum(
                each not in self._series_before and series.last >= written - WINDOW
                for each, series in forgotten.items()
            )
            if too_early:
                self._on_forgotten(too_early)
        self._since = max(self._since, written)

    def _identities(self, record: Record) -> list[bytes]:
        """Return hashes that the copies of one message have in common; none without a key."""
        topic, address, _, headers, _, _, _ = record
        key = None
        for name, value in headers:
            if name == IDEMPOTENCY_KEY:
                key = value
        if not key:
            return []
        # Senders with different lists of encryption keys have one of them in common.
        keys = key.split(b",") if self._encrypted else [key]
        prefix = b"%s\0%s\0" % (topic.value.encode(), address or b"")
        return [hashlib.blake2b(prefix + each, digest_size=_DIGEST_BYTES).digest() for each in keys]


def _is_before(record: Record, series: _Series) -> bool:
    """Tell whether a record was written before the original of a series."""
    _, _, _, _, written, partition, offset = record
    if partition == series.partition:
        return offset < series.offset
    return (written, partition) < (series.first, series.partition)
