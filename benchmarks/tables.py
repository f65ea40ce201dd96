"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from .runner import Entry, Report
from .subject import Subject
from .subjects import SUBJECTS
from .targets import verdicts

__all__ = ["markdown"]


def markdown(report: Report) -> str:
    """Return the whole report: what it was measured on, the targets, a table for each subject."""
    return "\n".join([*_about(report), *_targets(report), *_subjects(report)])


def _about(report: Report) -> Iterator[str]:
    yield from (f"- {name}: {value}" for name, value in report.about.items())
    versions = (f"{name} {version}" for name, version in sorted(report.versions.items()))
    yield f"- versions: {', '.join(versions)}"
    yield from (f"- left out: {name}: {reason}" for name, reason in report.skipped.items())
    yield ""


def _targets(report: Report) -> Iterator[str]:
    judged = list(verdicts(report))
    if judged:
        yield "### Targets"
        yield ""
        rows = [[each.what, each.found, "met" if each.met else "**missed**"] for each in judged]
        yield from _table(["target", "found", ""], rows)


def _subjects(report: Report) -> Iterator[str]:
    for name, entries in report.subjects.items():
        subject = SUBJECTS[name]
        measured = {each: entry for each, entry in entries.items() if entry.samples}
        yield f"### {subject.title}"
        yield ""
        yield subject.what
        yield ""
        if measured:
            yield from _figures(subject, measured, report)
        for each, entry in entries.items():
            if entry.reason:
                yield f"Not measured: {report.labels[each]}: {entry.reason}"
                yield ""


def _figures(subject: Subject, entries: dict[str, Entry], report: Report) -> Iterator[str]:
    """Figures down, contenders across: there are more figures than contenders."""
    heads = ["", *(report.labels[each] for each in entries)]
    rows = [
        [
            f"{figure.label} ({figure.unit})",
            *(_cell(entry.samples.get(figure.name, [])) for entry in entries.values()),
        ]
        for figure in subject.figures
    ]
    faults = [entry.faults for entry in entries.values()]
    if any(each.expected for each in faults):
        rows.append(["deliveries expected", *(f"{each.expected:,}" for each in faults)])
        for kind in ("lost", "twice", "out_of_order"):
            values = [getattr(each, kind) for each in faults]
            rows.append([kind.replace("_", " "), *(f"{value:,}" for value in values)])
    yield from _table(heads, rows)


def _cell(samples: Sequence[float]) -> str:
    if not samples:
        return "-"
    middle = _number(median(samples))
    if len(samples) == 1:
        return middle
    return f"{middle} ({_number(min(samples))} to {_number(max(samples))})"


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|---|{'---:|' * (len(heads) - 1)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""
