"""The logger of the Kafka clients' own lines, with a filter that keeps outages from flooding it."""

from __future__ import annotations

import logging

from ..config.realtime import monotonic

__all__ = ["ClientLog", "client_logger"]


# Warnings of librdkafka at most starts, about trouble that soon ends by itself: a broker that was
# just started has no producer ids yet (GETPID), and the client has not learned all of a new topic
# yet (METADATAUPDATE).
_SELF_MENDING = frozenset({"GETPID", "METADATAUPDATE"})
# Seconds without a line of a kind, after which the next line counts as the first.
_FORGOTTEN_AFTER = 60.0


class ClientLog(logging.Filter):
    """Lets one line of each kind through in ``interval`` seconds: in an outage lines repeat.

    Lines about trouble that soon ends by itself get the level DEBUG for ``patience`` seconds after
    the first of their kind.

    There is no lock: a child that is forked while another thread holds one would never get it. Two
    threads that log at the same moment may both get through, or lose one line of the count.

    Args:
        interval: The least number of seconds between two lines of one kind.
        patience: Seconds within which such trouble has to end.
    """

    def __init__(self, interval: float = 10.0, patience: float = 10.0) -> None:
        super().__init__()
        self._interval = interval
        self._patience = patience
        # By kind of such trouble: when its first line and its last one came.
        self._trouble: dict[str, tuple[float, float]] = {}
        # By kind: when the next line may pass, and how many the filter held back since the last.
        self._next: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line passes; append how many of its kind were held back."""
        # librdkafka's lines read "FAIL [rdkafka#producer-1] [thrd:…]: …".
        kind = record.getMessage().partition(" ")[0]
        now = monotonic()
        if kind in _SELF_MENDING and self._may_mend_itself(kind, now):
            record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
            return client_logger.isEnabledFor(logging.DEBUG)
        if now < self._next.get(kind, 0.0):
            self._held[kind] = self._held.get(kind, 0) + 1
            return False
        self._next[kind] = now + self._interval
        held = self._held.pop(kind, 0)
        if held:
            record.msg = f"{record.getMessage()} ({held} more like it)"
            record.args = ()
        return True

    def _may_mend_itself(self, kind: str, now: float) -> bool:
        first, last = self._trouble.get(kind, (now, now))
        if now - last > _FORGOTTEN_AFTER:
            first = now
        self._trouble[kind] = first, now
        return now - first < self._patience


client_logger = logging.getLogger("kafka_layer.librdkafka")
"""The logger of the clients' own lines."""

client_logger.addFilter(ClientLog())
