"""Records that a busy producer holds back for a moment, so that they travel in fewer requests.

With one request in flight, what came in meanwhile is the next one: few records, while the broker
answers soon. It took 13 to 23 us of its processor for a record flat out, and 2 to 3 with this,
measured. librdkafka's ``linger.ms`` would do the same, and delay those of an idle server as well.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from confluent_kafka import Producer

from ..delivery.tickets import Ticket
from ..exceptions import ProduceFailed
from ..messages import Position
from ..transport import QueueFull

__all__ = ["Hold", "Pending"]

# Up to this many records on their way are no load: a burst goes at once.
_IDLE_UP_TO = 256
# So many in any case: fewer would be let go by the sender before the next round, in more requests.
_MOST = 3_000
_LARGE = 10_000

Pending = tuple[
    str, bytes, "str | None", int, Sequence[tuple[str, bytes]], "Ticket[Position] | None"
]
"""A record that is ready for the client: Kafka's name of its topic, its value, its key, the number
of its partition or -1 where the client decides, its headers, and the ticket for its outcome.

A plain tuple is made in a seventh of the time of a named one, and one of nothing but text and
numbers is none of the garbage collector's business.
"""


class Hold:
    """Holds records back while many are on their way; any thread may call each method.

    Records of one thread stay in order, among them those that were not held back.

    Args:
        limit: Records that may wait, here and on their way together.
        timeout: Seconds that they may wait here for a client that takes no more.
        hand_over: Gives a record to the client; raises ``QueueFull`` where it takes no more.
        on_hold: Called when the first one is held back: ``release`` is due in a moment.
        expire: Reports a record that waited for too long.
    """

    def __init__(
        self,
        limit: int,
        timeout: float,
        hand_over: Callable[[Producer, Pending], None],
        on_hold: Callable[[], None],
        expire: Callable[[Pending], None],
    ) -> None:
        self._limit = limit
        self._timeout = timeout
        self._hand_over = hand_over
        self._on_hold = on_hold
        self._expire = expire
        self._held: deque[Pending] = deque()
        # Since when the client takes no more; nothing is accepted from then on.
        self._refused: float | None = None
        self._ended = False
        self._adding = threading.Lock()
        self._releasing = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def room(self, client: Producer) -> int:
        """Return how many records are taken before the queue is full, as far as is known."""
        if self._refused is not None:
            return 0
        return max(0, self._limit - len(client) - len(self._held))

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
        if self._refused is not None:
            self.release(client)
        if self._refused is not None or on_their_way + len(held) >= self._limit:
            raise QueueFull
        with self._adding:
            if self._ended:
                raise ProduceFailed("The channel layer is closed.")
            held.append(pending)
            if len(held) == 1:
                self._on_hold()
        _, value, _, _, _, ticket = pending
        urgent = ticket is not None or len(value) >= _LARGE
        if urgent or len(held) >= _MOST:
            self.release(client)

    def release(self, client: Producer) -> None:
        """Hand over what is held back, as far as the client takes it."""
        # The thread that is at it takes what came meanwhile; it may itself be called back here.
        while self._held and self._releasing.acquire(blocking=False):
            try:
                if not self._drain(client):
                    return
            finally:
                self._releasing.release()

    def _drain(self, client: Producer) -> bool:
        held = self._held
        while held and not self._ended:
            try:
                self._hand_over(client, held[0])
            except QueueFull:
                now = time.monotonic()
                self._refused = self._refused or now
                if now - self._refused < self._timeout:
                    return False
                self._expire(held[0])
            except BaseException:
                held.popleft()
                raise
            # Not before: a record of another thread would pass it.
            held.popleft()
        self._refused = None
        return not self._ended

    def give_up(self, patience: float) -> list[Pending]:
        """Return what is held back, and take no more.

        Args:
            patience: Seconds to wait for the thread that releases. It may be the caller, called
                back by the client; what it is handing over is its own to report.
        """
        held = self._held
        with self._adding:
            self._ended = True
        entered = self._releasing.acquire(timeout=patience)
        try:
            in_hand = None if entered or not held else held[0]
            given_up: list[Pending] = []
            while held and held[-1] is not in_hand:
                given_up.append(held.pop())
            return given_up[::-1]
        finally:
            if entered:
                self._releasing.release()
