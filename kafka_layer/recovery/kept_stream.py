"""The records of a stream that one server keeps for its tracked channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..config.realtime import monotonic
from ..config.threads import RLock
from ..delivery.mailbox import Envelope
from ..delivery.tickets import Ticket
from ..exceptions import RegistryAway, UnreadableRecord
from ..transport import ReadFrom
from ..wire.places import mark_of
from ..wire.records import Record
from ..wire.topics import StreamTopic, Where
from .read_through import Ask, ReadThrough
from .recent import Key, Loss
from .stream_log import UNREADABLE, Followed, StreamLog

__all__ = ["KeptStream", "Moved"]

Moved = Callable[["KeptStream", "Mapping[Where, Loss] | None"], object]
"""Called by the reading thread when partitions of a stream are read from other offsets on. Gets the
stream, and the losses (None if keeping has just begun)."""


class KeptStream:
    """The most recent records of a stream, and its past; a ``Keeper``. Any thread may read it.

    It is *off* at first. The first channel that follows the stream makes it *beginning*. It is *on*
    when the reading thread has reported its positions, and *off* again when the server has no
    channel any more.

    Args:
        stream: The stream.
        most_bytes: As for ``StreamLog``.
        seconds: As for ``StreamLog``.
        expiry: Seconds that a message may wait in a mailbox.
        patience: Seconds for which joins wait until it is on.
        ask: Asks the backplane for the past of the stream.
        on_moved: Called when it is read from other offsets on.

    Attributes:
        name: The stream's name.
        mark: The same, as position tokens have it.
        stream: As given.
        log: The most recent records.
        past: Reads older records from Kafka.
    """

    def __init__(
        self,
        stream: Followed,
        most_bytes: int,
        seconds: float,
        expiry: float,
        patience: float,
        ask: Ask,
        on_moved: Moved,
    ) -> None:
        self.name, self.mark = stream.name, mark_of(stream.name)
        self.stream = stream
        self.concerns: Callable[[Key], bool] = stream.concerns
        self.log = StreamLog(most_bytes, seconds)
        self.past = ReadThrough(self.log, self._topics, ask, self._kept)
        self._expiry = expiry
        self._patience = patience
        # When joins stop waiting while it is beginning, on monotonic().
        self._patient_until = 0.0
        self._on_moved = on_moved
        # Re-entrant: a signal handler may interrupt the holder and use the layer.
        self._lock = RLock()
        # Resolved once it is on; None while it is off.
        self._begun: Ticket[None] | None = None

    @property
    def is_begun(self) -> bool:
        """Whether it is on."""
        begun = self._begun
        return begun is not None and begun.done

    def begin(self) -> Ticket[None]:
        """Keep the stream's records from now on; returns a ticket, resolved when it is on."""
        with self._lock:
            begun, is_new = self._begun, self._begun is None
            if begun is None:
                begun = self._begun = Ticket()
                self._patient_until = monotonic() + self._patience
        if is_new:
            # After releasing the lock: the stream holds its own lock when it calls ended(), which
            # takes this one.
            self.stream.keep(self)
        return begun

    def before_join(self) -> Ticket[None] | None:
        """Begin if need be; return the ticket that a join has to await, None if there is none."""
        begun = self.begin()
        return None if begun.done or monotonic() >= self._patient_until else begun

    # The thread that reads the stream

    def begun(self, positions: Mapping[Where, ReadFrom]) -> None:
        """See ``Keeper``."""
        self.log.clear()
        self.log.move(positions)
        self._on_moved(self, None)
        begun = self._begun
        if begun is not None:
            begun.resolve(None)

    def moved(self, positions: Mapping[Where, ReadFrom]) -> None:
        """See ``Keeper``."""
        lost = self.log.move(positions)
        if lost:
            self._on_moved(self, lost)
            self.log.note_routed()

    def ended(self) -> None:
        """See ``Keeper``."""
        with self._lock:
            begun, self._begun = self._begun, None
            self.log.clear()
        if begun is not None:
            begun.resolve(None)

    # Records

    def envelope(self, record: Sequence[Any]) -> Envelope | None:
        """Return the message of a kept record; None, counted, if it cannot be decoded."""
        topic, _, _, _, written, partition, offset, addresses = record
        read: Any = record[:7]
        payload = self.stream.payload(read)
        try:
            payload.decode()
        except (UnreadableRecord, RegistryAway) as error:
            self.stream.count_error(read, error)
            return None
        place = topic, partition, offset, written
        return Envelope(payload, monotonic() + self._expiry, *place, addresses)

    def _topics(self) -> tuple[StreamTopic, ...]:
        return tuple(self.log.topic_ids)

    def _kept(self, records: Sequence[Record]) -> list[Any]:
        """Return the records that have receivers, with their addresses."""
        kept: list[Any] = []
        for record in records:
            try:
                addresses = self.stream.addresses(record)
            except UnreadableRecord:
                addresses = (UNREADABLE,)
            if addresses:
                kept.append((*record, addresses))
        return kept
