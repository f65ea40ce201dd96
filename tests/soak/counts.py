"""What became of each message of a soak, by the fault that was on when it was sent."""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.counting import Inbox

from .faults import LOSING, MOVING, QUIET
from .server import ALL, GROUP, JOBS, USER
from .site import PARTITIONS

__all__ = ["CHANNEL", "NOTHING", "Counts", "Episode", "Result", "broken_promises", "count"]

CHANNEL = "channel"

NOTHING = "nothing"
"""The name of the time in which no fault was on."""

_ON_ITS_WAY = 2.0
"""Seconds before a channel is closed in which a message to it may have been sent in vain."""

_UNREAD = 1.0
"""Seconds before a fault in which a message may have been sent that is not read yet when it begins:
a topic that is deleted takes it along."""

_COMMAND = 1.0
"""Seconds in which a command must be answered where no broker and no network failed."""

Stream = tuple[str, str]
"""An address and a sender. What one sender sends to one address keeps its order."""

Arrivals = list[tuple[int, float]]
"""Numbers and when they arrived."""


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
        accepted: Deliveries that were due: sends that returned, by channel that was a member.
        received: Deliveries that happened, without repetitions.
        lost: Those that did not happen, by fault.
        cut_off: Those that did not happen since the sender was killed: its last ones.
        twice: Repetitions, by fault.
        disordered: Messages that arrived behind a later one of the same stream, by fault.
        unexcused: Those of them that no new partition explains.
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
        by_kind: For the group, the user, all, channels and jobs.
        lost_at: Lost deliveries of each server, but for jobs.
        recovery: The longest time from a fault's end until, at every receiver, a message arrived
            that was sent later, by fault; that of jobs under ``jobs``, of all others under "".
        commands: How many commands there were, by fault.
        failed: Those that raised, by fault and error.
        slowest: Seconds of the slowest that did not raise, by fault.
    """

    by_kind: dict[str, Counts]
    lost_at: Counter[str] = field(default_factory=Counter)
    recovery: dict[str, dict[str, float]] = field(default_factory=lambda: {"": {}, JOBS: {}})
    commands: Counter[str] = field(default_factory=Counter)
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)


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
        counting.read(server, *line.split())
    return counting.result()


class _Counting:
    """Everything that was written down, on its way to a result."""

    def __init__(self, episodes: Sequence[Episode], killed: set[str]) -> None:
        self._sent: dict[Stream, dict[int, float]] = defaultdict(dict)
        self._received: dict[str, dict[Stream, Arrivals]] = defaultdict(lambda: defaultdict(list))
        self._members: dict[str, list[float]] = {}
        self._episodes = episodes
        self._begins = [episode.began for episode in episodes]
        self._killed = killed
        self._moves = sum(each.kind in MOVING for each in episodes)
        kinds = (GROUP, USER, ALL, CHANNEL, JOBS)
        self._result = Result({kind: Counts() for kind in kinds})

    def read(self, server: str, what: str, *line: str) -> None:
        """Take a line of a diary; ``tests.soak.server`` says what there is."""
        *more, time = line
        at = float(time)
        if what == "s":
            to, sender, number = more
            self._sent[to, sender][int(number)] = at
        elif what == "r":
            channel, to, sender, number = more
            self._received[channel][to, sender].append((int(number), at))
        elif what == "c":
            self._read_command(float(more[1]), more[2], at)
        else:
            self._members.setdefault(more[0], [at, math.inf])
            if what == "-":
                self._members[more[0]][1] = at

    def result(self) -> Result:
        """Count."""
        for (to, sender), numbers in self._sent.items():
            if to == JOBS:
                # Of all workers, in the order of time.
                arrivals = sorted(self._received[JOBS][to, sender], key=lambda each: each[1])
                self._count_jobs(sender, numbers, arrivals)
                continue
            for channel in self._members if to in (GROUP, USER, ALL) else [to]:
                self._count_messages(channel, (to, sender), numbers)
        for (_, to), times in self._arrivals_by_place().items():
            self._measure_recovery(to, sorted(times))
        return self._result

    def _read_command(self, took: float, error: str, at: float) -> None:
        fault = self._hindrance(at, at + took)
        self._result.commands[fault] += 1
        if error == "ok":
            self._result.slowest[fault] = max(self._result.slowest.get(fault, 0.0), took)
        else:
            self._result.failed[fault, error] += 1

    def _arrivals_by_place(self) -> dict[Stream, list[tuple[float, float]]]:
        """Return when messages arrived and were sent, by receiver and address; jobs together."""
        found: dict[Stream, list[tuple[float, float]]] = defaultdict(list)
        for channel, streams in self._received.items():
            server = channel.partition("/")[0]
            for (to, sender), arrivals in streams.items():
                sent = self._sent[to, sender]
                kind = to if to in (GROUP, USER, ALL, JOBS) else CHANNEL
                found[server, kind] += [(at, sent.get(number, 0.0)) for number, at in arrivals]
        return found

    def _count_messages(self, channel: str, stream: Stream, numbers: Mapping[int, float]) -> None:
        to, sender = stream
        counts = self._result.by_kind[to if to in (GROUP, USER, ALL) else CHANNEL]
        arrivals = self._received[channel][stream]
        opened, closed = self._members[channel]
        due = {n: at for n, at in numbers.items() if opened < at < closed - _ON_ITS_WAY}
        missing = self._count_arrivals(counts, due, arrivals)
        last = max((number for number, _ in arrivals), default=-1)
        for number in missing:
            if sender in self._killed and number > last:
                counts.cut_off += 1
            else:
                counts.lost[self._fault_at(numbers[number], numbers[number] + _UNREAD)] += 1
                self._result.lost_at[channel.partition("/")[0]] += 1
        breaks = [
            self._fault_at(at)
            for (before, _), (after, at) in itertools.pairwise(arrivals)
            if after < before
        ]
        if to not in (GROUP, USER, ALL) or len(breaks) > self._moves:
            counts.unexcused.update(breaks)

    def _count_jobs(self, sender: str, numbers: Mapping[int, float], arrivals: Arrivals) -> None:
        counts = self._result.by_kind[JOBS]
        missing = self._count_arrivals(counts, numbers, arrivals)
        # They go to the partitions in turn: a killed sender had not written the end of each.
        last = max((number for number, _ in arrivals), default=-1) - 2 * PARTITIONS
        for number in missing:
            if sender in self._killed and number > last:
                counts.cut_off += 1
            else:
                counts.lost[self._fault_at(numbers[number])] += 1

    def _count_arrivals(
        self, counts: Counts, due: Mapping[int, float], arrivals: Arrivals
    ) -> list[int]:
        """Count what was due, what came, twice or out of order; returns what is missing."""
        inbox = Inbox()
        found = {"twice": counts.twice}
        if counts is not self._result.by_kind[JOBS]:  # they have no order
            found["disordered"] = counts.disordered
        for number, at in arrivals:
            wrong = inbox.note("", number)
            if wrong in found:
                found[wrong][self._fault_at(at)] += 1
        seen = {number for number, _ in arrivals}
        # A process that is killed may have sent a message and not written it down.
        counts.accepted += len(due.keys() | seen)
        counts.received += len(seen)
        return sorted(due.keys() - seen)

    def _measure_recovery(self, to: str, arrivals: Sequence[tuple[float, float]]) -> None:
        """Find how long after each fault's end a message arrived that was sent later."""
        times = [arrived for arrived, _ in arrivals]
        slowest = self._result.recovery[JOBS if to == JOBS else ""]
        for episode in self._episodes:
            place = bisect.bisect_left(times, episode.ended)
            later = (arrived for arrived, sent in arrivals[place:] if sent >= episode.ended)
            took = next(later, episode.settled) - episode.ended
            slowest[episode.kind] = max(slowest.get(episode.kind, 0.0), took)

    def _hindrance(self, began: float, ended: float) -> str:
        """Return the fault that was on during a command: of several one that may delay it."""
        kinds = [
            each.kind for each in self._episodes if each.began <= ended and began <= each.settled
        ]
        loud = [kind for kind in kinds if kind not in QUIET]
        return next(iter(loud or kinds), NOTHING)

    def _fault_at(self, time: float, until: float | None = None) -> str:
        """Return the fault that was on at a time, or that began before another."""
        place = bisect.bisect_right(self._begins, time if until is None else until) - 1
        if place >= 0 and time <= self._episodes[place].settled:
            return self._episodes[place].kind
        return NOTHING


