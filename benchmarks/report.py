"""Runs the subjects, contenders in turns, and keeps what they found."""

from __future__ import annotations

import itertools
import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from tests.support.counting import Tally

from .contenders import Contender, Started
from .servers import Skipped
from .subject import Bench, Subject
from .subjects import SUBJECTS


@dataclass
class Entry:
    """What was found for one contender in one subject.

    Attributes:
        samples: Values of each figure, one a repetition.
        faults: What became of all messages.
        reason: Why it was not measured, or not every time.
        skipped: Whether it cannot be measured at all.
    """

    samples: dict[str, list[float]] = field(default_factory=dict)
    faults: Tally = field(default_factory=Tally)
    reason: str = ""
    skipped: bool = False

    def add(self, values: Mapping[str, float], tally: Tally) -> None:
        """Add a repetition: the values by figure, and what became of the messages."""
        for name, value in values.items():
            self.samples.setdefault(name, []).append(value)
        self.faults += tally


@dataclass
class Report:
    """A whole run: how it was made, of what, and entries by subject and contender."""

    about: dict[str, str]
    versions: dict[str, str]
    labels: dict[str, str]
    skipped: dict[str, str]
    subjects: dict[str, dict[str, Entry]] = field(default_factory=dict)

    def samples(self, figure: str, contender: str) -> list[float]:
        """Return what was found for a figure, ``subject.name``, of a contender."""
        subject, _, name = figure.partition(".")
        entry = self.subjects.get(subject, {}).get(contender)
        return entry.samples.get(name, []) if entry else []

    def contenders(self, *figures: str) -> list[str]:
        """Return the contenders for which one of the figures was found."""
        return [name for name in self.labels if any(self.samples(each, name) for each in figures)]


def run(
    started: Started, subjects: Sequence[Subject], chosen: Sequence[str], times: int, quick: bool
) -> Iterator[Report]:
    """Measure contenders in turns (A B, A B); yields the report so far after every subject.

    ``chosen`` are the names of the contenders that subjects without variants measure, ``times`` is
    how often, long subjects once less, and ``quick`` asks for short rounds.
    """
    found = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    processor = found[1] if found else platform.machine()
    about = {
        "measured": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{processor}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "Python": platform.python_version(),
        "repetitions": str(times),
        "kind": "quick" if quick else "full",
    }
    by_name = {each.name: each for each in started.running}
    labels = {name: each.label for name, each in by_name.items()}
    report = Report(about, started.versions, labels, started.skipped)
    warm_up([by_name[name] for name in chosen if name in by_name], 10 if quick else 45)
    began = time.monotonic()
    for subject in subjects:
        taking_part = [by_name[name] for name in subject.variants or chosen if name in by_name]
        entries = {each.name: Entry() for each in taking_part}
        report.subjects[subject.name] = entries
        for repetition in range(max(1, times - subject.long)):
            for each in taking_part:
                entry = entries[each.name]
                if not entry.skipped:
                    turn = time.monotonic()
                    measure(subject, [Bench(each, quick)], [entry])
                    took = f"{each.name} ({time.monotonic() - turn:.1f} s)"
                    _say(f"{subject.name} #{repetition + 1} {took}", entry)
        report.about["duration"] = f"{(time.monotonic() - began) / 60:.0f} min"
        yield report


def warm_up(contenders: Sequence[Contender], seconds: float) -> None:
    """Load those on Kafka for some seconds: its JVM compiles its hot code while it runs."""
    end = time.monotonic() + seconds
    for each in itertools.cycle(each for each in contenders if each.server == "kafka"):
        if time.monotonic() >= end:
            return
        measure(SUBJECTS["throughput"], [Bench(each, quick=True)], [Entry()])


def measure(
    subject: Subject, benches: Sequence[Bench], entries: Sequence[Entry], seconds: float = 0.0
) -> int:
    """Set contenders up and measure them in turns, at least once, while there is time.

    Adds to each one's entry what was found, or why it failed; returns the number of rounds.
    """
    began = time.monotonic()
    number = 0
    try:
        with ExitStack() as stack:
            rounds = []
            for bench in benches:
                if not bench.contender.backend and not subject.with_floor:
                    raise Skipped("bare clients have no such thing")
                rounds.append(stack.enter_context(closing(subject.rounds(bench))))
            while not number or (time.monotonic() - began) * (number + 1) / number < seconds:
                # Which is first changes with each round.
                order = range(len(rounds))[:: 1 if number % 2 else -1]
                found = {each: next(rounds[each]) for each in order}
                for each, values in found.items():
                    entries[each].add(values, benches[each].tally)
                    benches[each].tally = Tally()
                number += 1
    except (Skipped, NotImplementedError) as reason:
        for entry in entries:
            entry.reason, entry.skipped = str(reason), True
    except Exception as error:
        # One layer that fails must not cost the figures of the others.
        for entry in entries:
            entry.reason = f"failed: {(str(error).strip() or repr(error)).splitlines()[-1]}"
        traceback.print_exception(error)
    return number


def _say(what: str, entry: Entry) -> None:
    values = ", ".join(f"{figure} {values[-1]:,.4g}" for figure, values in entry.samples.items())
    said = "; ".join(filter(None, [entry.reason, values, entry.samples and str(entry.faults)]))
    print(f"  {what}: {said}", file=sys.stderr)
