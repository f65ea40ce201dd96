"""Where the Kafka clients' own log lines go, and what keeps an outage from flooding the log."""

from __future__ import annotations

import logging

from ..config.realtime import monotonic

__all__ = ["ClientLog", "client_logger"]


class ClientLog(logging.Filter):
    """Lets one line of each kind through in ``interval`` seconds: an outage repeats itself a lot.

    There is no lock: a child that is forked while another thread holds one would wait for ever. Two
    threads that log at the same moment may both get through, or lose one line of the count.

    Args:
        interval: The least number of seconds between two lines of one kind.
    """

    def __init__(self, interval: float = 10.0) -> None:
        super().__init__()
        self._interval = interval
        # By kind: when the next line may pass, and how many were held back since the last.
        self._next: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line is logged; adds how many of its kind were not."""
        # librdkafka's lines read "FAIL [rdkafka#producer-1] [thrd:…]: …".
        kind = record.getMessage().partition(" ")[0]
        now = monotonic()
        if now < self._next.get(kind, 0.0):
            self._held[kind] = self._held.get(kind, 0) + 1
            return False
        self._next[kind] = now + self._interval
        held = self._held.pop(kind, 0)
        if held:
            record.msg = f"{record.getMessage()} ({held} more like it)"
            record.args = ()
        return True


client_logger = logging.getLogger("kafka_layer.librdkafka")
"""Where the clients' own log lines go."""

client_logger.addFilter(ClientLog())
