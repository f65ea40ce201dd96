"""The command: ``python -m benchmarks``, and ``python -m benchmarks pair`` for two versions."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import pair, plots, tables
from .contenders import CONTENDERS, checkout, start
from .report import Report, run, warm_up
from .subjects import DOCUMENTED, PAIRED, SUBJECTS
from .workers import preload

_LIBRARIES = ["channels.layers", "confluent_kafka", "ormsgpack", "django", "cryptography.fernet"]


def main() -> int:
    """Measure, and write what was asked for."""
    # A run that is ended takes its servers with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if sys.argv[1:2] == ["pair"]:
        return _pair(_pair_options(sys.argv[2:]))
    options = _options(sys.argv[1:])
    report = _measured(options)
    text = tables.markdown(report)
    if options.markdown:
        options.markdown.write_text(text)
    else:
        print(text)
    pictures = list(plots.draw(report, options.plots)) if options.plots else []
    if options.page:
        _fill(options.page, report, pictures)
    return 0


def _measured(options: argparse.Namespace) -> Report:
    variants = [name for each in options.only for name in each.variants]
    taking_part = [CONTENDERS[name] for name in dict.fromkeys([*options.layers, *variants])]
    backends = [each.backend.rpartition(".")[0] for each in taking_part]
    preload(["benchmarks.subjects", *_LIBRARIES, *filter(None, backends)])

    def keep(report: Report) -> None:
        if options.json:
            options.json.write_text(json.dumps(asdict(report), indent=1) + "\n")

    with start(taking_part) as started:
        for name, reason in started.skipped.items():
            print(f"  {name} is left out: {reason}", file=sys.stderr)
        repetitions = options.repeat or (1 if options.quick else 3)
        return run(started, options.only, options.layers, repetitions, options.quick, keep)


def _fill(path: Path, report: Report, pictures: Sequence[plots.Picture]) -> None:
    """Fill the marked places of a page, with pictures by their paths relative to it."""
    shown: dict[str, list[str]] = {}
    for each in pictures:
        relative = Path(os.path.relpath(each.path, path.parent)).as_posix()
        shown.setdefault(each.subject, []).append(f"![{each.title}]({relative})")
    sections = tables.sections(report, shown)
    text = path.read_text()
    for name in sections.keys() - set(tables.places(text)):
        print(f"  {path} has no place for {name}", file=sys.stderr)
    path.write_text(tables.fill(text, sections))


def _pair(options: argparse.Namespace) -> int:
    preload(["benchmarks.subjects", *_LIBRARIES])
    with start([checkout("before", options.against), checkout("after", Path.cwd())]) as started:
        if started.skipped:
            raise SystemExit("; ".join(started.skipped.values()))
        warm_up(started.running, options.warm_up)
        found, failed = pair.compare(started.running, options.figures or PAIRED, options.minutes)
    print("\n".join([*pair.report(found), *failed]))
    return int(bool(failed))


def _pair_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks pair", description=pair.__doc__)
    add = parser.add_argument
    add("--against", type=Path, required=True, metavar="PATH", help="a checkout: the one before")
    add("--minutes", type=float, default=20.0, metavar="N", help="for how long: 20")
    add("--warm-up", type=float, default=20.0, metavar="SECONDS", help="20")
    known = ", ".join(each.name for each in PAIRED)
    add("figures", nargs="*", type=SUBJECTS.__getitem__, help=f"subjects; default: {known}")
    return parser.parse_args(arguments)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    default = [each.name for each in CONTENDERS.values() if each.by_default]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a few minutes, rough figures")
    subjects, layers = _names(SUBJECTS), _names({name: name for name in CONTENDERS})
    add("--only", type=subjects, default=list(DOCUMENTED.values()), help=", ".join(SUBJECTS))
    add("--layers", type=layers, default=default, help=", ".join(CONTENDERS))
    add("--repeat", type=int, metavar="N", help="repetitions: 3, or 1 with --quick")
    add("--json", type=Path, metavar="FILE", help="write all samples here")
    add("--markdown", type=Path, metavar="FILE", help="write the tables here")
    add("--plots", type=Path, metavar="DIR", help="write plots (PNG) here")
    add("--page", type=Path, metavar="FILE", help="fill this page's marked places")
    return parser.parse_args(arguments)


def _names(known: Any) -> Callable[[str], list[Any]]:
    return lambda given: [known[name] for name in given.split(",")]


if __name__ == "__main__":
    sys.exit(main())
