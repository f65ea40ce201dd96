"""What a receiver saw: counts, latencies, and what was lost, came twice or out of order."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Faults", "Inbox", "percentile"]


@dataclass(frozen=True)
class Faults:
    """What went wrong with the messages of one measurement.

    Attributes:
        expected: Deliveries that should have happened.
        lost: Deliveries that did not happen.
        twice: Deliveries that happened again.
        out_of_order: Deliveries that came after a later one of the same sender.
    """

    expected: int = 0
    lost: int = 0
    twice: int = 0
    out_of_order: int = 0

    def __add__(self, other: Faults) -> Faults:
        return Faults(
            self.expected + other.expected,
            self.lost + other.lost,
            self.twice + other.twice,
            self.out_of_order + other.out_of_order,
        )

    @classmethod
    def of(cls, expected: int, inboxes: Iterable[Inbox]) -> Faults:
        """Judge inboxes that should have got ``expected`` messages in all."""
        inboxes = list(inboxes)
        return cls(
            expected,
            expected - sum(each.unique for each in inboxes),
            sum(each.twice for each in inboxes),
            sum(each.out_of_order for each in inboxes),
        )


class Inbox:
    """The messages of one channel. Each carries its sender ``s``, number ``n`` and time ``t``.

    Args:
        keep_latencies: Whether to remember how long each message took.

    Attributes:
        received: Messages so far, those that came twice included.
        last_at: When the last one came, on ``time.monotonic()``.
        latencies: Seconds that each message took; empty unless they are kept.
    """

    def __init__(self, keep_latencies: bool = False) -> None:
        self._keep = keep_latencies
        self.reset()

    def reset(self) -> None:
        """Count anew."""
        self.received = self.twice = self.out_of_order = 0
        self.last_at = 0.0
        self.latencies: list[float] = []
        self._next: dict[int, int] = {}
        self._missing: set[tuple[int, int]] = set()

    @property
    def unique(self) -> int:
        """Messages so far, each counted once."""
        return self.received - self.twice

    def take(self, message: dict[str, Any]) -> None:
        """Count a message; cheap, because it is part of what is measured."""
        self.last_at = now = time.monotonic()
        self.received += 1
        if self._keep:
            self.latencies.append(now - message["t"])
        sender, number = message["s"], message["n"]
        expected = self._next.get(sender, 0)
        if number == expected:
            self._next[sender] = number + 1
        else:
            self._take_irregular(sender, number, expected)

    def _take_irregular(self, sender: int, number: int, expected: int) -> None:
        if number > expected:
            self._missing.update((sender, skipped) for skipped in range(expected, number))
            self._next[sender] = number + 1
        elif (sender, number) in self._missing:
            self._missing.discard((sender, number))
            self.out_of_order += 1
        else:
            self.twice += 1


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
