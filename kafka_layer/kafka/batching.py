"""Batching: a busy producer holds records back for a moment, to send them in fewer requests.

With one request in flight, the records that come meanwhile make the next request: few, because the
broker answers soon. A record then takes 13 to 23 µs of the broker's processor, and 2 to 3 with this
(docs/performance.md). librdkafka's ``linger.ms`` would delay the records of an idle server as well.

``Batcher.put`` is a hot path: every send takes it.
"""

from __future__ import annotations

import enum
import threading
from collections import deque

from confluent_kafka import KafkaError

from ..config.realtime import monotonic
from ..config.threads import RLock
from ..delivery.tickets import Ticket
from ..exceptions import LayerClosed
from ..transport_values import QueueFull
from .pending import TICKET, VALUE, NumberedProducer, Pending, PendingSink, UnknownPartition
from .unknown_partitions import UnknownPartitions

__all__ = ["Batcher", "BatcherState"]

# Up to this many records on their way are no load: a burst leaves at once.
_IDLE_UP_TO = 256
# Hold up to this many until the next round; a lower limit makes more, smaller requests.
_MOST = 3_000
# Values of this many bytes and more are not held back.
_LARGE = 10_000


class BatcherState(enum.Enum):
    """The states of a ``Batcher``."""

    PASSING = "passing"
    HOLDING = "holding"
    FULL = "full"
    CLOSING = "closing"
    CLOSED = "closed"


