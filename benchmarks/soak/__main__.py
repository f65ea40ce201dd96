"""The command: ``python -m benchmarks.soak --minutes 20 --seed 1``.

Ends with status 1 where a promise of docs/reliability.md was broken.
"""

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
from .faults import KINDS, Fault, plan
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
        episodes, broken = _break(site, options.seed, began + options.minutes * 60, options.only)
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
    site: Site, seed: int, until: float, only: Sequence[str]
) -> tuple[list[Episode], list[str]]:
    episodes: list[Episode] = []
    for fault in plan(seed):
        if time.monotonic() + fault.pause + fault.seconds >= until:
            break
        if only and fault.kind not in only:
            continue
        time.sleep(fault.pause)
        began = time.monotonic()
        ended = KINDS[fault.kind].inflict(site, fault)
        try:
            took = site.settle(ended)
        except TimeoutError as error:
            episodes.append(Episode(fault.kind, began, ended, time.monotonic()))
            return episodes, [f"after {fault.kind}: {error}"]
        episodes.append(Episode(fault.kind, began, ended, ended + took))
        _tell(fault, took)
    return episodes, []


def _tell(fault: Fault, took: float) -> None:
    print(f"{fault.kind} for {fault.seconds} s; well again {took:.1f} s later", flush=True)


def _table_of_kinds(result: Result) -> str:
    lines = [
        "| to | accepted | received | lost | cut off with their sender | twice | out of order |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, counts in result.by_kind.items():
        numbers = (counts.accepted, counts.received, counts.lost.total(), counts.cut_off)
        more = (counts.twice.total(), counts.disordered.total())
        lines.append(" | ".join([f"| {kind}", *(f"{each:,}" for each in (*numbers, *more))]) + " |")
    return "\n".join(lines) + "\n"


def _table_of_faults(result: Result, episodes: Sequence[Episode]) -> str:
    lines = [
        "| fault | times | lost | twice | out of order | well again after | jobs after |",
        "|---|---|---|---|---|---|---|",
    ]
    times = Counter(episode.kind for episode in episodes)
    for fault in (*sorted(times), NOTHING):
        of_all = [
            (counts.lost[fault], counts.twice[fault], counts.disordered[fault])
            for counts in result.by_kind.values()
        ]
        lost, twice, disordered = map(sum, zip(*of_all, strict=True))
        after = [
            f"{of_kind[fault]:.2f} s" if fault in of_kind else ""
            for of_kind in result.recovery.values()
        ]
        cells = (fault, times[fault] or "", lost, twice, disordered, *after)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
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
