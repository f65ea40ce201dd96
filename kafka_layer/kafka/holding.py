"""Records that a busy producer holds back for a moment, so that they travel in fewer requests.

With one request in flight, what came in meanwhile is the next one: few records, while the broker
answers soon. It took 13 to 23 us of its processor for a record flat out, and 6 to 8 with this,
measured. librdkafka's ``linger.ms`` would do the same, and delay those of an idle server as well.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from confluent_kafka import Producer

from ..backplane import Delivered, Outgoing, QueueFull
from ..exceptions import ProduceFailed

__all__ = ["Hold", "Pending"]

# Up to this many records on their way are no load: a burst goes at once.
_IDLE_UP_TO = 256
_MOST = 1_000
_LARGE = 10_000
# For the thread that releases; it may be the same, called back by the client and closing it.
_PATIENCE = 1.0


Pending = tuple[Outgoing, Delivered | None, str, int]
"""A record that is ready for the client: what to call with its outcome, Kafka's name of its topic,
and the number of its partition, or -1 where the client decides. A plain tuple is made in a seventh
of the time of a named one."""


class Hold:
    """Holds records back while many are on their way; any thread may call each method.

    Records of one thread stay in order, among them those that were not held back.

    Args:
        limit: Records that may wait, here and on their way together.
        hand_over: Gives a record to the client; raises ``QueueFull`` where it takes no more.
    """

    def __init__(self, limit: int, hand_over: Callable[[Producer, Pending], None]) -> None:
        self._limit = limit
        self._hand_over = hand_over
        self._held: deque[Pending] = deque()
        self._refused = False
        self._ended = False
        self._adding = threading.Lock()
        self._releasing = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def put(self, client: Producer, pending: Pending) -> None:
        """Hand a record over, now or with others in a moment.

        Raises:
            QueueFull: If no more may wait, or the client takes no more.
            ProduceFailed: After ``give_up``.
        """
        held = self._held
        on_their_way = len(client)
        if not held and on_their_way <= _IDLE_UP_TO:
            self._hand_over(client, pending)
            return
        if self._refused:
            self.release(client)
        if self._refused or on_their_way + len(held) >= self._limit:
            raise QueueFull
        with self._adding:
            if self._ended:
                raise ProduceFailed("The channel layer is closed.")
            held.append(pending)
        record, delivered, _, _ = pending
        urgent = delivered is not None or len(record.value) >= _LARGE
        if urgent or len(held) >= _MOST:
            self.release(client)

    def release(self, client: Producer) -> None:
        """Hand over what is held back, as far as the client takes it."""
        # The thread that is at it takes what came meanwhile; it may itself be called back here.
        if not self._releasing.acquire(blocking=False):
            return
        try:
            held = self._held
            while held:
                try:
                    self._hand_over(client, held[0])
                except QueueFull:
                    self._refused = True
                    return
                except BaseException:
                    held.popleft()
                    raise
                # Not before: a record of another thread would pass it.
                held.popleft()
            self._refused = False
        finally:
            self._releasing.release()

    def give_up(self) -> list[Pending]:
        """Return what is held back, and take no more."""
        with self._adding:
            self._ended = True
        entered = self._releasing.acquire(timeout=_PATIENCE)
        try:
            given_up = list(self._held)
            self._held.clear()
            return given_up
        finally:
            if entered:
                self._releasing.release()
