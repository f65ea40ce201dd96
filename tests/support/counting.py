"""The count of what became of numbered messages, for tests, the soak and the benchmarks.

Imports nothing of Kafka: the benchmarks count in processes that are to stay without its clients.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Inbox", "JobInbox", "Tally", "percentile", "tally"]


@dataclass(frozen=True)
class Tally:
    """What became of messages.

    Attributes:
        expected: How many should have arrived.
        lost: How many of them never did.
        twice: How many arrivals repeated an earlier one.
        disordered: How many arrived for the first time behind a later one of their sender.
    """

    expected: int = 0
    lost: int = 0
    twice: int = 0
    disordered: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.expected + other.expected,
            self.lost + other.lost,
            self.twice + other.twice,
            self.disordered + other.disordered,
        )

    @property
    def faults(self) -> int:
        """How much went wrong in all."""
        return self.lost + self.twice + self.disordered

    @classmethod
    def of(cls, expected: int, inboxes: Iterable[Inbox]) -> Tally:
        """Judge inboxes that should have got ``expected`` messages in all."""
        inboxes = list(inboxes)
        jobs = [job for each in inboxes if isinstance(each, JobInbox) for job in each.jobs]
        again = len(jobs) - len(set(jobs))
        return cls(
            expected,
            expected - sum(each.unique for each in inboxes) + again,
            sum(each.twice for each in inboxes) + again,
            sum(each.disordered for each in inboxes),
        )


class Inbox:
    """Counts the messages of one receiver. Senders number theirs upwards from 0.

    Args:
        keep_latencies: Whether to remember how long each message took.

    Attributes:
        received: Messages so far, repetitions included.
        twice: Repetitions.
        disordered: Messages that arrived for the first time behind a later one of their sender.
        last_at: When the last one was taken, on ``time.monotonic()``; 0.0 before the first.
        latencies: Seconds that each taken message took; empty unless they are kept.
    """

    def __init__(self, keep_latencies: bool = False) -> None:
        self._keep = keep_latencies
        self.reset()

    def reset(self) -> None:
        """Count anew."""
        self.received = self.twice = self.disordered = 0
        self.last_at = 0.0
        self.latencies: list[float] = []
        self._next: dict[Any, int] = {}
        self._missing: set[tuple[Any, int]] = set()

    @property
    def unique(self) -> int:
        """Messages so far, each counted once."""
        return self.received - self.twice

    def take(self, message: dict[str, Any]) -> None:
        """Count a message with its sender ``s``, number ``n`` and time ``t``.

        Cheap, because it is part of what the benchmarks measure.
        """
        self.last_at = now = time.monotonic()
        if self._keep:
            self.latencies.append(now - message["t"])
        sender, number = message["s"], message["n"]
        if self._next.get(sender, 0) == number:
            self.received += 1
            self._next[sender] = number + 1
        else:
            self.note(sender, number)

    def note(self, sender: Any, number: int) -> str:
        """Count a number of a sender; returns "", "twice" or "disordered"."""
        self.received += 1
        expected = self._next.get(sender, 0)
        if number == expected:
            self._next[sender] = number + 1
            return ""
        if number > expected:
            self._missing.update((sender, skipped) for skipped in range(expected, number))
            self._next[sender] = number + 1
            return ""
        if (sender, number) in self._missing:
            self._missing.discard((sender, number))
            self.disordered += 1
            return "disordered"
        self.twice += 1
        return "twice"


class JobInbox(Inbox):
    """Counts the messages that one of several workers got, which share them, in any order.

    Attributes:
        jobs: Sender and number of each, because two workers may have got the same.
    """

    def __init__(self) -> None:
        super().__init__(keep_latencies=True)

    def reset(self) -> None:
        super().reset()
        self.jobs: list[tuple[Any, int]] = []

    def take(self, message: dict[str, Any]) -> None:
        self.last_at = now = time.monotonic()
        self.latencies.append(now - message["t"])
        self.jobs.append((message["s"], message["n"]))
        self.received += 1


def tally(sent: Iterable[int], received: Sequence[int]) -> Tally:
    """Compare the numbers that one sender sent, rising ones, with those that arrived."""
    wanted = set(sent)
    inbox = Inbox()
    for number in received:
        inbox.note(0, number)
    return Tally(len(wanted), len(wanted - set(received)), inbox.twice, inbox.disordered)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
