"""Two versions of the layer in one run, in turns: ``python -m benchmarks pair --against PATH``.

Both are set up at the same time, and measured in rounds one after the other, so that whatever else
changes on the machine changes for both. Of each figure every round gives a ratio, after by before;
the machine's own noise is what these ratios scatter by.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from statistics import median, stdev

from .contenders import Contender
from .report import Entry, measure
from .subject import Bench, Figure, Subject
from .tables import number

HEADS = ("", "before", "after", "after : before", "how much better", "")

_SETUPS = 2
_BOUND = 1.03


def compare(
    sides: Sequence[Contender], subjects: Sequence[Subject], minutes: float
) -> tuple[list[list[str]], list[str]]:
    """Measure both in every subject, for so many minutes; returns the rows of a table with the
    heads ``HEADS``, and what failed.
    """
    entries = {each.name: (Entry(), Entry()) for each in subjects}
    turns = [each for _ in range(_SETUPS) for each in subjects]
    end = time.monotonic() + minutes * 60
    for place, subject in enumerate(turns):
        # What is left is shared by what is still to come.
        began = time.monotonic()
        share = max(0.0, end - began) / (len(turns) - place)
        benches = [Bench(side, quick=True) for side in sides]
        rounds = measure(subject, benches, entries[subject.name], share)
        took = time.monotonic() - began
        print(f"  {subject.name}: {rounds} rounds in {took:.0f} s", file=sys.stderr)
    rows = [
        _row(subject, figure, *(each.samples[figure.name] for each in entries[subject.name]))
        for subject in subjects
        for figure in subject.figures
        if figure.name in entries[subject.name][1].samples
    ]
    failed = [
        f"{name}, {side.name}: {what}"
        for name, both in entries.items()
        for side, entry in zip(sides, both, strict=True)
        for what in (entry.reason, entry.faults.faults and entry.faults)
        if what
    ]
    return rows, failed


def _row(
    subject: Subject, figure: Figure, before: Sequence[float], after: Sequence[float]
) -> list[str]:
    pairs = zip(before, after, strict=True)
    ratios = [(b / a if figure.more else a / b) ** -1 if a and b else 1.0 for b, a in pairs]
    ratio = median(ratios)
    # Of the median of normally distributed ratios.
    doubt = 1.25 * 1.96 * stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else 0.0
    word = "worse" if ratio + doubt < 1 / _BOUND else "better" if ratio - doubt > _BOUND else ""
    if not word and ratio < 1 / _BOUND:
        word = "worse?"
    return [
        f"{subject.name}: {figure.label} ({figure.unit})",
        number(median(before)),
        number(median(after)),
        f"{median(after) / median(before):.3f}" if median(before) else "",
        f"{ratio:.3f} ± {doubt:.3f}",
        word,
    ]
