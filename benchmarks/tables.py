"""A report as Markdown, with what our layer is to reach, and in the marked places of a page.

A place begins with ``<!-- benchmark: NAME -->`` and ends with ``<!-- end -->``, each on a line of
its own; NAME is a subject's, ``about`` or ``targets``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from statistics import median

from tests.support.counting import Tally

from .report import Report
from .subjects import SUBJECTS
from .subjects.jobs import WORKERS
from .subjects.memberships import SIZES

_FAULTS = ("lost", "twice", "out of order")
_OURS, _FLOOR = "kafka", "floor"
_FLOORS = (_FLOOR, "floor:layer")
_PEER = "best peer"
_FLAT = 1.5
_MET = {True: "met", False: "**missed**"}

_TARGETS: Sequence[tuple[str, float, str]] = (
    # figure, bound, and what its ratio is to; "" for a bound of the value itself
    ("latency.idle_p50", 1.4, _FLOOR),
    ("latency.idle_p50", 2.5, "redis-pubsub"),
    ("latency.idle_p99", 5, ""),
    ("latency.busy_p99", 10, ""),
    ("throughput.one", 2, _PEER),
    ("throughput.many", 2, _PEER),
    ("fanout.deliveries", 2, _PEER),
    ("members.last_5000", 0.5, _PEER),
    *((f"members.call_{size}", 1, _PEER) for size in SIZES),
    ("synchronous.best", 30, _PEER),
    ("membership.first", 20, _PEER),
    ("membership.further", 20, _PEER),
    *((f"jobs.workers_{count}", 1, "redis-core") for count in WORKERS),
    ("footprint.idle_cpu", 1, ""),
    ("startup.received", 500, ""),
)

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


def sections(report: Report, pictures: Sequence[tuple[str, str]] = ()) -> dict[str, str]:
    """Return the parts of a report without their headings: about, targets, and the subjects, with
    pictures: the subject and the Markdown of each.
    """
    judged = list(_verdicts(report))
    heads = ["target", "found", "bare clients", "smallest layer", ""]
    parts = {"about": _about(report), "targets": table(heads, judged) if judged else iter([])}
    for name in report.subjects:
        parts[name] = _subject(report, name, [text for of, text in pictures if of == name])
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


def _verdicts(report: Report) -> Iterator[Sequence[str]]:
    """Judge our layer's figures, those that were measured: what was asked and found, what bare
    clients and the smallest layer reach ("" where one does not take part), and whether it is met.
    """
    for target in _TARGETS:
        yield from _judge(report, *target)
    calls = [_medians(report, f"members.call_{size}").get(_OURS, 0.0) for size in SIZES]
    if all(calls):
        spread = max(calls) / min(calls)
        what = f"group_send call: flat from {SIZES[0]} to {SIZES[-1]:,} members (within {_FLAT})"
        yield what, f"{spread:.2g} times", "", "", _MET[spread <= _FLAT]
    tallies = [each[_OURS].faults for each in report.subjects.values() if _OURS in each]
    if tallies:
        total = sum(tallies, Tally())
        found = f"{total.lost}, {total.twice} and {total.disordered} of {total.expected:,}"
        yield "Nothing lost, twice or out of order", found, "", "", _MET[not total.faults]


def _judge(report: Report, name: str, bound: float, against: str) -> Iterator[Sequence[str]]:
    subject = SUBJECTS[name.partition(".")[0]]
    figure = next(each for each in subject.figures if each.name == name.partition(".")[2])
    found = _medians(report, name)
    other: float | None = 1.0
    if against == _PEER:
        peers = [found[each] for each in found if each.partition(":")[0] not in (_OURS, _FLOOR)]
        other = (max if figure.more else min)(peers, default=None)
    elif against:
        other = found.get(against)
    if _OURS not in found or not other:
        return
    value = found[_OURS] / other
    label = report.labels.get(against, against)
    unit = "times" if label else figure.unit
    asked = f"{bound:g} times {label}" if label else f"{bound:g} {unit}"
    yield (
        f"{subject.title}, {figure.label}: at {'least' if figure.more else 'most'} {asked}",
        f"{value:.3g} {unit}",
        *(
            f"{found[each] / other:.3g} {unit}" if each in found and each != against else ""
            for each in _FLOORS
        ),
        _MET[value >= bound if figure.more else value <= bound],
    )


def _medians(report: Report, figure: str) -> dict[str, float]:
    return {each: median(report.samples(figure, each)) for each in report.contenders(figure)}


def _subject(report: Report, name: str, pictures: Sequence[str]) -> Iterator[str]:
    subject, entries = SUBJECTS[name], report.subjects[name]
    measured = {report.labels[each]: entry for each, entry in entries.items() if entry.samples}
    yield f"{subject.what}\n"
    if measured:
        heads = ["", *(f"{figure.label} ({figure.unit})" for figure in subject.figures)]
        if any(entry.faults.expected for entry in measured.values()):
            heads += ["expected" if subject.variants else "deliveries expected", *_FAULTS]
        rows = [heads]
        for label, entry in measured.items():
            cells = [_cell(entry.samples.get(figure.name, [])) for figure in subject.figures]
            counts = [f"{count:,}" for count in astuple(entry.faults)]
            rows.append([label, *cells, *counts][: len(heads)])
        # Contenders across; but where there are more of them than figures, down.
        if not subject.variants:
            rows = [list(row) for row in zip(*rows, strict=True)]
        yield from table(rows[0], rows[1:])
    for each, entry in entries.items():
        if entry.reason and not report.labels[each].startswith("floor"):
            what = "Not measured every time" if entry.samples else "Not measured"
            yield f"{what}: {report.labels[each]}: {entry.reason}\n"
    yield from (f"{picture}\n" for picture in pictures)


def _cell(samples: Sequence[float]) -> str:
    if len(samples) < 2:
        return number(samples[0]) if samples else "-"
    return f"{number(median(samples))} ({number(min(samples))} to {number(max(samples))})"
