"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from .runner import Entry, Report
from .subject import Subject
from .subjects import SUBJECTS
from .targets import verdicts

__all__ = ["markdown", "sections"]


_FAULTS = {"lost": "lost", "twice": "twice", "out_of_order": "out of order"}


def markdown(report: Report) -> str:
    """Return the whole report: what it was measured on, the targets, a table for each subject."""
    parts = sections(report)
    titles = {"targets": "Targets", **{name: SUBJECTS[name].title for name in report.subjects}}
    return "\n".join(
        f"### {titles[name]}\n\n{text}" if name in titles else text for name, text in parts.items()
    )


def sections(report: Report, pictures: Mapping[str, Sequence[str]] | None = None) -> dict[str, str]:
    """Return the parts of a report without their headings: about, targets, and the subjects.

    Args:
        report: The report.
        pictures: Markdown of the pictures of each subject.
    """
    parts = {"about": _about(report), "targets": _targets(report)}
    for name in report.subjects:
        parts[name] = _subject(report, name, (pictures or {}).get(name, ()))
    return {name: "\n".join(lines) for name, lines in parts.items()}


def _about(report: Report) -> Iterator[str]:
    yield from (f"- {name}: {value}" for name, value in report.about.items())
    versions = (f"{name} {version}" for name, version in sorted(report.versions.items()))
    yield f"- versions: {', '.join(versions)}"
    yield from (f"- left out: {name}: {reason}" for name, reason in report.skipped.items())
    yield ""


def _targets(report: Report) -> Iterator[str]:
    judged = list(verdicts(report))
    if judged:
        rows = [
            [each.what, each.found, *each.floors, "met" if each.met else "**missed**"]
            for each in judged
        ]
        yield from _table(["target", "found", "bare clients", "smallest layer", ""], rows)


def _subject(report: Report, name: str, pictures: Sequence[str]) -> Iterator[str]:
    subject = SUBJECTS[name]
    entries = report.subjects[name]
    measured = {each: entry for each, entry in entries.items() if entry.samples}
    yield subject.what
    yield ""
    if measured:
        yield from (_variants if subject.variants else _figures)(subject, measured, report)
    for each, entry in entries.items():
        if entry.reason and not report.labels[each].startswith("floor"):
            what = "Not measured every time" if entry.samples else "Not measured"
            yield f"{what}: {report.labels[each]}: {entry.reason}"
            yield ""
    for picture in pictures:
        yield picture
        yield ""


def _variants(subject: Subject, entries: dict[str, Entry], report: Report) -> Iterator[str]:
    """Contenders down, figures across: there are more variants of settings than figures."""
    heads = ["", *(f"{figure.label} ({figure.unit})" for figure in subject.figures)]
    rows = [
        [
            report.labels[name],
            *(_cell(entry.samples.get(figure.name, [])) for figure in subject.figures),
            f"{entry.faults.expected:,}",
            *(f"{getattr(entry.faults, kind):,}" for kind in _FAULTS),
        ]
        for name, entry in entries.items()
    ]
    yield from _table([*heads, "expected", *_FAULTS.values()], rows)


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
        for kind, label in _FAULTS.items():
            values = [getattr(each, kind) for each in faults]
            rows.append([label, *(f"{value:,}" for value in values)])
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
