"""The command: ``python -m benchmarks``, and ``python -m benchmarks pair`` for two versions."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from . import pair, plots, tables
from .contenders import CONTENDERS, checkout, start
from .report import Report, run, warm_up
from .subjects import DOCUMENTED, PAIRED, SUBJECTS


def main() -> int:
    """Measure, and write what was asked for."""
    # A run that is ended takes its servers with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    options = _options()
    return int(options.run(options))


def _run(options: argparse.Namespace) -> int:
    variants = [name for each in options.only for name in each.variants]
    taking_part = [CONTENDERS[name] for name in dict.fromkeys([*options.layers, *variants])]
    with start(taking_part) as started:
        for name, reason in started.skipped.items():
            print(f"  {name} is left out: {reason}", file=sys.stderr)
        times = options.repeat or (1 if options.quick else 3)
        for report in run(started, options.only, options.layers, times, options.quick):
            if options.json:
                options.json.write_text(json.dumps(asdict(report), indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(tables.markdown(report))
    else:
        print(tables.markdown(report))
    pictures = list(plots.draw(report, options.plots)) if options.plots else []
    if options.page:
        _fill(options.page, report, pictures)
    return 0


def _fill(page: Path, report: Report, pictures: Iterable[tuple[str, str, Path]]) -> None:
    """Fill the marked places of a page, with pictures by their paths relative to it."""
    shown = [(of, f"![{title}]({os.path.relpath(at, page.parent)})") for of, title, at in pictures]
    sections = tables.sections(report, shown)
    text = page.read_text()
    for name in sections.keys() - set(tables.places(text)):
        print(f"  {page} has no place for {name}", file=sys.stderr)
    page.write_text(tables.fill(text, sections))


def _pair(options: argparse.Namespace) -> int:
    with start([checkout("before", options.against), checkout("after", Path.cwd())]) as started:
        if started.skipped:
            raise SystemExit("; ".join(started.skipped.values()))
        warm_up(started.running, options.warm_up)
        rows, failed = pair.compare(started.running, options.figures or PAIRED, options.minutes)
    print("\n".join([*tables.table(pair.HEADS, rows), *failed]))
    return int(bool(failed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.set_defaults(run=_run)
    usual = [each.name for each in CONTENDERS.values() if each.by_default]
    subjects = lambda given: [SUBJECTS[name] for name in given.split(",")]  # noqa: E731
    add = parser.add_argument
    add("--quick", action="store_true", help="a few minutes, rough figures")
    add("--only", type=subjects, default=list(DOCUMENTED.values()), help=", ".join(SUBJECTS))
    add("--layers", type=lambda given: given.split(","), default=usual, help=", ".join(CONTENDERS))
    add("--repeat", type=int, metavar="N", help="repetitions: 3, or 1 with --quick")
    add("--json", type=Path, metavar="FILE", help="write all samples here")
    add("--markdown", type=Path, metavar="FILE", help="write the tables here")
    add("--plots", type=Path, metavar="DIR", help="write plots (PNG) here")
    add("--page", type=Path, metavar="FILE", help="fill this page's marked places")
    two = parser.add_subparsers().add_parser("pair", description=pair.__doc__)
    two.set_defaults(run=_pair)
    known = ", ".join(each.name for each in PAIRED)
    add = two.add_argument
    add("--against", type=Path, required=True, metavar="PATH", help="a checkout: the one before")
    add("--minutes", type=float, default=20.0, metavar="N", help="for how long: 20")
    add("--warm-up", type=float, default=20.0, metavar="SECONDS", help="20")
    add("figures", nargs="*", type=SUBJECTS.__getitem__, help=f"subjects; default: {known}")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
