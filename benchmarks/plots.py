"""A report as pictures (PNG)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from .report import Report
from .subjects import SUBJECTS

_COLORS = {"kafka": "#1f6feb", "floor": "#9aa4b2", "floor:layer": "#c9d1d9"}
_COLORS |= {"redis-pubsub": "#d1495b", "redis-core": "#e8a0a8", "nats": "#2a9d8f"}
_LEGEND = {"frameon": False, "fontsize": 9, "columnspacing": 1.2, "handlelength": 1.2}
_ERRORS = {"elinewidth": 1, "ecolor": "#444"}

# File, subject, title, figures; one that ends in _ stands for all that begin so, as a line over
# what follows. A * makes the axis logarithmic, as it is for lines.
_PLOTS = """
latency | latency | One-way latency to another process (less is better) | idle_p50 idle_p99 busy_p50 busy_p99 *
throughput | throughput | Messages to channels of another process (more is better) | one many
fanout | fanout | Deliveries to a group of 100 members in 2 processes (more is better) | deliveries
jobs | jobs | Jobs through worker channels (more is better) | workers_1 workers_2 workers_3
sockets | sockets | Deliveries to 2,000 websockets on 2 daphne processes at full load (more is better) | deliveries
sockets-latency | sockets | From websocket to websocket (less is better) | paced_p50 paced_p99 full_p50 full_p99 *
synchronous | synchronous | Group sends from synchronous code (more is better) | native bridged *
last-member | members | Time until the last member of a group is served | last_
group-send-call | members | Duration of the group_send call | call_
scale-cpu | scale | Processor time of all server processes | cpu_
scale-latency | scale | Latency (p50) to room members | p50_
"""  # noqa: E501
_X_LABELS = {"members": "members", "scale": "server processes"}


def draw(report: Report, folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Write a picture for each group of figures of a report; yields its subject, title and path."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    for line in _PLOTS.strip().splitlines():
        file, subject, title, chosen = line.split(" | ")
        figures = {f"{subject}.{each.name}": each for each in SUBJECTS[subject].figures}
        names = [f"{subject}.{each}" for each in chosen.removesuffix(" *").split()]
        if lines := chosen.endswith("_"):
            names = [each for each in figures if each.startswith(names[0])]
        names = [each for each in names if report.contenders(each)]
        if not names:
            continue
        picture = Figure(figsize=(8, 4.5), layout="constrained")
        axes = picture.subplots()
        axes.set_title(title, fontsize=12, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e7eb")
        axes.set(axisbelow=True, ylabel=figures[names[0]].unit)
        if lines or chosen.endswith("*"):
            axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:,g}")
        ticks = [figures[each].label for each in names]
        if lines:
            ticks = [f"{int(each.rpartition('_')[2]):,}" for each in names]
            axes.set_xlabel(_X_LABELS[subject])
        axes.set_xticks(range(len(names)), ticks)
        _plot(axes, report, names, lines)
        # Below: beside the bars there is no place that is always free.
        picture.legend(loc="outside lower center", ncols=5, handletextpad=0.4, **_LEGEND)
        path = folder / f"{file}.png"
        picture.savefig(path, dpi=120)
        yield subject, title, path


def _plot(axes: Any, report: Report, figures: list[str], lines: bool) -> None:
    """Draw the medians of each contender as a line or as bars, and from where to where they go."""
    names = report.contenders(*figures)
    width = 0.0 if lines else 0.8 / len(names)
    for number, name in enumerate(names):
        found = {place: s for place, f in enumerate(figures) if (s := report.samples(f, name))}
        x = [place + (number - (len(names) - 1) / 2) * width for place in found]
        middles = [median(each) for each in found.values()]
        spread = [(m - min(s), max(s) - m) for m, s in zip(middles, found.values(), strict=True)]
        look: dict[str, Any] = {"label": report.labels[name], "color": _COLORS.get(name)}
        look["yerr"] = list(zip(*spread, strict=True))
        if lines:
            axes.errorbar(x, middles, marker="o", **look, **_ERRORS)
        else:
            axes.bar(x, middles, width * 0.92, **look, error_kw=_ERRORS)
