"""Whether a Kafka client still works, judged from evidence and time alone. Pure.

After an outage librdkafka may leave a client silent for good, without an error: it fetches nothing
though the log holds more, or it was told of no broker and asks none. Nothing but a new client
mends that. A new client costs a reconnect, and for a producer the records it holds, so it is made
only where it helps: the client was suspected several times in a row, and another client is
answered, so the brokers are there.

The clients of a server differ in their evidence alone:

- The reader: ``Behind`` from its positions and the ends of its partitions, ``UNANSWERED`` where it
  cannot learn the ends.
- The worker group: ``PROGRESSED`` while messages come, else ``Behind`` from its committed
  positions, ``UNANSWERED`` where a request or a commit gets no answer.
- The producer: ``ANSWERED`` or ``UNANSWERED`` from a metadata request.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["ANSWERED", "PROGRESSED", "UNANSWERED", "Behind", "Evidence", "Liveness", "Verdict"]

_MOST_DOUBLINGS = 4


class _Sign(enum.Enum):
    PROGRESSED = "progressed"
    ANSWERED = "answered"
    UNANSWERED = "unanswered"


PROGRESSED = _Sign.PROGRESSED
"""The client got records since the last look."""

ANSWERED = _Sign.ANSWERED
"""A broker answered a request of this client, and nothing says that it is behind."""

UNANSWERED = _Sign.UNANSWERED
"""No broker answered a request of this client in time."""


@dataclass(frozen=True)
class Behind:
    """A broker answered, and told where the partitions end.

    Attributes:
        positions: The partitions that the client does not read though there is something to read,
            each with the client's position. Empty where it has read everything.
    """

    positions: Mapping[tuple[str, int], int]


Evidence = _Sign | Behind
"""What one look at a client found out."""


class Verdict(enum.Enum):
    """What follows from a look."""

    ALIVE = "alive"
    """The client works."""

    SUSPECTED = "suspected"
    """It may not work; the next looks decide."""

    OUTAGE = "outage"
    """It does not work, and neither does another client: a new one would not either."""

    REPLACE = "replace"
    """It does not work while another client does: a new one is to take its place."""


class Liveness:
    """The judge of one client; for the one thread that looks after the client.

    Each look gives evidence to ``judge``, which moves between these states:

    ========== =================================================== ==========
    state      evidence                                            next state
    ========== =================================================== ==========
    trusted    progressed, answered, nothing behind                trusted
    trusted    unanswered, behind                                  suspected
    suspected  progressed, answered, nothing behind                trusted
    suspected  behind, but at other positions than before          suspected, counted from 1
    suspected  unanswered or behind, fewer than ``patience`` times suspected
    suspected  the same for the ``patience``-th time, and ...      trusted
    ...        another client is answered                          verdict: replace
    ...        no other client is answered                         verdict: outage
    ========== =================================================== ==========

    A standstill brings one replacement: where the new client stops at the same position, there is
    nothing that a client could read, and the partition is excused until its position changes.
    Where the new client is not answered either, the next replacement takes twice as many looks,
    at most 16 times as many, until one is answered.

    Args:
        patience: How many looks in a row must give cause for suspicion.
        interval: Seconds between two looks.
        alert_interval: Seconds between two looks in the time after trouble; None: as ever.
        alert_for: Seconds that this time lasts.
    """

    def __init__(
        self,
        patience: int,
        interval: float,
        *,
        alert_interval: float | None = None,
        alert_for: float = 30.0,
    ) -> None:
        self._patience = patience
        self._interval = interval
        self._alert_interval = interval if alert_interval is None else alert_interval
        self._alert_for = alert_for
        self._alert_until = float("-inf")
        self._next_look = float("-inf")
        # Looks in a row that gave cause for suspicion.
        self._suspicions = 0
        # Where the client stood still at all of these looks; None: no look told.
        self._standstill: dict[tuple[str, int], int] | None = None
        # Where a replacement did not help.
        self._excused: dict[tuple[str, int], int] = {}
        # Replacements in a row after which the new client was not answered either.
        self._doublings = 0

    def is_due(self, now: float) -> bool:
        """Tell whether it is time for a look.

        Args:
            now: Seconds, on the clock of all calls of this object.
        """
        return now >= self._next_look

    def begin(self, now: float) -> None:
        """Note that the client is new: the first look is due after an interval."""
        self._suspicions, self._standstill = 0, None
        self._plan(now)

    def alert(self, now: float) -> None:
        """Note trouble, such as an error of the client: look more often for a while."""
        self._alert_until = now + self._alert_for
        self._next_look = min(self._next_look, now + self._alert_interval)

    def judge(
        self, evidence: Evidence, now: float, is_answered_elsewhere: Callable[[], bool]
    ) -> Verdict:
        """Take the evidence of one look and plan the next look.

        Args:
            evidence: What the look found out.
            now: Seconds, on the clock of all calls of this object.
            is_answered_elsewhere: Tells whether another client of this process is answered; asked
                only where the verdict depends on it, so it may do I/O.

        Returns:
            What is to be done. After ``Verdict.REPLACE`` the caller makes a new client.
        """
        self._plan(now)
        if not self._gives_cause(evidence):
            self._suspicions, self._standstill = 0, None
            return Verdict.ALIVE
        self._suspicions += 1
        if self._suspicions < self._patience << self._doublings:
            return Verdict.SUSPECTED
        standstill = self._standstill
        self._suspicions, self._standstill = 0, None
        if not is_answered_elsewhere():
            return Verdict.OUTAGE
        if standstill is None:
            self._doublings = min(self._doublings + 1, _MOST_DOUBLINGS)
        else:
            self._excused.update(standstill)
        return Verdict.REPLACE

    def _gives_cause(self, evidence: Evidence) -> bool:
        if evidence is UNANSWERED:
            return True
        self._doublings = 0
        if not isinstance(evidence, Behind):
            return False
        self._excused = _common(self._excused, evidence.positions)
        behind = dict(evidence.positions.items() - self._excused.items())
        before = self._standstill
        self._standstill = behind if before is None else _common(before, behind)
        if behind and not self._standstill:
            # It moved, and is behind elsewhere: that is seen for the first time.
            self._suspicions, self._standstill = 0, behind
        return bool(self._standstill)

    def _plan(self, now: float) -> None:
        alert = now < self._alert_until
        self._next_look = now + (self._alert_interval if alert else self._interval)


def _common(
    one: Mapping[tuple[str, int], int], other: Mapping[tuple[str, int], int]
) -> dict[tuple[str, int], int]:
    return dict(one.items() & other.items())
