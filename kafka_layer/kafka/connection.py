"""Whether any broker can be reached, as both clients of a server see it."""

from __future__ import annotations

import logging
import threading
import time

from confluent_kafka import KafkaError

from ..exceptions import BrokerUnavailable
from ..observe.counters import Stats
from ..signals import connection_changed
from . import errors

__all__ = ["Connection"]

logger = logging.getLogger("kafka_layer")

# Each client says by itself, again and again, that it finds no broker: one may have said so just
# before another was answered.
_SETTLING = 1.0


class Connection:
    """The state of the connection of one server; any thread.

    Args:
        servers: The bootstrap servers, for the log.
        stats: Counts errors and reconnects.

    Attributes:
        servers: The bootstrap servers.
        lost: Whether all brokers are down.
        refusal: What a broker that does not let this client in said last; None since one answered.
    """

    def __init__(self, servers: str, stats: Stats) -> None:
        self.lost = False
        self.refusal: KafkaError | None = None
        self.servers = servers
        self._stats = stats
        self._lock = threading.Lock()
        self._since = float("-inf")

    def on_error(self, error: KafkaError) -> None:
        """Take note of what a client reports."""
        self._stats.count(f"errors.{error.name()}")
        # The client says why it is not let in before it says that no broker is left.
        if errors.is_refusal(error) and self._tells_more(error):
            self.refusal = error
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._change(lost=True)

    def on_answer(self) -> None:
        """Take note that a broker answered; cheap while nothing was lost."""
        self.refusal = None
        if self.lost:
            self._change(lost=False)

    @property
    def refused(self) -> bool:
        """Whether no broker is left, and one that was there did not let this client in."""
        return self.lost and self.refusal is not None

    def unavailable(self, detail: str) -> BrokerUnavailable:
        """Return the error for brokers that do not answer, or do not let this client in.

        Args:
            detail: What could not be done.
        """
        refusal = self.refusal
        if refusal is not None:
            return errors.refused(self.servers, refusal)
        return errors.unavailable(self.servers, detail)

    def _tells_more(self, error: KafkaError) -> bool:
        # What the broken connection says follows what the handshake said, and is shorter.
        return self.refusal is None or error.code() != KafkaError._TRANSPORT

    def _change(self, *, lost: bool) -> None:
        with self._lock:
            if lost == self.lost:
                return
            now = time.monotonic()
            if lost and now - self._since < _SETTLING:
                return
            self.lost = lost
            seconds = 0.0 if lost else now - self._since
            self._since = now
            # Under the lock, so that the signals come in the order of the changes.
            self._stats.signal(connection_changed, Connection, connected=not lost, seconds=seconds)
        refusal = self.refusal
        if lost and refusal is not None:
            logger.error("%s Messages wait until then.", errors.refused(self.servers, refusal))
        elif lost:
            logger.error("No Kafka broker of %s can be reached; messages wait", self.servers)
        else:
            self._stats.count("reconnects")
            logger.warning("Kafka is back after %.1f s (%s)", seconds, self.servers)
