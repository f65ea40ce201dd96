"""What a subject of the benchmarks is, and what it is given to measure with."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from tests.support.counting import Inbox, Tally, percentile

from . import traffic
from .contenders import Running
from .workers import Job, PortSpec, Worker, WorkerError

T = TypeVar("T")
Share = Callable[[int], Sequence[int]] | Sequence[int] | int
Pair = tuple[Worker, Sequence[Worker]]
_numbers = itertools.count()
_FIGURE = re.compile(r"(\w+): (.+) \((.+?)(, more)?\)")


class Skipped(Exception):
    """A contender cannot take part in a subject; the text says why."""


class Figure(NamedTuple):
    """One number that a subject finds: its name there, its label and unit in tables, and whether
    more of it is better.
    """

    name: str
    label: str
    unit: str
    more: bool


class Outcome(NamedTuple):
    """What one round of one contender found: values by figure, and what became of the messages."""

    values: Mapping[str, float]
    tally: Tally = Tally()


def percentiles(values: Sequence[float], name: str = "") -> dict[str, float]:
    """Return the figures ``p50`` and ``p99`` of values."""
    return {f"{name}p50": percentile(values, 0.50), f"{name}p99": percentile(values, 0.99)}


class Exchange(NamedTuple):
    """What one process sent, and what others got of it."""

    sent: traffic.Sent
    inboxes: Sequence[Inbox]
    tally: Tally

    def ms(self, name: str = "") -> dict[str, float]:
        """The milliseconds that 50 and 99 % of the deliveries did not exceed."""
        return percentiles(
            [each * 1000 for inbox in self.inboxes for each in inbox.latencies], name
        )

    @property
    def took(self) -> float:
        """Seconds from the first send to the last arrival."""
        return max(each.last_at for each in self.inboxes) - self.sent.began

    @property
    def per_second(self) -> float:
        """Deliveries a second."""
        return sum(each.unique for each in self.inboxes) / self.took


class Bench:
    """What the measurement of one contender uses; ``quick`` asks for short rounds."""

    def __init__(self, running: Running, quick: bool) -> None:
        self.running = running
        self.quick = quick

    def pick(self, quick: T, full: T) -> T:
        """Return one value in a short run and another in a full one."""
        return quick if self.quick else full

    def unique(self, name: str) -> str:
        """Return a group or channel name that no other measurement uses."""
        return f"{name}-{next(_numbers)}"

    @contextlib.contextmanager
    def workers(
        self, count: int, port: PortSpec | None = None, *, fresh: bool = False
    ) -> Iterator[list[Worker]]:
        """Run worker processes, with the contender's port or another one."""
        workers = [Worker(port or self.running.spec, fresh=fresh) for _ in range(count)]
        try:
            yield workers
        finally:
            with ThreadPoolExecutor(count) as pool:
                list(pool.map(Worker.end, workers))

    @staticmethod
    def channels(receivers: Sequence[Worker], count: int, latencies: bool = False) -> list[str]:
        """Open channels in each of the workers, and listen on them; returns all their names."""
        opening = [each.start(traffic.open_channels, count) for each in receivers]
        names = [name for opened in opening for name in opened()]
        for each in receivers:
            each.call(traffic.listen, latencies)
        return names

    def group(self, receivers: Sequence[Worker], count: int, latencies: bool = False) -> list[str]:
        """Open channels in each of the workers, and make them members of a new group."""
        group = self.unique("group")
        self.channels(receivers, count, latencies)
        for each in receivers:
            each.call(traffic.join, group)
        return [group]

    def exchange(
        self, sender: Worker, receivers: Sequence[Worker], share: Share, job: Job, *args: Any
    ) -> Exchange:
        """Let the sender do a job, which returns Sent, and the receivers drain what it sent.

        ``share`` is how many deliveries of each message each receiver gets, or of all messages in
        each, or a function from the number of messages to that.
        """
        for each in receivers:
            each.call(traffic.restart)
        sent = sender.call(job, *args)
        if isinstance(share, int):
            share = [share * sent.messages] * len(receivers)
        due = share(sent.messages) if callable(share) else share
        pairs = zip(receivers, due, strict=True)
        draining = [each.start(traffic.drain, number) for each, number in pairs]
        inboxes = [inbox for drained in draining for inbox in drained()]
        return Exchange(sent, inboxes, Tally.of(sum(due), inboxes))

    def twice(
        self, seconds: float, first: float, pair: Pair, share: Share, job: Job, *args: Any
    ) -> Exchange:
        """Exchange for ``first`` seconds, to warm up, and then for ``seconds``; both are counted.

        The seconds are the last argument of the job.
        """
        warm = self.exchange(*pair, share, job, *args, first)
        found = self.exchange(*pair, share, job, *args, seconds)
        return found._replace(tally=warm.tally + found.tally)


@dataclass(frozen=True)
class Subject:
    """Something that is measured.

    Attributes:
        name: As on the command line.
        title: As over its table.
        what: What is done, for the reader of the table.
        figures: What it finds.
        rounds: Sets one contender up and yields what a round found, for as many rounds as are
            asked for. Raises Skipped where it cannot.
        with_floor: Whether bare clients can do the same.
        long: Whether it takes long, and is therefore repeated once less.
        variants: The contenders that it measures instead of those of the run, where it compares
            settings.
    """

    name: str
    title: str
    what: str
    figures: Sequence[Figure]
    rounds: Callable[[Bench], Iterator[Outcome]]
    with_floor: bool
    long: bool
    variants: Sequence[str]

    @contextlib.contextmanager
    def measuring(self, bench: Bench) -> Iterator[Callable[[], Outcome]]:
        """Set a contender up, and yield what measures one round; either may raise Skipped."""
        if bench.running.contender.is_floor and not self.with_floor:
            raise Skipped("bare clients have no such thing")
        rounds: Any = self.rounds(bench)
        try:
            yield lambda: next(rounds)
        except WorkerError as error:
            if error.kind == "NotImplementedError":
                raise Skipped(str(error).strip().splitlines()[-1]) from None
            raise
        finally:
            rounds.close()


def subject(
    title: str,
    what: str,
    *figures: str,
    with_floor: bool = False,
    long: bool = False,
    variants: str = "",
) -> Callable[[Callable[[Bench], Iterator[Outcome]]], Subject]:
    """Make a subject of what measures it: figures as ``name: label (unit)`` or ``(unit, more)``."""
    found = [match.groups() for each in figures if (match := _FIGURE.fullmatch(each))]
    assert len(found) == len(figures), figures
    parsed = [Figure(*each[:3], bool(each[3])) for each in found]
    return lambda rounds: Subject(
        rounds.__name__, title, what, parsed, rounds, with_floor, long, variants.split()
    )
