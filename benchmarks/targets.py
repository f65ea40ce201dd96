"""What the layer is to reach, as ratios within one run, and whether a run reached it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .report import Report
from .subjects import SUBJECTS
from .subjects.jobs import WORKERS
from .subjects.memberships import SIZES

__all__ = ["Verdict", "verdicts"]

_OURS, _FLOOR = "kafka", "floor"
_FLOORS = (_FLOOR, "floor:layer")
_PEER = "best peer"
_FLAT = 1.5

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


class Verdict(NamedTuple):
    """One target in one run: what was asked and found, whether it is met, and what floors reach.

    Floors are bare clients and the smallest layer, judged in the same way; "" where one does not
    take part.
    """

    what: str
    found: str
    met: bool
    floors: Sequence[str] = ("",) * len(_FLOORS)


def verdicts(report: Report) -> Iterator[Verdict]:
    """Judge our layer's figures; what was not measured is left out."""
    for target in _TARGETS:
        yield from _judge(report, *target)
    calls = [report.median(f"members.call_{size}", _OURS) for size in SIZES]
    measured = [each for each in calls if each is not None]
    if len(measured) == len(SIZES):
        spread = max(measured) / min(measured)
        what = f"group_send call: flat from {SIZES[0]} to {SIZES[-1]:,} members (within {_FLAT})"
        yield Verdict(what, f"{spread:.2g} times", spread <= _FLAT)
    tallies = [each[_OURS].faults for each in report.subjects.values() if _OURS in each]
    if tallies:
        total = sum(tallies[1:], tallies[0])
        found = f"{total.lost}, {total.twice} and {total.disordered} of {total.expected:,}"
        yield Verdict("Nothing lost, twice or out of order", found, not total.faults)


def _judge(report: Report, name: str, bound: float, against: str) -> Iterator[Verdict]:
    subject = SUBJECTS[name.partition(".")[0]]
    figure = next(each for each in subject.figures if each.name == name.partition(".")[2])
    ours = report.median(name, _OURS)
    other: float | None = 1.0
    if against == _PEER:
        peers = [each for each in report.labels if each.partition(":")[0] not in (_OURS, _FLOOR)]
        values = [value for each in peers if (value := report.median(name, each)) is not None]
        other = (max if figure.more else min)(values, default=None)
    elif against:
        other = report.median(name, against)
    if ours is None or not other:
        return
    value = ours / other
    label = report.labels.get(against, against)
    unit = "times" if label else figure.unit
    asked = f"{bound:g} times {label}" if label else f"{bound:g} {unit}"
    floors = [
        f"{floor / other:.3g} {unit}"
        if each != against and (floor := report.median(name, each)) is not None
        else ""
        for each in _FLOORS
    ]
    yield Verdict(
        f"{subject.title}, {figure.label}: at {'least' if figure.more else 'most'} {asked}",
        f"{value:.3g} {unit}",
        value >= bound if figure.more else value <= bound,
        floors,
    )
