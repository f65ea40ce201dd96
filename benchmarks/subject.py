"""What a subject of the benchmarks is, and what it is given to measure with."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from .contenders import Running
from .inbox import Faults
from .workers import Worker, WorkerError

__all__ = ["Bench", "Figure", "Outcome", "Skipped", "Subject"]

T = TypeVar("T")

_numbers = itertools.count()


class Skipped(Exception):
    """A contender cannot take part in a subject; the text says why."""


@dataclass(frozen=True)
class Figure:
    """One number that a subject finds.

    Attributes:
        name: Short name, unique in the subject.
        label: As in tables.
        unit: What it counts.
        better: Whether less or more of it is better.
    """

    name: str
    label: str
    unit: str
    better: Literal["less", "more"] = "less"


@dataclass(frozen=True)
class Outcome:
    """What one measurement of one contender found.

    Attributes:
        values: By figure.
        faults: What went wrong with the messages.
    """

    values: Mapping[str, float]
    faults: Faults = field(default_factory=Faults)


class Bench:
    """What one measurement of one contender uses.

    Args:
        running: The contender.
        quick: Whether the run is a short one.
    """

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
    def workers(self, count: int, *, fresh: bool = False) -> Iterator[list[Worker]]:
        """Run worker processes; what they log is printed when they end."""
        workers = [Worker(self.running.spec, fresh=fresh) for _ in range(count)]
        try:
            yield workers
        finally:
            for worker in workers:
                worker.begin_close()
            lines = set()
            for worker in workers:
                worker.close()
                lines.update(worker.log)
            for line in sorted(lines):
                print(f"    {self.running.contender.name} logged: {line[:200]}", file=sys.stderr)


@dataclass(frozen=True)
class Subject:
    """Something that is measured; a module of :mod:`benchmarks.subjects` defines each.

    Attributes:
        name: As on the command line.
        title: As over its table.
        what: What is done, for the reader of the table.
        figures: What it finds.
        measure: Measures one contender once. Raises Skipped where it cannot.
        with_floor: Whether bare clients can do the same.
        variants: The contenders that it measures instead of those of the run, where it compares
            settings.
        long: Whether it takes long, and is therefore repeated once less.
    """

    name: str
    title: str
    what: str
    figures: Sequence[Figure]
    measure: Callable[[Bench], Outcome]
    with_floor: bool = False
    variants: Sequence[str] = ()
    long: bool = False

    def measured(self, bench: Bench) -> Outcome:
        """Measure one contender once.

        Raises:
            Skipped: If the contender cannot take part.
        """
        if bench.running.contender.is_floor and not self.with_floor:
            raise Skipped("bare clients have no such thing")
        try:
            return self.measure(bench)
        except WorkerError as error:
            if error.kind == "NotImplementedError":
                raise Skipped(str(error).strip().splitlines()[-1]) from None
            raise
