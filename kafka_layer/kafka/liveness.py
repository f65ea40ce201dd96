"""Whether a Kafka client still works, judged from evidence and time alone. Pure.

After an outage librdkafka may leave a client silent for good, without an error: it fetches nothing
though the log holds more, or it got an empty broker list and asks no broker. Only a new client
helps. That costs a reconnect, and for a producer the records it holds. So the verdict is to replace
a client only if it was suspected several times in a row and another client gets answers.

The clients of a server differ in their evidence alone:

- The reader: ``Behind`` from its positions and the ends of its partitions, ``PROGRESSED`` while its
  client always has more messages to give, ``UNANSWERED`` if it cannot learn the ends.
- The worker group: ``PROGRESSED`` while messages come, else ``Behind`` from its committed
  positions, ``UNANSWERED`` if a request or a commit gets no answer.
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
"""A broker answered a request of this client, and the client is not known to be behind."""

UNANSWERED = _Sign.UNANSWERED
"""No broker answered a request of this client in time."""


@dataclass(frozen=True)
class Behind:
    """A broker answered with the ends of the partitions.

    Attributes:
        positions: The partitions in which the client does not read records that are there, each
            with the client's position. Empty if it has read everything.
    """

    positions: Mapping[tuple[str, int], int]


Evidence = _Sign | Behind
"""The result of one look at a client."""


class Verdict(enum.Enum):
    """The conclusion from a look."""

    ALIVE = "alive"
    """The client works."""

    SUSPECTED = "suspected"
    """The client may not work; the next looks decide."""

    OUTAGE = "outage"
    """Neither this client nor another one works: a new one would not either."""

    REPLACE = "replace"
    """The client does not work while another one does: replace it."""


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

    A standstill brings one replacement: if the new client stops at the same position, no client
    could read more, and the partition is excused until its position changes. If the new client gets
    no answers either, the next replacement takes twice as many looks, at most 16 times as many,
    until a client gets one.

    Args:
        patience: How many looks in a row must give cause for suspicion.
        interval: Seconds between two looks.
        alert_interval: Seconds between two looks after trouble; None: ``interval``.
        alert_for: Seconds for which ``alert_interval`` holds after trouble.
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
        # Positions at which the client stood still in all of these looks; None: none is known.
        self._standstill: dict[tuple[str, int], int] | None = None
        # Positions at which a replacement did not help.
        self._excused: dict[tuple[str, int], int] = {}
        # Replacements in a row after which the new client got no answers either.
        self._doublings = 0

    def is_due(self, now: float) -> bool:
        """Tell whether a look is due.

        Args:
            now: Seconds, on the clock of all calls of this object.
        """
        return now >= self._next_look

    def begin(self, now: float) -> None:
        """Note that the client is new: the first look is due after an interval."""
        self._suspicions, self._standstill = 0, None
        self._plan(now)

    def alert(self, now: float) -> None:
        """Note trouble, such as an error of the client: looks are more frequent for a while."""
        self._alert_until = now + self._alert_for
        self._next_look = min(self._next_look, now + self._alert_interval)

    def judge(
        self, evidence: Evidence, now: float, is_answered_elsewhere: Callable[[], bool]
    ) -> Verdict:
        """Take the evidence of one look and plan the next look.

        Args:
            evidence: The result of the look.
            now: Seconds, on the clock of all calls of this object.
            is_answered_elsewhere: Returns whether another client of this process gets answers; may
                do I/O, because it is called only if the verdict depends on it.

        Returns:
            The verdict. After ``Verdict.REPLACE`` the caller makes a new client.
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
            # The client moved on, and stands still at other positions for the first time.
            self._suspicions, self._standstill = 0, behind
        return bool(self._standstill)

    def _plan(self, now: float) -> None:
        alert = now < self._alert_until
        self._next_look = now + (self._alert_interval if alert else self._interval)


def _common(
    one: Mapping[tuple[str, int], int], other: Mapping[tuple[str, int], int]
) -> dict[tuple[str, int], int]:
    return dict(one.items() & other.items())