class Batcher:
    """Holds records back while many are on their way; any thread may call each method.

    The records of one thread stay in order, whether they are held back or not.

    ======= ================================================== =======
    state   event                                              next
    ======= ================================================== =======
    PASSING put() with few records on their way: passed on     PASSING
    PASSING put() with many on their way: held back            HOLDING
    HOLDING release(): the client took all                     PASSING
    HOLDING release(): the client took some or none            FULL
    FULL    put(): refused, unless the client takes all now    FULL
    FULL    release(): the client took all                     PASSING
    FULL    release(): rejects what waited for ``timeout``     PASSING
    any     stop_taking(): refuses put() for good              CLOSING
    CLOSING close(): rejects what is still held back           CLOSED
    ======= ================================================== =======

    While senders wait for room (``when_room``), ``put`` refuses all other senders. Records of
    unknown partitions wait apart, in any state but CLOSED.

    Args:
        sink: Takes the records.
        limit: Records that may wait, here and on their way together.
        timeout: Seconds that records may wait here for a client that takes no more.
        unknown: Keeps records of unknown partitions.
        roused: Set when the first record is held back: ``release`` is due in a moment.
    """

    def __init__(
        self,
        sink: PendingSink,
        limit: int,
        timeout: float,
        unknown: UnknownPartitions,
        roused: threading.Event,
    ) -> None:
        self._sink = sink
        self._enqueue = sink.enqueue
        self._limit = limit
        self._timeout = timeout
        self._unknown = unknown
        self._roused = roused
        self._held: deque[Pending] = deque()
        # When the client first refused a held-back record, on monotonic(); None: it takes them.
        self._full_since: float | None = None
        # How many records were on their way when the client last refused a new one; None: it did
        # not.
        self._full_at: int | None = None
        # Senders that wait for room, in the order in which they get it.
        self._waiting: deque[Ticket[None]] = deque()
        # Whether put() has to check more: senders wait, records of unknown partitions wait, or it
        # refuses all. One flag, because every send reads it.
        self._guarded = False
        self._stopped = False
        self._closed = False
        # Guards appending to _held against close(), and _waiting with _guarded. Re-entrant: a
        # signal handler may send while its thread holds it.
        self._adding = RLock()
        # The one thread that drains holds it. Re-entrant: a delivery callback of it may send.
        self._draining = RLock()
        # Whether a thread drains; its callbacks find it set.
        self._drains = False

    def __len__(self) -> int:
        return len(self._held) + len(self._unknown)

    @property
    def state(self) -> BatcherState:
        """The present state."""
        if self._closed:
            return BatcherState.CLOSED
        if self._stopped:
            return BatcherState.CLOSING
        if self._full_since is not None:
            return BatcherState.FULL
        return BatcherState.HOLDING if self._held else BatcherState.PASSING

    @property
    def has_waiting(self) -> bool:
        """Whether senders wait for room."""
        return bool(self._waiting)

    def put(self, pending: Pending, waited: bool = False) -> None:
        """Take a record and pass it on, now or with others in a moment.

        Args:
            pending: The record.
            waited: Whether its sender waited for room (``when_room``).

        Raises:
            QueueFull: If the limit is reached, the client takes no more, or others wait for room.
            LayerClosed: After ``stop_taking``.
        """
        client = self._sink.current
        if client is None:
            raise _closed()
        held = self._held
        # In this order a record that moves to the client in between counts twice, and
        # _require_room() looks again; the other way round it would not count.
        waiting = len(held)
        on_their_way = len(client)
        at_once = not waiting and on_their_way <= _IDLE_UP_TO
        # After the look at _held, from which another thread may just have moved the sender's last
        # record to those of unknown partitions.
        if self._guarded and self._takes_apart(pending, waited, at_once):
            return
        if at_once:
            try:
                self._enqueue(client, pending)
            except QueueFull:
                self._full_at = on_their_way
                raise
            except UnknownPartition:
                self._keep_apart(pending)
            return
        if self._full_since is not None or on_their_way + waiting >= self._limit:
            self._require_room(client)
        with self._adding:
            if self._stopped:
                raise _closed()
            held.append(pending)
            if len(held) == 1:
                self._roused.set()
        urgent = pending[TICKET] is not None or len(pending[VALUE] or b"") >= _LARGE
        if urgent or len(held) >= _MOST:
            self.release()

    def keep_reported(self, pending: Pending) -> bool:
        """Keep a record that the client took and reported, because its partition is unknown.

        Returns:
            False if it is not kept.
        """
        return self._keep(pending, reported=True)

    def release(self) -> None:
        """Pass on held-back records, as many as the client takes."""
        # Non-blocking: the thread that drains also takes records that are added meanwhile.
        while self._held and self._draining.acquire(blocking=False):
            try:
                if self._drains or not self._drain():
                    return
            finally:
                self._draining.release()

    def when_room(self, waited: bool = False) -> Ticket[None]:
        """Wait for room; see ``kafka_layer.transport.Backplane.when_room``."""
        ticket: Ticket[None] = Ticket()
        with self._adding:
            if not self._stopped:
                self._guarded = True
                if waited:
                    self._waiting.appendleft(ticket)
                else:
                    self._waiting.append(ticket)
        if self._stopped:
            ticket.fail(_closed())
        self._roused.set()
        return ticket

    def admit(self) -> None:
        """Resolve the tickets of senders that wait, as many as there is room for."""
        room = self._room() if self._waiting else 0
        while room > 0:
            with self._adding:
                if not self._waiting:
                    break
                ticket = self._waiting.popleft()
            # Outside the lock: a callback of the ticket may send at once.
            ticket.resolve(None)
            room -= 1
        with self._adding:
            if not self._waiting:
                self._guarded = self._stopped or bool(self._unknown)
                self._full_at = None

    def stop_taking(self) -> None:
        """Refuse records from now on, and senders that wait for room."""
        with self._adding:
            self._stopped = self._guarded = True
            waiting, self._waiting = self._waiting, deque()
        for ticket in waiting:
            ticket.fail(_closed())

    def close(self, patience: float) -> None:
        """Reject held-back records and those of unknown partitions, and take no more.

        Args:
            patience: Seconds to wait for the thread that drains. That may be the caller, in a
                delivery callback; the draining thread reports the record in its hand.
        """
        self.stop_taking()
        self._closed = True
        held = self._held
        acquired = self._draining.acquire(timeout=patience)
        try:
            in_hand = held[0] if held and (self._drains or not acquired) else None
            rejected: list[Pending] = []
            while held and held[-1] is not in_hand:
                rejected.append(held.pop())
        finally:
            if acquired:
                self._draining.release()
        for pending in reversed(rejected):
            self._sink.reject(pending, KafkaError(KafkaError._PURGE_QUEUE))
        self._unknown.close()

    def _takes_apart(self, pending: Pending, waited: bool, at_once: bool) -> bool:
        """Look closer, as the flag is set; return whether the record waits with others now."""
        if self._stopped:
            raise _closed()
        if self._waiting and not waited:
            raise QueueFull
        if not at_once or not self._unknown.has_before(pending):
            return False
        self._keep_apart(pending)
        return True

    def _require_room(self, client: NumberedProducer) -> None:
        if self._full_since is not None:
            self.release()
        # Not while another thread drains: the record in its hand is held and in the client.
        with self._draining:
            if self._full_since is not None or len(client) + len(self._held) >= self._limit:
                raise QueueFull

    def _keep_apart(self, pending: Pending) -> None:
        if not self._keep(pending, reported=False):
            self._sink.reject(pending, KafkaError(KafkaError._UNKNOWN_PARTITION))

    def _keep(self, pending: Pending, *, reported: bool) -> bool:
        # In one step with the flag, which admit() clears when no record is kept.
        with self._adding:
            self._guarded = True
            return self._unknown.keep(pending, reported)

    def _room(self) -> int:
        """Return for how many records the queue has room, as far as is known."""
        client = self._sink.current
        if client is None or self._full_since is not None:
            return 0
        on_their_way = len(client)
        room = self._limit - on_their_way - len(self._held)
        if self._full_at is not None:
            # The queue is full of bytes, whose number librdkafka does not tell: as many records as
            # were written since may try.
            room = min(room, max(self._full_at - on_their_way, 0 if on_their_way else 1))
        return room

    def _drain(self) -> bool:
        """Pass on held-back records; return False if some stay."""
        held = self._held
        self._drains = True
        try:
            while held and (not self._guarded or self._may_go_on()):
                client = self._sink.current
                if client is None:
                    return False
                try:
                    self._enqueue(client, held[0])
                except QueueFull:
                    now = monotonic()
                    if self._full_since is None:
                        self._full_since = now
                    if now - self._full_since < self._timeout:
                        return False
                    self._sink.reject(held[0], KafkaError(KafkaError._MSG_TIMED_OUT))
                except UnknownPartition:
                    self._keep_apart(held[0])
                except BaseException:
                    held.popleft()
                    raise
                # Pop afterwards: an empty queue would let other threads overtake.
                held.popleft()
            self._full_since = None
            return not self._closed
        finally:
            self._drains = False

    def _may_go_on(self) -> bool:
        """Look closer, as the flag is set; return whether a held-back record may be passed on."""
        held = self._held
        while held and not self._closed and self._unknown.has_before(held[0]):
            self._keep_apart(held[0])
            held.popleft()
        return bool(held) and not self._closed


def _closed() -> LayerClosed:
    return LayerClosed("The channel layer is closed.")
