"""What the layer is to reach, as ratios within one run, and whether a run reached it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from .runner import Report
from .subjects import SUBJECTS
from .subjects.jobs import WORKERS
from .subjects.members import SIZES

__all__ = ["Verdict", "verdicts"]

_OURS = "kafka"
_FLOOR = "floor"
_FLOORS = (_FLOOR, "floor:layer")
_PUBSUB = "redis-pubsub"
_CORE = "redis-core"
_BEST_PEER = "best peer"
_FLAT = 1.5


@dataclass(frozen=True)
class Verdict:
    """One target in one run.

    Attributes:
        what: What was asked.
        found: What was found.
        met: Whether it is met.
        floors: What bare clients reach, and the smallest layer, judged in the same way; empty
            where one does not take part.
    """

    what: str
    found: str
    met: bool
    floors: Sequence[str] = ("",) * len(_FLOORS)


@dataclass(frozen=True)
class _Target:
    """A bound for a figure: of its value, or of its ratio to another contender's."""

    figure: str
    bound: float
    against: str = ""


_TARGETS: Sequence[_Target] = (
    _Target("latency.idle_p50", 1.4, _FLOOR),
    _Target("latency.idle_p50", 2.5, _PUBSUB),
    _Target("latency.idle_p99", 5),
    _Target("latency.busy_p99", 10),
    _Target("throughput.one", 2, _BEST_PEER),
    _Target("throughput.many", 2, _BEST_PEER),
    _Target("fanout.deliveries", 2, _BEST_PEER),
    _Target("members.last_5000", 0.5, _BEST_PEER),
    *(_Target(f"members.call_{size}", 1, _BEST_PEER) for size in SIZES),
    _Target("synchronous.best", 30, _BEST_PEER),
    _Target("membership.first", 20, _BEST_PEER),
    _Target("membership.further", 20, _BEST_PEER),
    *(_Target(f"jobs.workers_{count}", 1, _CORE) for count in WORKERS),
    _Target("footprint.idle_cpu", 1),
    _Target("startup.received", 500),
)


def verdicts(report: Report) -> Iterator[Verdict]:
    """Judge our layer's figures; what was not measured is left out."""
    for target in _TARGETS:
        verdict = _judge(report, target)
        if verdict is not None:
            yield verdict
    yield from _judge_flatness(report)
    yield from _judge_faults(report)


def _judge(report: Report, target: _Target) -> Verdict | None:
    subject, _, name = target.figure.partition(".")
    definition = SUBJECTS[subject]
    figure = next(each for each in definition.figures if each.name == name)
    ours = _median(report, target.figure, _OURS)
    more = figure.better == "more"
    other: float | None = 1.0
    if target.against == _BEST_PEER:
        values = [_median(report, target.figure, each) for each in _peers(report)]
        measured = [each for each in values if each is not None]
        other = (max if more else min)(measured) if measured else None
    elif target.against:
        other = _median(report, target.figure, target.against)
    if ours is None or not other:
        return None
    value = ours / other
    label = report.labels.get(target.against, target.against)
    bound = f"{target.bound:g} times {label}" if label else f"{target.bound:g} {figure.unit}"
    unit = "times" if label else figure.unit
    return Verdict(
        f"{definition.title}, {figure.label}: at {'least' if more else 'most'} {bound}",
        f"{value:.3g} {unit}",
        value >= target.bound if more else value <= target.bound,
        [
            f"{floor / other:.3g} {unit}"
            if each != target.against
            and (floor := _median(report, target.figure, each)) is not None
            else ""
            for each in _FLOORS
        ],
    )


def _judge_flatness(report: Report) -> Iterator[Verdict]:
    calls = [_median(report, f"members.call_{size}", _OURS) for size in SIZES]
    measured = [each for each in calls if each is not None]
    if len(measured) == len(SIZES):
        spread = max(measured) / min(measured)
        what = f"group_send call: flat from {SIZES[0]} to {SIZES[-1]:,} members (within {_FLAT})"
        yield Verdict(what, f"{spread:.2g} times", spread <= _FLAT)


def _judge_faults(report: Report) -> Iterator[Verdict]:
    entries = [each[_OURS] for each in report.subjects.values() if _OURS in each]
    if entries:
        lost, twice, late = (
            sum(getattr(each.faults, kind) for each in entries)
            for kind in ("lost", "twice", "out_of_order")
        )
        expected = sum(each.faults.expected for each in entries)
        yield Verdict(
            "Nothing lost, twice or out of order",
            f"{lost}, {twice} and {late} of {expected:,}",
            not (lost or twice or late),
        )


def _peers(report: Report) -> list[str]:
    ours = (_OURS, _FLOOR)
    return [name for name in report.labels if name.partition(":")[0] not in ours]


def _median(report: Report, figure: str, contender: str) -> float | None:
    subject, _, name = figure.partition(".")
    entry = report.subjects.get(subject, {}).get(contender)
    samples = entry.samples.get(name) if entry else None
    return median(samples) if samples else None
