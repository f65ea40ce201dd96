"""What became of each message of a soak, by the fault that was on when it was sent."""

from __future__ import annotations

import bisect
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .server import GROUP, JOBS, USER
from .site import PARTITIONS

__all__ = ["NOTHING", "Counts", "Episode", "broken_promises", "count"]

CHANNEL = "channel"

NOTHING = "nothing"
"""The name of the time in which no fault was on."""

Stream = tuple[str, str]
"""An address and a sender. What one sender sends to one address keeps its order."""


@dataclass(frozen=True)
class Episode:
    """A fault as it happened; times are ``time.monotonic()``.

    Attributes:
        kind: What it was.
        began: When it began.
        ended: From when on all should be well.
        settled: When messages that were sent later had arrived everywhere.
    """

    kind: str
    began: float
    ended: float
    settled: float


@dataclass
class Counts:
    """What became of the messages of one kind.

    A message to three receivers counts three times, but for a job, which one worker gets.

    Attributes:
        accepted: Deliveries that were due: sends that returned, by receiver.
        received: Deliveries that happened, without repetitions.
        lost: Those that did not happen, by fault.
        cut_off: Those that did not happen since the sender was killed: its last ones.
        twice: Repetitions, by fault.
        disordered: Messages that arrived behind a later one of the same stream, by fault.
        unexcused: Those of them that no added partition explains.
    """

    accepted: int = 0
    received: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    cut_off: int = 0
    twice: Counter[str] = field(default_factory=Counter)
    disordered: Counter[str] = field(default_factory=Counter)
    unexcused: Counter[str] = field(default_factory=Counter)


@dataclass
class Result:
    """All counts of a run.

    Attributes:
        by_kind: For the group, the user, channels and jobs.
        lost_at: Lost deliveries of each receiver, but for jobs.
        recovery: The longest time from a fault's end until, at every receiver, a message arrived
            that was sent later, by fault; that of jobs under ``jobs``, of all others under "".
    """

    by_kind: dict[str, Counts]
    lost_at: Counter[str] = field(default_factory=Counter)
    recovery: dict[str, dict[str, float]] = field(default_factory=lambda: {"": {}, JOBS: {}})


def count(
    diaries: Iterable[tuple[str, str]], episodes: Sequence[Episode], killed: Iterable[str]
) -> Result:
    """Compare what was sent with what arrived.

    Args:
        diaries: What the servers wrote down: a server and a line of it.
        episodes: The faults, in the order of time.
        killed: Names of servers that were killed.
    """
    counting = _Counting(episodes, set(killed))
    for server, line in diaries:
        what, to, sender, number, at = line.split()
        if what == "s":
            counting.sent[to, sender][int(number)] = float(at)
        else:
            counting.received[server][to, sender].append((int(number), float(at)))
    return counting.result()