def broken_promises(
    result: Result, reports: Mapping[str, Mapping[str, Any]], killed: Sequence[str]
) -> list[str]:
    """Return what docs/reliability.md promises and did not happen, a sentence for each."""
    broken: list[str] = []
    dropped = {server: _dropped(report) for server, report in reports.items()}
    produce = sum(each["produce"] for each in dropped.values())
    for kind, counts in result.by_kind.items():
        lost = {fault: number for fault, number in counts.lost.items() if fault not in LOSING}
        found = {"came twice": counts.twice}
        if kind != JOBS:
            found |= {"out of order": counts.unexcused, "lost where nothing may be": Counter(lost)}
        broken += [f"{kind}: {what}: {_told(each)}" for what, each in found.items() if each]
    for server, lost_here in result.lost_at.items():
        counted = dropped[server].total() + produce
        if lost_here > counted:
            broken.append(f"{server} lost {lost_here} messages, and only {counted} were counted")
    broken += _broken_with_jobs(result.by_kind[JOBS], dropped, killed)
    broken += _broken_with_commands(result)
    for server, report in reports.items():
        broken += [f"{server}: {error}" for error in report["raised"]]
        broken += [
            f"{server}: {report['counts'][f'errors.{name}']} unexpected errors in its {name} thread"
            for name in ("consumer", "producer", "worker", "upkeep")
            if f"errors.{name}" in report["counts"]
        ]
    return broken


def _broken_with_commands(result: Result) -> list[str]:
    at_once = (*QUIET, NOTHING)
    return [
        *(
            f"{number} commands raised {error} ({fault})"
            for (fault, error), number in result.failed.items()
            if fault in at_once
        ),
        *(
            f"a command took {seconds:.2f} s ({fault})"
            for fault, seconds in result.slowest.items()
            if fault in at_once and seconds > _COMMAND
        ),
    ]


def _broken_with_jobs(
    counts: Counts, dropped: Mapping[str, Counter[str]], killed: Sequence[str]
) -> list[str]:
    workers_killed = sum(name.startswith("w") for name in killed)
    # No fault lasts for as long as jobs live: none may expire.
    causes = ("doubtful", "in_doubt", "closed", "produce")
    counted = sum(each[cause] for each in dropped.values() for cause in causes)
    lost = counts.lost.total()
    if lost <= workers_killed + counted:
        return []
    allowed = f"{workers_killed} workers were killed (one each) and {counted} were counted"
    return [f"jobs: {lost} lost ({_told(counts.lost)}), and {allowed}"]


def _dropped(report: Mapping[str, Any]) -> Counter[str]:
    counts = report["counts"].items()
    prefix = "dropped."
    return Counter({k.removeprefix(prefix): n for k, n in counts if k.startswith(prefix)})


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} ({fault})" for fault, number in counts.items())
