"""What a subject of the benchmarks is, and what it is given to measure with."""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from tests.support.counting import Inbox, Tally, percentile

from . import traffic
from .contenders import Contender
from .workers import Job, PortSpec, Worker, call_all

T = TypeVar("T")
Rounds = Generator[Mapping[str, float], None, None]

_numbers = itertools.count()
_FIGURE = re.compile(r"(\w+): (.+) \((.+?)(, more)?\)")


class Figure(NamedTuple):
    """One number that a subject finds: its name there, its label and unit in tables, and whether
    more of it is better.
    """

    name: str
    label: str
    unit: str
    more: bool


def percentiles(values: Sequence[float], name: str = "") -> dict[str, float]:
    """Return the figures ``p50`` and ``p99`` of values."""
    return {f"{name}p50": percentile(values, 0.50), f"{name}p99": percentile(values, 0.99)}


class Line(NamedTuple):
    """A process that sends, those that receive, what is sent to, and what is to come of it.

    Attributes:
        each: How many deliveries a message makes in all.
        quiet: For how many seconds nothing must come before messages count as lost.
        late: For how many seconds nothing must come after all came: some may come twice.
    """

    sender: Worker
    receivers: Sequence[Worker]
    method: str
    addresses: Sequence[str]
    each: int = 1
    quiet: float = 1.5
    late: float = 0.0

    def start(self, job: Job, *args: Any) -> Callable[[], traffic.Sent]:
        """Let the sender begin a job that sends; what is returned waits for what it sent."""
        return self.sender.start(job, self.method, self.addresses, *args)

    def send(self, job: Job, *args: Any) -> traffic.Sent:
        """Let the sender do a job that sends."""
        return self.start(job, *args)()


class Exchange(NamedTuple):
    """What one process sent, and what others got of it.

    Attributes:
        deliveries: How many of the expected ones there were.
        took: Seconds from the first send to the last arrival.
        cpu: Seconds of processor that the receivers took.
    """

    sent: traffic.Sent
    inboxes: Sequence[Inbox]
    tally: Tally
    deliveries: int
    took: float
    cpu: float = 0.0

    def ms(self, name: str = "") -> dict[str, float]:
        """The milliseconds that 50 and 99 % of the deliveries did not exceed."""
        latencies = [each * 1000 for inbox in self.inboxes for each in inbox.latencies]
        return percentiles(latencies, name)

    @property
    def per_second(self) -> float:
        """Deliveries a second."""
        return self.deliveries / self.took


class Bench:
    """What the measurement of one contender uses; ``quick`` asks for short rounds.

    Attributes:
        tally: What became of all messages of this round.
    """

    def __init__(self, contender: Contender, quick: bool) -> None:
        self.contender = contender
        self.quick = quick
        self.tally = Tally()

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
        workers = [Worker(port or self.contender, fresh=fresh) for _ in range(count)]
        try:
            yield workers
        finally:
            with ThreadPoolExecutor(count) as pool:
                list(pool.map(Worker.end, workers))

    def channels(self, receivers: Sequence[Worker], count: int, timed: bool = False) -> list[str]:
        """Open channels in each of the workers, and listen on them; returns all their names."""
        opened = call_all(receivers, traffic.open_channels, count, timed)
        return [name for names in opened for name in names]

    def group(
        self, receivers: Sequence[Worker], sizes: Iterable[int | None] = itertools.repeat(None)
    ) -> str:
        """Make so many opened channels of each worker members of a new group; None: all."""
        group = self.unique("group")
        for each, size in zip(receivers, sizes, strict=False):
            each.call(traffic.join, group, size)
        return group

    @contextlib.contextmanager
    def to_channels(self, count: int, timed: bool = False) -> Iterator[Line]:
        """Run a process that sends to so many channels of another."""
        with self.workers(2) as (sender, receiver):
            yield Line(sender, [receiver], "send", self.channels([receiver], count, timed))

    @contextlib.contextmanager
    def to_group(self, members: int, timed: bool = False) -> Iterator[Line]:
        """Run a process that sends to a group with so many members in each of two others."""
        with self.workers(3) as (sender, *receivers):
            self.channels(receivers, members, timed)
            group = self.group(receivers)
            yield Line(sender, receivers, "group_send", [group], 2 * members)

    def exchange(self, line: Line, job: Job, *args: Any) -> Exchange:
        """Let the sender do a job that sends, and wait until the receivers got what it sent."""
        before = sum(call_all(line.receivers, traffic.restart))
        sent = line.send(job, *args)
        found = self.drained(line, sent, sent.messages * line.each)
        used = sum(call_all(line.receivers, traffic.cpu_seconds)) - before
        return found._replace(cpu=used)

    def drained(self, line: Line, sent: traffic.Sent, expected: int) -> Exchange:
        """Wait until the receivers got so many messages, or no more come; counts what they got."""
        self.settle(line, expected)
        taken = call_all(line.receivers, traffic.inboxes)
        inboxes = [inbox for inboxes in taken for inbox in inboxes]
        tally = Tally.of(expected, inboxes)
        self.tally += tally
        took = max(each.last_at for each in inboxes) - sent.began
        return Exchange(sent, inboxes, tally, expected - tally.lost, took)

    def settle(self, line: Line, expected: int) -> None:
        """Wait until the receivers got so many messages, or no more come."""
        seen, since = -1, 0.0
        while True:
            unique = sum(call_all(line.receivers, traffic.count))
            if unique != seen:
                seen, since = unique, time.monotonic()
            if time.monotonic() - since >= (line.quiet if unique < expected else line.late):
                return
            time.sleep(0.02)

    def twice(self, line: Line, seconds: float, first: float, job: Job, *args: Any) -> Exchange:
        """Exchange for ``first`` seconds, to warm up, and then for ``seconds``; both are counted.

        The seconds are the last argument of the job.
        """
        self.exchange(line, job, *args, first)
        return self.exchange(line, job, *args, seconds)


@dataclass(frozen=True)
class Subject:
    """Something that is measured.

    Attributes:
        name: As on the command line.
        title: As over its table.
        what: What is done, for the reader of the table.
        figures: What it finds.
        rounds: Sets one contender up and yields the values of each round that is asked for. Raises
            Skipped, or NotImplementedError in a worker, where the contender has no such thing.
        with_floor: Whether bare clients can do the same.
        long: Whether it takes long, and is therefore repeated once less.
        variants: The contenders that it measures instead of those of the run, where it compares
            settings.
    """

    name: str
    title: str
    what: str
    figures: Sequence[Figure]
    rounds: Callable[[Bench], Rounds]
    with_floor: bool = False
    long: bool = False
    variants: Sequence[str] = ()


def subject(
    title: str, what: str, *figures: str, **options: Any
) -> Callable[[Callable[[Bench], Rounds]], Subject]:
    """Make a subject of its rounds: figures as ``name: label (unit)`` or ``(unit, more)``."""
    found = [match.groups() for each in figures if (match := _FIGURE.fullmatch(each))]
    assert len(found) == len(figures), figures
    parsed = [Figure(*each[:3], bool(each[3])) for each in found]
    return lambda rounds: Subject(rounds.__name__, title, what, parsed, rounds, **options)
