"""A report as Markdown, and in the marked places of a documentation page.

A place begins with ``<!-- benchmark: NAME -->`` and ends with ``<!-- end -->``, each on a line of
its own; NAME is a subject's, ``about`` or ``targets``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from .report import Entry, Report
from .subjects import SUBJECTS
from .targets import verdicts

__all__ = ["fill", "markdown", "number", "places", "sections", "table"]

_FAULTS = {"lost": "lost", "twice": "twice", "disordered": "out of order"}
_PLACE = re.compile(r"^<!-- benchmark: (\S+) -->\n(.*?)^<!-- end -->$", re.MULTILINE | re.DOTALL)


def places(page: str) -> list[str]:
    """Return the names of the places of a page, in order."""
    return [name for name, _ in _PLACE.findall(page)]


def fill(page: str, parts: Mapping[str, str]) -> str:
    """Return a page with its places filled anew; those without a part stay as they are."""

    def filled(place: re.Match[str]) -> str:
        name = place[1]
        if name not in parts:
            return place[0]
        return f"<!-- benchmark: {name} -->\n\n{parts[name].strip()}\n\n<!-- end -->"

    return _PLACE.sub(filled, page)


def markdown(report: Report) -> str:
    """Return the whole report: what it was measured on, the targets, a table for each subject."""
    titles = {"targets": "Targets", **{name: SUBJECTS[name].title for name in report.subjects}}
    return "\n".join(
        f"### {titles[name]}\n\n{text}" if name in titles else text
        for name, text in sections(report).items()
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


def number(value: float) -> str:
    """Return three digits of a value."""
    return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Return the lines of a table, all but its first column to the right."""
    yield f"| {' | '.join(heads)} |"
    yield f"|---|{'---:|' * (len(heads) - 1)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _about(report: Report) -> Iterator[str]:
    yield from (f"- {name}: {value}" for name, value in report.about.items())
    versions = (f"{name} {version}" for name, version in sorted(report.versions.items()))
    yield f"- versions: {', '.join(versions)}"
    yield from (f"- left out: {name}: {reason}" for name, reason in report.skipped.items())
    yield ""


def _targets(report: Report) -> Iterator[str]:
    rows = [
        [each.what, each.found, *each.floors, "met" if each.met else "**missed**"]
        for each in verdicts(report)
    ]
    if rows:
        yield from table(["target", "found", "bare clients", "smallest layer", ""], rows)


def _subject(report: Report, name: str, pictures: Sequence[str]) -> Iterator[str]:
    subject, entries = SUBJECTS[name], report.subjects[name]
    measured = {each: entry for each, entry in entries.items() if entry.samples}
    yield f"{subject.what}\n"
    if measured:
        labels = [report.labels[each] for each in measured]
        columns = [
            {
                **{
                    f"{figure.label} ({figure.unit})": _cell(entry.samples.get(figure.name, []))
                    for figure in subject.figures
                },
                **_faults(entry, "expected" if subject.variants else "deliveries expected"),
            }
            for entry in measured.values()
        ]
        names = list(columns[0])
        if not any(entry.faults.expected for entry in measured.values()):
            names = names[: len(subject.figures)]
        # Contenders across; but where there are more of them than figures, down.
        if subject.variants:
            rows = [[label, *(each[n] for n in names)] for label, each in zip(labels, columns)]  # noqa: B905
            yield from table(["", *names], rows)
        else:
            rows = [[name, *(each[name] for each in columns)] for name in names]
            yield from table(["", *labels], rows)
    for each, entry in entries.items():
        if entry.reason and not report.labels[each].startswith("floor"):
            what = "Not measured every time" if entry.samples else "Not measured"
            yield f"{what}: {report.labels[each]}: {entry.reason}\n"
    yield from (f"{picture}\n" for picture in pictures)


def _faults(entry: Entry, expected: str) -> dict[str, str]:
    found = {label: getattr(entry.faults, kind) for kind, label in _FAULTS.items()}
    return {n: f"{value:,}" for n, value in {expected: entry.faults.expected, **found}.items()}


def _cell(samples: Sequence[float]) -> str:
    if not samples:
        return "-"
    middle = number(median(samples))
    if len(samples) == 1:
        return middle
    return f"{middle} ({number(min(samples))} to {number(max(samples))})"
