"""The command: ``python -m tests.soak --minutes 20 --seed 1``.

Ends with status 1 where a promise of docs/reliability.md was broken.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .counts import NOTHING, Episode, Result, broken_promises, count
from .faults import KINDS, plan
from .site import Site, running

__all__ = ["main"]


def main() -> int:
    """Break things until the time is up, then count."""
    options = _options()
    # A run that is ended takes its processes with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"seed {options.seed}, {options.minutes:g} minutes", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    with running(folder, options.rate) as site:
        site.open(receivers=3, senders=1, workers=2)
        began = time.monotonic()
        site.settle(began)
        until = began + options.minutes * 60
        episodes, broken = _break(site, options.seed, until, options.only or sorted(KINDS))
        minutes = (time.monotonic() - began) / 60
        reports = {} if broken else {**site.finish(), **site.killed}
    result = count(site.diaries(), episodes, site.killed)
    broken += broken_promises(result, reports, list(site.killed)) if reports else []
    print(f"{minutes:.1f} minutes, {len(episodes)} faults, seed {options.seed}\n")
    print(_table_of_kinds(result))
    print(_table_of_faults(result, episodes))
    for server, report in reports.items():
        print(server, report)
    print(*(broken or ["All promises were kept."]), sep="\n")
    if broken:
        print(f"What each process wrote is in {folder}.")
    return 1 if broken else 0


def _break(
    site: Site, seed: int, until: float, kinds: list[str]
) -> tuple[list[Episode], list[str]]:
    episodes: list[Episode] = []
    for fault in plan(seed, kinds):
        if time.monotonic() + fault.pause + fault.seconds >= until:
            break
        time.sleep(fault.pause)
        began = time.monotonic()
        KINDS[fault.kind].inflict(site, fault)
        ended = time.monotonic()
        try:
            took = site.settle(ended)
        except TimeoutError as error:
            episodes.append(Episode(fault.kind, began, ended, time.monotonic()))
            return episodes, [f"after {fault.kind}: {error}"]
        episodes.append(Episode(fault.kind, began, ended, ended + took))
        print(f"{fault.kind} for {fault.seconds} s; well again {took:.1f} s later", flush=True)
    return episodes, []


def _table_of_kinds(result: Result) -> str:
    heads = ("to", "accepted", "received", "lost", "cut off with their sender", "twice")
    rows = [
        (
            kind,
            *(f"{each:,}" for each in (counts.accepted, counts.received, counts.lost.total())),
            *(f"{each:,}" for each in (counts.cut_off, counts.twice.total())),
            f"{counts.disordered.total():,}",
        )
        for kind, counts in result.by_kind.items()
    ]
    return _table((*heads, "out of order"), rows)


def _table_of_faults(result: Result, episodes: Sequence[Episode]) -> str:
    heads = ("fault", "times", "lost", "twice", "out of order", "well again after", "jobs after")
    times = Counter(episode.kind for episode in episodes)
    rows = []
    for fault in (*sorted(times), NOTHING):
        of_all = [
            (counts.lost[fault], counts.twice[fault], counts.disordered[fault])
            for counts in result.by_kind.values()
        ]
        after = [
            f"{of_kind[fault]:.2f} s" if fault in of_kind else ""
            for of_kind in result.recovery.values()
        ]
        failed = sum(number for (each, _), number in result.failed.items() if each == fault)
        commands = f"{result.commands[fault]} / {failed} / {result.slowest.get(fault, 0):.2f} s"
        sums = map(sum, zip(*of_all, strict=True))
        rows.append((fault, str(times[fault] or ""), *map(str, sums), *after, commands))
    return _table((*heads, "commands / failed / slowest"), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, metavar="N", help="default: 20")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="reproduces a sequence of faults"
    )
    parser.add_argument(
        "--rate", type=float, default=20.0, metavar="N", help="turns a second and sender: 20"
    )
    parser.add_argument("--only", nargs="*", choices=sorted(KINDS), help="no other faults")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