class _Counting:
    """Everything that was written down, on its way to a result."""

    def __init__(self, episodes: Sequence[Episode], killed: set[str]) -> None:
        self.sent: dict[Stream, dict[int, float]] = defaultdict(dict)
        self.received: dict[str, dict[Stream, list[tuple[int, float]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self._episodes = episodes
        self._begins = [episode.began for episode in episodes]
        self._killed = killed
        self._additions = sum(each.kind == "partitions added" for each in episodes)
        self._result = Result({kind: Counts() for kind in (GROUP, USER, CHANNEL, JOBS)})

    def result(self) -> Result:
        jobs: dict[Stream, list[tuple[int, float]]] = defaultdict(list)
        receivers = set()
        for server, streams in self.received.items():
            for stream, arrivals in streams.items():
                if stream[0] == JOBS:
                    jobs[stream] += arrivals
                else:
                    receivers.add(server)
        for (to, sender), numbers in self.sent.items():
            if to == JOBS:
                self._count_jobs(
                    sender, numbers, sorted(jobs[to, sender], key=lambda each: each[1])
                )
                continue
            for server in receivers if to in (GROUP, USER) else {to}:
                arrivals = self.received[server][to, sender]
                self._count_messages(server, (to, sender), numbers, arrivals)
        for to, streams in self._arrivals_by_place().items():
            self._measure_recovery(to[1], sorted(streams))
        return self._result

    def _arrivals_by_place(self) -> dict[Stream, list[tuple[float, float]]]:
        """Return when messages arrived and were sent, by receiver and address; jobs together."""
        found: dict[Stream, list[tuple[float, float]]] = defaultdict(list)
        for server, streams in self.received.items():
            for (to, sender), arrivals in streams.items():
                sent = self.sent[to, sender]
                place = ("" if to == JOBS else server, to)
                found[place] += [(at, sent.get(number, 0.0)) for number, at in arrivals]
        return found

    def _count_messages(
        self,
        server: str,
        stream: Stream,
        numbers: Mapping[int, float],
        arrivals: Sequence[tuple[int, float]],
    ) -> None:
        to, sender = stream
        counts = self._result.by_kind[to if to in (GROUP, USER) else CHANNEL]
        missing = self._count_arrivals(counts, numbers, arrivals)
        last = max((number for number, _ in arrivals), default=-1)
        for number in missing:
            if sender in self._killed and number > last:
                counts.cut_off += 1
            else:
                counts.lost[self._fault_at(numbers[number])] += 1
                self._result.lost_at[server] += 1
        breaks = [
            self._fault_at(at)
            for (before, _), (after, at) in itertools.pairwise(arrivals)
            if after < before
        ]
        counts.disordered.update(breaks)
        # A key may move to a new partition, once for each that is added.
        if to not in (GROUP, USER) or len(breaks) > self._additions:
            counts.unexcused.update(breaks)

    def _count_jobs(
        self, sender: str, numbers: Mapping[int, float], arrivals: Sequence[tuple[int, float]]
    ) -> None:
        counts = self._result.by_kind[JOBS]
        # They go to the partitions in turn: a killed sender had not written the end of each.
        last = [-1] * PARTITIONS
        for number, _ in arrivals:
            turn = number % PARTITIONS
            last[turn] = max(last[turn], number)
        for number in self._count_arrivals(counts, numbers, arrivals):
            if sender in self._killed and number > last[number % PARTITIONS]:
                counts.cut_off += 1
            else:
                counts.lost[self._fault_at(numbers[number])] += 1

    def _count_arrivals(
        self,
        counts: Counts,
        numbers: Mapping[int, float],
        arrivals: Sequence[tuple[int, float]],
    ) -> list[int]:
        """Count what was due, what came and what came twice; returns what is missing."""
        seen: set[int] = set()
        for number, at in arrivals:
            if number in seen:
                counts.twice[self._fault_at(at)] += 1
            seen.add(number)
        # One that is killed may have sent a message and not written it down.
        counts.accepted += len(numbers.keys() | seen)
        counts.received += len(seen)
        return sorted(numbers.keys() - seen)

    def _measure_recovery(self, to: str, arrivals: Sequence[tuple[float, float]]) -> None:
        """Find how long after each fault's end a message arrived that was sent later."""
        times = [arrived for arrived, _ in arrivals]
        slowest = self._result.recovery[JOBS if to == JOBS else ""]
        for episode in self._episodes:
            place = bisect.bisect_left(times, episode.ended)
            later = (arrived for arrived, sent in arrivals[place:] if sent >= episode.ended)
            took = next(later, episode.settled) - episode.ended
            slowest[episode.kind] = max(slowest.get(episode.kind, 0.0), took)

    def _fault_at(self, time: float) -> str:
        place = bisect.bisect_right(self._begins, time) - 1
        if place >= 0 and time <= self._episodes[place].settled:
            return self._episodes[place].kind
        return NOTHING


def broken_promises(
    result: Result, reports: Mapping[str, Mapping[str, Any]], killed: Sequence[str]
) -> list[str]:
    """Return what docs/reliability.md promises and did not happen, a sentence for each."""
    broken: list[str] = []
    produce = sum(report["dropped"].get("produce", 0) for report in reports.values())
    for kind, counts in result.by_kind.items():
        if counts.twice:
            broken.append(f"{kind}: came twice: {_told(counts.twice)}")
        if kind == JOBS:
            continue
        if counts.unexcused:
            broken.append(f"{kind}: out of order: {_told(counts.unexcused)}")
        lost = Counter({f: n for f, n in counts.lost.items() if f != "loop stalled"})
        if lost:
            broken.append(f"{kind}: lost where nothing may be: {_told(lost)}")
    for server, lost_here in result.lost_at.items():
        counted = sum(reports[server]["dropped"].values()) + produce
        if lost_here > counted:
            broken.append(f"{server} lost {lost_here} messages, and only {counted} were counted")
    broken += _broken_with_jobs(result.by_kind[JOBS], reports, killed)
    for server, report in reports.items():
        broken += [f"{server}: {error}" for error in report["raised"]]
        broken += [
            f"{server}: {report['errors'][name]} unexpected errors in its {name} thread"
            for name in ("consumer", "producer", "worker", "upkeep")
            if name in report["errors"]
        ]
    return broken


def _broken_with_jobs(
    counts: Counts, reports: Mapping[str, Mapping[str, Any]], killed: Sequence[str]
) -> list[str]:
    workers_killed = sum(name.startswith("w") for name in killed)
    counted = sum(
        report["dropped"].get(cause, 0)
        for report in reports.values()
        for cause in ("doubtful", "closed", "produce", "expired")
    )
    lost = counts.lost.total()
    if lost <= workers_killed + counted:
        return []
    allowed = f"{workers_killed} workers were killed (one each) and {counted} were counted"
    return [f"jobs: {lost} lost ({_told(counts.lost)}), and {allowed}"]


def _when(arrival: tuple[int, float]) -> float:
    return arrival[1]


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} ({fault})" for fault, number in counts.items())
