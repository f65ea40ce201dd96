"""Runs the subjects, contenders in turns, and keeps what they found."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

from tests.support.counting import Tally

from . import servers
from .contenders import Running, Started
from .subject import Bench, Outcome, Skipped, Subject
from .subjects import SUBJECTS


@dataclass
class Entry:
    """What was found for one contender in one subject.

    Attributes:
        samples: Values of each figure, one a repetition.
        faults: What became of the messages, over all repetitions.
        reason: Why it was not measured, or not every time.
        skipped: Whether it cannot be measured at all.
    """

    samples: dict[str, list[float]] = field(default_factory=dict)
    faults: Tally = field(default_factory=Tally)
    reason: str = ""
    skipped: bool = False

    def add(self, outcome: Outcome) -> None:
        """Add a repetition."""
        for name, value in outcome.values.items():
            self.samples.setdefault(name, []).append(value)
        self.faults += outcome.tally


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

    def median(self, figure: str, contender: str) -> float | None:
        """Return the median of these samples; None where there is none."""
        samples = self.samples(figure, contender)
        return median(samples) if samples else None

    def contenders(self, *figures: str) -> list[str]:
        """Return the contenders for which one of the figures was found."""
        return [name for name in self.labels if any(self.samples(each, name) for each in figures)]


def run(
    started: Started,
    subjects: Sequence[Subject],
    chosen: Sequence[str],
    repetitions: int,
    quick: bool,
    keep: Callable[[Report], None],
) -> Report:
    """Measure every contender in every subject; contenders take turns (A B, A B).

    Args:
        started: The contenders.
        subjects: What to measure.
        chosen: Names of the contenders that every subject without variants measures.
        repetitions: How often; long subjects once less.
        quick: Whether to measure for a short time.
        keep: Called with the report so far after every subject.
    """
    about = {
        "measured": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "Python": platform.python_version(),
        "repetitions": str(repetitions),
        "kind": "quick" if quick else "full",
    }
    by_name = {each.contender.name: each for each in started.running}
    labels = {name: each.contender.label for name, each in by_name.items()}
    report = Report(about, started.versions, labels, started.skipped)
    warm_up([by_name[name] for name in chosen if name in by_name], 10 if quick else 45)
    began = time.monotonic()
    for subject in subjects:
        taking_part = [by_name[name] for name in subject.variants or chosen if name in by_name]
        report.subjects[subject.name] = {each.contender.name: Entry() for each in taking_part}
        for repetition in range(max(1, repetitions - subject.long)):
            for running in taking_part:
                entry = report.subjects[subject.name][running.contender.name]
                if not entry.skipped:
                    turn = time.monotonic()
                    _measure(subject, Bench(running, quick), entry)
                    took = f"{running.contender.name} ({time.monotonic() - turn:.1f} s)"
                    _say(f"{subject.name} #{repetition + 1} {took}", entry)
        report.about["duration"] = f"{(time.monotonic() - began) / 60:.0f} min"
        keep(report)
    return report


def warm_up(contenders: Sequence[Running], seconds: float) -> None:
    """Load those on Kafka for some seconds: its JVM compiles its hot code while it runs."""
    contenders = [each for each in contenders if each.contender.server is servers.kafka]
    end = time.monotonic() + seconds
    while contenders and time.monotonic() < end:
        for running in contenders:
            if time.monotonic() < end:
                _measure(SUBJECTS["throughput"], Bench(running, quick=True), Entry())


def _measure(subject: Subject, bench: Bench, entry: Entry) -> None:
    try:
        with subject.measuring(bench) as measure:
            entry.add(measure())
    except Skipped as reason:
        entry.reason, entry.skipped = str(reason), True
    except Exception as error:
        # One layer that fails must not cost the figures of the others.
        entry.reason = f"failed: {str(error).strip().splitlines()[-1]}"
        print(error, file=sys.stderr)


def _say(what: str, entry: Entry) -> None:
    values = ", ".join(f"{figure} {values[-1]:,.4g}" for figure, values in entry.samples.items())
    said = "; ".join(filter(None, [entry.reason, values, entry.samples and str(entry.faults)]))
    print(f"  {what}: {said}", file=sys.stderr)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
