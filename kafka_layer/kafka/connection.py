"""Whether any broker can be reached, as all clients of a server see it together."""

from __future__ import annotations

import enum
import logging

from confluent_kafka import KafkaError

from ..config.realtime import monotonic
from ..config.threads import RLock
from ..config.timings import Timings
from ..exceptions import BrokerUnavailable
from ..observe.counters import Stats
from ..signals import connection_changed
from . import errors

__all__ = ["Connection"]

logger = logging.getLogger("kafka_layer")


class _State(enum.Enum):
    REACHED = enum.auto()
    SUSPECTED = enum.auto()
    LOST = enum.auto()


_REACHED, _SUSPECTED, _LOST = _State


class Connection:
    """Judges from the clients' reports whether the brokers are lost; any thread.

    Each client reports an outage once, and another client may still get answers: a broker closed an
    idle connection of the first one, or the report is older than the answer. So a report is a
    suspicion, which time confirms or an answer refutes.

    States, with what leads from one to the other:

    - *reached*: no trouble is known. A client reports that all brokers are down, or gets no answer:
      *suspected*; *lost* at once if a broker refused this client before.
    - *suspected*: an answer to any client: *reached*, silently. No answer for
      ``timings.connection_doubt``: *lost*; ``lost`` and each further error check the time.
    - *lost*: an answer to any client: *reached*.

    Each change to and from *lost* is logged and sent as the signal ``connection_changed``, in
    order.

    Args:
        servers: The bootstrap servers, for the log.
        stats: Counts errors and reconnects.
        timings: The layer's times.
        hint: As for ``errors.unavailable``.
        announces: Whether to send the signal.

    Attributes:
        servers: The bootstrap servers.
        refusal: The last error of a broker that does not let this client in; None since an answer.
    """

    def __init__(
        self,
        servers: str,
        stats: Stats,
        timings: Timings | None = None,
        hint: str = "",
        *,
        announces: bool = True,
    ) -> None:
        self._hint = hint
        self.refusal: KafkaError | None = None
        self.servers = servers
        self._doubt = (timings or Timings()).connection_doubt
        self._stats = stats
        self._announces = announces
        # Re-entrant: a signal handler that interrupts a change may ask for the state.
        self._lock = RLock()
        self._state = _REACHED
        # When the state became *suspected*; in *lost* it keeps that time.
        self._since = monotonic()

    @property
    def lost(self) -> bool:
        """Whether a client found no broker, and no client got an answer for a while since."""
        if self._state is _SUSPECTED:
            self._confirm()
        return self._state is _LOST

    @property
    def doubtful(self) -> bool:
        """Whether a client found no broker, and no client got an answer since: ask one."""
        return self._state is not _REACHED

    @property
    def refused(self) -> bool:
        """Whether no broker is left, and the last one did not let this client in."""
        return self.doubtful and self.refusal is not None

    def on_error(self, error: KafkaError) -> None:
        """Note an error of a client."""
        self._stats.count(f"errors.{error.name()}")
        # librdkafka reports a refusal before it reports that no broker is left.
        if errors.is_refusal(error) and self._tells_more(error):
            self.refusal = error
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._suspect()
        if self._state is _SUSPECTED:
            self._confirm()

    def on_silence(self) -> None:
        """Note that a request got no answer in time."""
        self._suspect()

    def on_answer(self) -> None:
        """Note that a broker answered; cheap in *reached*."""
        self.refusal = None
        if self._state is not _REACHED:
            self._refute()

    def unavailable(self, detail: str) -> BrokerUnavailable:
        """Return the error for brokers that do not answer, or do not let this client in.

        Args:
            detail: The operation that failed.
        """
        refusal = self.refusal
        if refusal is not None:
            return errors.refused(self.servers, refusal)
        return errors.unavailable(self.servers, detail, self._hint)

    def _tells_more(self, error: KafkaError) -> bool:
        # Keep the handshake's error; the transport error that follows it says less.
        return self.refusal is None or error.code() != KafkaError._TRANSPORT

    def _suspect(self) -> None:
        with self._lock:
            if self._state is _REACHED:
                self._state = _SUSPECTED
                self._since = monotonic()

    def _confirm(self) -> None:
        """Believe a suspicion that no answer refuted in time."""
        with self._lock:
            refusal = self.refusal
            if self._state is not _SUSPECTED or (
                refusal is None and monotonic() - self._since < self._doubt
            ):
                return
            self._state = _LOST
            self._signal(connected=False, seconds=0.0)
        if refusal is not None:
            logger.error("%s Messages wait until then.", errors.refused(self.servers, refusal))
        else:
            logger.error("No Kafka broker of %s can be reached; messages wait", self.servers)

    def _refute(self) -> None:
        with self._lock:
            state, self._state = self._state, _REACHED
            if state is not _LOST:
                return
            seconds = monotonic() - self._since
            self._signal(connected=True, seconds=seconds)
        self._stats.count("reconnects")
        logger.warning("Kafka is back after %.1f s (%s)", seconds, self.servers)

    def _signal(self, *, connected: bool, seconds: float) -> None:
        # Called under the lock, so that the signals come in the order of the changes.
        if self._announces:
            self._stats.signal(connection_changed, Connection, connected=connected, seconds=seconds)
