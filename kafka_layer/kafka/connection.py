"""Whether any broker can be reached, as both clients of a server see it."""

from __future__ import annotations

import logging
import threading
import time

from confluent_kafka import KafkaError

from ..signals import connection_changed
from ..stats import Stats

__all__ = ["Connection"]

logger = logging.getLogger("kafka_layer")


class Connection:
    """The state of the connection of one server; any thread.

    Args:
        servers: The bootstrap servers, for the log.
        stats: Counts errors and reconnects.

    Attributes:
        lost: Whether all brokers are down.
    """

    def __init__(self, servers: str, stats: Stats) -> None:
        self.lost = False
        self._servers = servers
        self._stats = stats
        self._lock = threading.Lock()
        self._since = 0.0

    def on_error(self, error: KafkaError) -> None:
        """Take note of what a client reports."""
        self._stats.count(f"errors.{error.name()}")
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._change(lost=True)

    def on_answer(self) -> None:
        """Take note that a broker answered; cheap while nothing was lost."""
        if self.lost:
            self._change(lost=False)

    def _change(self, *, lost: bool) -> None:
        with self._lock:
            if lost == self.lost:
                return
            self.lost = lost
            now = time.monotonic()
            seconds = 0.0 if lost else now - self._since
            self._since = now
        if lost:
            logger.error("No Kafka broker of %s can be reached; messages wait", self._servers)
        else:
            self._stats.count("reconnects")
            logger.warning("Kafka is back after %.1f s (%s)", seconds, self._servers)
        connection_changed.send_robust(
            sender=Connection, prefix=self._stats.prefix, connected=not lost, seconds=seconds
        )
