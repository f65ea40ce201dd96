"""What a server has to know of the time before its start: the idempotency keys of late copies.

The router asks in the thread that reads, which then waits: at most once for each topic, and only
where a record with a key comes within the window after the server's start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from ..config.realtime import monotonic
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

# More than the time suffices for.
_MAX_RECORDS = 1_000_000
_MAX_BYTES = 256 * 1024 * 1024
# Seconds by which the broker's time when this server began to read may be wrong.
_CLOCK_ERROR = 5.0
# Seconds that an answer may take from the backplane's thread to the reading thread.
_GRACE = 0.5


class LookBack:
    """Has the duplicates of a server learn what it did not read; the data reader's thread.

    Args:
        server: The server.
        flushes: Knows the flushes, which drop originals; for the backplane's thread.
        flushed_until: Returns the time of the last flush that is known, by the broker's clock.
    """

    def __init__(
        self, server: Server, flushes: Flushes, flushed_until: Callable[[], float]
    ) -> None:
        self._server = server
        self._flushes = flushes
        self._flushed_until = flushed_until
        # By topic: since when the keys are known, by the broker's clock. Without an entry since the
        # server began to read.
        self._known: dict[Topic, float] = {}

    def before(self, record: Record) -> Callable[[], None] | None:
        """Tell whether the keys of the window before a record have to be learnt.

        Returns:
            The function that learns them, and blocks; None if they are known.
        """
        topic, _, _, _, written, _, _ = record
        since = written - WINDOW
        if self._known.get(topic, self._server.reads_since + _CLOCK_ERROR) <= since:
            return None
        # Also if it fails: the next record must not wait as long.
        self._known[topic] = since
        return partial(self._learn, topic, since)

    def _learn(self, topic: Topic, since: float) -> None:
        timeout = self._server.config.timings.look_back
        ticket = self._server.transport.ask_past(
            ("look back", topic, since), partial(self._read, topic, since), monotonic() + timeout
        )
        try:
            whole, why = ticket.result(timeout + _GRACE), "there are too many records"
        except LayerClosed:
            return
        except (KafkaLayerError, TimeoutError) as error:
            whole, why = False, str(error)
        if not whole:
            self._server.stats.count("errors.look_back")
            logger.warning(
                "Not all idempotency keys that were used before this server's start could be read "
                "in %s s, so a message of %s that was sent twice may arrive twice here: %s",
                timeout,
                topic.value,
                why,
            )

    def _read(self, topic: Topic, since: float, past: Past) -> Callable[[], bool]:
        extents = past.extents(tuple(dict.fromkeys((topic, Topic.SEND_ALL))))
        self._flushes.learn(Budget(past, answered=True), extents, since)
        # All partitions: those of messages to everybody are chosen by their senders, and another
        # message's may have changed when partitions were added.
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
