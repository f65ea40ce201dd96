"""A report as pictures (PNG)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .runner import Entry, Report
from .subjects.jobs import WORKERS
from .subjects.members import SIZES
from .subjects.scale import COUNTS

__all__ = ["Picture", "draw"]

_COLORS = {
    "kafka": "#1f6feb",
    "floor": "#9aa4b2",
    "floor:layer": "#c9d1d9",
    "redis-pubsub": "#d1495b",
    "redis-core": "#e8a0a8",
    "nats": "#2a9d8f",
}
_BARS: Mapping[str, tuple[str, str, Sequence[tuple[str, str]], bool]] = {
    # file: title, unit, (figure, label), logarithmic
    "latency": (
        "One-way latency to another process (less is better)",
        "ms",
        [
            ("latency.idle_p50", "p50, 20/s"),
            ("latency.idle_p99", "p99, 20/s"),
            ("latency.busy_p50", "p50, 1,000/s"),
            ("latency.busy_p99", "p99, 1,000/s"),
        ],
        True,
    ),
    "throughput": (
        "Messages to channels of another process (more is better)",
        "messages/s",
        [("throughput.one", "one channel"), ("throughput.many", "200 channels")],
        False,
    ),
    "fanout": (
        "Deliveries to a group of 100 members in 2 processes (more is better)",
        "deliveries/s",
        [("fanout.deliveries", "")],
        False,
    ),
    "jobs": (
        "Jobs through worker channels (more is better)",
        "jobs/s",
        [(f"jobs.workers_{count}", f"{count} worker{'s'[: count - 1]}") for count in WORKERS],
        False,
    ),
    "sockets": (
        "Deliveries to 2,000 websockets on 2 daphne processes at full load (more is better)",
        "deliveries/s",
        [("sockets.deliveries", "")],
        False,
    ),
    "sockets-latency": (
        "From websocket to websocket (less is better)",
        "ms",
        [
            ("sockets.paced_p50", "p50, 50/s"),
            ("sockets.paced_p99", "p99, 50/s"),
            ("sockets.full_p50", "p50, full load"),
            ("sockets.full_p99", "p99, full load"),
        ],
        True,
    ),
    "synchronous": (
        "Group sends from synchronous code (more is better)",
        "sends/s",
        [("synchronous.native", "own method"), ("synchronous.bridged", "async_to_sync")],
        True,
    ),
}
_LINES: Mapping[str, tuple[str, str, str, str, Sequence[int]]] = {
    # file: title, x axis, y axis, figure, x values
    "last-member": (
        "Time until the last member of a group is served",
        "members",
        "ms",
        "members.last_{}",
        SIZES,
    ),
    "group-send-call": (
        "Duration of the group_send call",
        "members",
        "µs",
        "members.call_{}",
        SIZES,
    ),
    "scale-cpu": (
        "Processor time of all server processes",
        "server processes",
        "µs a message",
        "scale.cpu_{}",
        COUNTS,
    ),
    "scale-latency": (
        "Latency (p50) to room members",
        "server processes",
        "ms",
        "scale.p50_{}",
        COUNTS,
    ),
}


@dataclass(frozen=True)
class Picture:
    """A picture that was drawn.

    Attributes:
        subject: What it shows.
        title: As on it.
        path: Where it is.
    """

    subject: str
    title: str
    path: Path


def draw(report: Report, folder: Path) -> Iterator[Picture]:
    """Write a picture for each group of figures that the report has."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (title, unit, figures, logarithmic) in _BARS.items():
        measured = [each for each in figures if _contenders(report, each[0])]
        if measured:
            path = folder / f"{name}.png"
            _save(_bars(report, title, unit, measured, logarithmic), path)
            yield Picture(figures[0][0].partition(".")[0], title, path)
    for name, (title, x_label, y_label, figure, values) in _LINES.items():
        if _contenders(report, figure.format(values[0])):
            path = folder / f"{name}.png"
            _save(_lines(report, title, x_label, y_label, figure, values), path)
            yield Picture(figure.partition(".")[0], title, path)


def _bars(
    report: Report, title: str, unit: str, figures: Sequence[tuple[str, str]], logarithmic: bool
) -> Any:
    picture, axes = _picture(title)
    names = [name for name in report.labels if any(_samples(report, f, name) for f, _ in figures)]
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        places, middles, below, above = [], [], [], []
        for place, (figure, _) in enumerate(figures):
            samples = _samples(report, figure, name)
            if samples:
                middle = median(samples)
                places.append(place + (number - (len(names) - 1) / 2) * width)
                middles.append(middle)
                below.append(middle - min(samples))
                above.append(max(samples) - middle)
        axes.bar(
            places,
            middles,
            width * 0.92,
            yerr=[below, above],
            label=report.labels[name],
            color=_COLORS.get(name),
            error_kw={"elinewidth": 1, "ecolor": "#444"},
        )
    axes.set_xticks(range(len(figures)), [label for _, label in figures])
    axes.set_ylabel(unit)
    if logarithmic:
        axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:,g}")
    _legend(picture)
    return picture


def _lines(
    report: Report, title: str, x_label: str, y_label: str, figure: str, values: Sequence[int]
) -> Any:
    picture, axes = _picture(title)
    for name in _contenders(report, figure.format(values[0])):
        samples = [_samples(report, figure.format(value), name) for value in values]
        points = [(x, median(y), min(y), max(y)) for x, y in zip(values, samples, strict=True) if y]
        x, middle, low, high = zip(*points, strict=True)
        axes.plot(x, middle, marker="o", label=report.labels[name], color=_COLORS.get(name))
        axes.fill_between(x, low, high, alpha=0.15, color=_COLORS.get(name))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_xticks(values, [f"{value:,}" for value in values])
    axes.minorticks_off()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    _legend(picture)
    return picture


def _picture(title: str) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    picture, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    axes.set_title(title, fontsize=12, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e7eb")
    axes.set_axisbelow(True)
    return picture, axes


def _legend(picture: Any) -> None:
    """Name the contenders below; beside the bars there is no place that is always free."""
    picture.legend(
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=9,
        columnspacing=1.2,
        handlelength=1.2,
        handletextpad=0.4,
    )


def _save(picture: Any, path: Path) -> None:
    from matplotlib import pyplot

    picture.savefig(path, dpi=120)
    pyplot.close(picture)


def _contenders(report: Report, figure: str) -> list[str]:
    return [name for name in report.labels if _samples(report, figure, name)]


def _samples(report: Report, figure: str, contender: str) -> list[float]:
    subject, _, name = figure.partition(".")
    entry: Entry | None = report.subjects.get(subject, {}).get(contender)
    return entry.samples.get(name, []) if entry else []
