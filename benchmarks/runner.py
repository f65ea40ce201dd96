"""Runs the subjects: warm-up, interleaved repetitions, and what they found."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from . import machine, servers
from .contenders import Running, Started
from .inbox import Faults
from .subject import Bench, Skipped, Subject
from .subjects import throughput

__all__ = ["Entry", "Report", "run"]


@dataclass
class Entry:
    """What was found for one contender in one subject.

    Attributes:
        samples: Values of each figure, one a repetition.
        faults: What went wrong with the messages, over all repetitions.
        reason: Why it was not measured, or not every time.
        skipped: Whether it cannot be measured at all.
    """

    samples: dict[str, list[float]] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    reason: str = ""
    skipped: bool = False


@dataclass
class Report:
    """A whole run.

    Attributes:
        about: When, where and how; name to value.
        versions: Of servers and packages.
        labels: Of contenders, by name.
        skipped: Contenders that were not measured at all, with the reason.
        subjects: Entries by subject and contender.
    """

    about: dict[str, str]
    versions: dict[str, str]
    labels: dict[str, str]
    skipped: dict[str, str]
    subjects: dict[str, dict[str, Entry]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Report:
        """Read what :meth:`to_json` returned."""
        subjects = {
            subject: {
                name: Entry(**{**each, "faults": Faults(**each["faults"])})
                for name, each in entries.items()
            }
            for subject, entries in values["subjects"].items()
        }
        return cls(**{**values, "subjects": subjects})


def run(
    started: Started,
    subjects: Sequence[Subject],
    chosen: Sequence[str],
    *,
    quick: bool,
    repetitions: int,
    warm_up: float,
    keep: Callable[[Report], None],
) -> Report:
    """Measure every contender in every subject.

    Args:
        started: The contenders.
        subjects: What to measure.
        chosen: Names of the contenders that every subject without variants measures.
        quick: Whether to measure for a short time.
        repetitions: How often, long subjects once less; contenders take turns (A B, A B).
        warm_up: Seconds of load on Kafka that come first and do not count.
        keep: Called with the report so far after every subject.
    """
    report = Report(
        {
            "measured": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            **machine.describe(),
            "repetitions": str(repetitions),
            "kind": "quick" if quick else "full",
        },
        started.versions,
        {each.contender.name: each.contender.label for each in started.running},
        started.skipped,
    )
    by_name = {each.contender.name: each for each in started.running}
    on_kafka = [each for each in by_name.values() if each.contender.server is servers.kafka]
    _warm_up([each for each in on_kafka if each.contender.name in chosen], warm_up)
    began = time.monotonic()
    for subject in subjects:
        names = subject.variants or chosen
        taking_part = [by_name[name] for name in names if name in by_name]
        entries = {each.contender.name: Entry() for each in taking_part}
        report.subjects[subject.name] = entries
        for repetition in range(max(1, repetitions - subject.long)):
            for running in taking_part:
                entry = entries[running.contender.name]
                if not entry.skipped:
                    turn = time.monotonic()
                    _measure_once(subject, Bench(running, quick), entry)
                    _say(subject, running.contender.name, repetition, entry, turn)
        report.about["duration"] = f"{(time.monotonic() - began) / 60:.0f} min"
        keep(report)
    return report


def _measure_once(subject: Subject, bench: Bench, entry: Entry) -> None:
    try:
        outcome = subject.measured(bench)
    except Skipped as reason:
        entry.reason, entry.skipped = str(reason), True
        return
    except Exception as error:
        # One layer that fails must not cost the figures of the others.
        entry.reason = f"failed: {str(error).strip().splitlines()[-1]}"
        print(error, file=sys.stderr)
        return
    for name, value in outcome.values.items():
        entry.samples.setdefault(name, []).append(value)
    entry.faults += outcome.faults


def _say(subject: Subject, name: str, repetition: int, entry: Entry, turn: float) -> None:
    values = ", ".join(f"{figure} {values[-1]:,.4g}" for figure, values in entry.samples.items())
    said = "; ".join(filter(None, [entry.reason, values, entry.samples and str(entry.faults)]))
    took = time.monotonic() - turn
    print(f"  {subject.name} #{repetition + 1} {name} ({took:.1f} s): {said}", file=sys.stderr)


def _warm_up(contenders: Sequence[Running], seconds: float) -> None:
    if not contenders or seconds <= 0:
        return
    print(f"  warming up for {seconds:g} s", file=sys.stderr)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for running in contenders:
            _measure_once(throughput.SUBJECT, Bench(running, quick=True), Entry())
            if time.monotonic() >= end:
                return
