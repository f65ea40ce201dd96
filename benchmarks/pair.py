"""Two versions of the layer in one run, in turns: ``python -m benchmarks pair --against PATH``.

Both are set up at the same time, and measured in rounds one after the other, so that whatever else
changes on the machine changes for both. Of each figure every round gives a ratio, after by before;
the machine's own noise is what these ratios scatter by.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from statistics import median, stdev
from typing import NamedTuple

from .contenders import Running
from .report import Entry
from .subject import Bench, Figure, Subject
from .tables import number, table

_SETUPS = 2
_BOUND = 1.03


class Pair(NamedTuple):
    """A figure before and after, and the ratio of each round."""

    subject: Subject
    figure: Figure
    before: Sequence[float]
    after: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """After by before, above 1 where after is better."""
        pairs = zip(self.before, self.after, strict=True)
        return [(b / a if self.figure.more else a / b) ** -1 if a and b else 1.0 for b, a in pairs]

    def row(self) -> list[str]:
        """Return it as a row of the table."""
        ratios = self.ratios
        ratio = median(ratios)
        # Of the median of normally distributed ratios.
        doubt = 1.25 * 1.96 * stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else 0.0
        word = "worse" if ratio + doubt < 1 / _BOUND else "better" if ratio - doubt > _BOUND else ""
        if not word and ratio < 1 / _BOUND:
            word = "worse?"
        return [
            f"{self.subject.name}: {self.figure.label} ({self.figure.unit})",
            number(median(self.before)),
            number(median(self.after)),
            f"{median(self.after) / median(self.before):.3f}" if median(self.before) else "",
            f"{ratio:.3f} ± {doubt:.3f}",
            word,
        ]


def compare(
    sides: Sequence[Running], subjects: Sequence[Subject], minutes: float
) -> tuple[list[Pair], list[str]]:
    """Measure both in every subject, for so many minutes; returns what failed, too."""
    entries = {each.name: (Entry(), Entry()) for each in subjects}
    failed = []
    end = time.monotonic() + minutes * 60
    for setup in range(_SETUPS):
        for place, subject in enumerate(subjects):
            # What is left is shared by what is still to come.
            left = (_SETUPS - setup) * len(subjects) - place
            share = max(0.0, end - time.monotonic()) / left
            try:
                _rounds(sides, subject, entries[subject.name], share)
            except Exception as error:
                failed.append(f"{subject.name}: {str(error).strip().splitlines()[-1]}")
                print(error, file=sys.stderr)
    pairs = [
        Pair(subject, figure, *(each.samples[figure.name] for each in entries[subject.name]))
        for subject in subjects
        for figure in subject.figures
        if figure.name in entries[subject.name][1].samples
    ]
    failed += [
        f"{name}, {side}: {entry.faults}"
        for name, both in entries.items()
        for side, entry in zip(("before", "after"), both, strict=True)
        if entry.faults.faults
    ]
    return pairs, failed


def report(pairs: Sequence[Pair]) -> Iterator[str]:
    """Return the lines of a table; the last ratio is above 1 where after is better."""
    heads = ["", "before", "after", "after : before", "how much better", ""]
    yield from table(heads, [each.row() for each in pairs])


def _rounds(
    sides: Sequence[Running], subject: Subject, entries: Sequence[Entry], seconds: float
) -> None:
    """Set both up and measure them in turns, at least once, while there is time."""
    began = time.monotonic()
    with ExitStack() as stack:
        benches = [Bench(side, quick=True) for side in sides]
        measuring = [stack.enter_context(subject.measuring(each)) for each in benches]
        number = 0
        while not number or (time.monotonic() - began) * (number + 1) / number < seconds:
            # Which side is first changes with each round.
            order = (0, 1) if number % 2 else (1, 0)
            outcomes = {side: measuring[side]() for side in order}
            for side, outcome in outcomes.items():
                entries[side].add(outcome)
            number += 1
    took = time.monotonic() - began
    print(f"  {subject.name}: {number} rounds in {took:.0f} s", file=sys.stderr)
