"""Learns the idempotency keys that were used before a server's start.

A message with a key may be a copy of one from before the server's start. So when the first record
with a key comes within the window after the start, the router learns the older keys of its topic.
The reading thread waits for that, at most once for each topic. Replays, which read older records
than the router, learn keys as well.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import partial

from ..config.realtime import monotonic
from ..config.threads import RLock
from ..delivery.tickets import Steps, Ticket, run_blocking, wait
from ..exceptions import KafkaLayerError, LayerClosed
from ..server.server import Server
from ..transport import Past
from ..wire.idempotency import WINDOW, has_key
from ..wire.records import Record
from ..wire.topics import Topic
from .flushes import Flushes
from .scan import Budget, Cursor, in_order, read_back

__all__ = ["LookBack"]

logger = logging.getLogger("kafka_layer")

# More than can be read within ``timings.look_back``.
_MAX_RECORDS = 1_000_000
_MAX_BYTES = 256 * 1024 * 1024
# Seconds by which the known time of the server's start, on the broker's clock, may be wrong.
_CLOCK_ERROR = 5.0


class LookBack:
    """Learns idempotency keys of records that a server has not read; any thread.

    Args:
        server: The server.
        flushes: Knows the flushes: a flushed message is no original. For the backplane's thread.
        flushed_until: Returns the time of the last known flush, on the broker's clock.
    """

    def __init__(
        self, server: Server, flushes: Flushes, flushed_until: Callable[[], float]
    ) -> None:
        self._server = server
        self._flushes = flushes
        self._flushed_until = flushed_until
        self._lock = RLock()
        # By topic: the time on the broker's clock since which the keys are known, and the ticket of
        # the query. Without an entry they are known since the server began to read.
        self._known: dict[Topic, tuple[float, Ticket[bool] | None]] = {}

    def before(self, record: Record) -> Callable[[], None] | None:
        """Return a function that learns the keys of the window before a record, and blocks.

        Returns:
            The function; None if the keys are known.
        """
        topic, _, _, _, written, _, _ = record
        ticket = self._ask(topic, written - WINDOW)
        return None if ticket is None else partial(run_blocking, self._wait(ticket))

    def learn(self, topic: Topic, since: float) -> Steps[None]:
        """Learn the keys that were used since a time on the broker's clock, unless they are known.

        Keys that cannot be read in time count as known; that is logged and counted.
        """
        ticket = self._ask(topic, since)
        if ticket is not None:
            yield from self._wait(ticket)

    def _ask(self, topic: Topic, since: float) -> Ticket[bool] | None:
        """Return the ticket of a query for the keys since a time; None if they are known."""
        with self._lock:
            started = self._server.reads_since + _CLOCK_ERROR
            known, ticket = self._known.get(topic, (started, None))
            if since < known:
                ticket = self._server.transport.ask_past(
                    ("look back", topic, since),
                    partial(self._read, topic, since),
                    monotonic() + self._server.config.timings.look_back,
                )
                # Also if it will fail, so that the next record does not wait as long.
                self._known[topic] = since, ticket
                ticket.on_done(partial(self._report, topic))
            return None if ticket is None or ticket.done else ticket

    def _wait(self, ticket: Ticket[bool]) -> Steps[None]:
        with contextlib.suppress(KafkaLayerError, TimeoutError):
            timings = self._server.config.timings
            yield from wait(ticket, timings.look_back + timings.hand_over)

    def _report(self, topic: Topic, ticket: Ticket[bool]) -> None:
        error = ticket.error
        if isinstance(error, LayerClosed) or (error is None and ticket.result(0)):
            return
        self._server.stats.count("errors.look_back")
        logger.warning(
            "Not all idempotency keys that were used before this server's start could be read in "
            "%s s, so a message of %s that was sent twice may arrive twice here: %s",
            self._server.config.timings.look_back,
            topic.value,
            error or "there are too many records",
        )

    def _read(self, topic: Topic, since: float, past: Past) -> Callable[[], bool]:
        extents = past.extents(tuple(dict.fromkeys((topic, Topic.SEND_ALL))))
        self._flushes.learn(Budget(past, answered=True), extents, since)
        # Read all partitions: senders choose the partition of a message to everybody, and that of
        # another message changes when partitions are added.
        cursors = [
            Cursor(where, extent.start, extent.end)
            for where, extent in extents.items()
            if where[0] is topic
        ]
        budget = Budget(past, True, _MAX_RECORDS, _MAX_BYTES)
        whole = read_back(budget, cursors, lambda record: has_key(record[3]), since=since)
        flushed = self._flushed_until()
        self._server.router.duplicates.learn(
            [record for record in in_order(cursors) if record[4] > flushed]
        )
        return lambda: whole
