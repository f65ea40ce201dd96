"""The command: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from . import page, plots, tables
from .contenders import CONTENDERS, Contender, from_settings, start
from .runner import Report, run
from .subjects import SUBJECTS
from .workers import preload

__all__ = ["main"]

_PRELOADED = ["benchmarks.subjects", "kafka_layer.layer", "kafka_layer.kafka.backplane"]


def main() -> int:
    """Measure, or read an earlier run, and write what was asked for."""
    options = _options()
    # A run that is ended takes its servers with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if options.read:
        report = Report.from_json(json.loads(options.read.read_text()))
    else:
        report = _measured(options)
    _keep(report, options.json)
    text = tables.markdown(report)
    if options.markdown:
        options.markdown.write_text(text)
    else:
        print(text)
    pictures = list(plots.draw(report, options.plots)) if options.plots else []
    if options.page:
        _fill(options.page, report, pictures)
    return 0


def _keep(report: Report, path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(report.to_json(), indent=1) + "\n")


def _fill(path: Path, report: Report, pictures: Iterable[plots.Picture]) -> None:
    """Fill the marked places of a page, with pictures by their paths relative to it."""
    shown: dict[str, list[str]] = {}
    for each in pictures:
        relative = Path(os.path.relpath(each.path, path.parent)).as_posix()
        shown.setdefault(each.subject, []).append(f"![{each.title}]({relative})")
    sections = tables.sections(report, shown)
    text = path.read_text()
    for name in sections.keys() - set(page.places(text)):
        print(f"  {path} has no place for {name}", file=sys.stderr)
    path.write_text(page.fill(text, sections))


def _measured(options: argparse.Namespace) -> Report:
    known: dict[str, Contender] = dict(CONTENDERS)
    if options.settings:
        known.update((each.name, each) for each in from_settings(options.settings))
    default = [each.name for each in known.values() if each.by_default]
    names = _chosen("layers", options.layers, known, default)
    subjects = _chosen("subjects", options.only, SUBJECTS, list(SUBJECTS))
    variants = [variant for name in subjects for variant in SUBJECTS[name].variants]
    taking_part = [known[name] for name in dict.fromkeys([*names, *variants])]
    backends = [each.backend.rpartition(".")[0] for each in taking_part]
    preload([*_PRELOADED, *filter(None, backends)])
    with start(taking_part) as started:
        for name, reason in started.skipped.items():
            print(f"  {name} is left out: {reason}", file=sys.stderr)
        return run(
            started,
            [SUBJECTS[name] for name in subjects],
            names,
            quick=options.quick,
            repetitions=options.repeat or (1 if options.quick else 3),
            warm_up=(10.0 if options.quick else 45.0)
            if options.warm_up is None
            else options.warm_up,
            keep=lambda report: _keep(report, options.json),
        )


def _chosen(what: str, given: str | None, known: object, default: list[str]) -> list[str]:
    names = given.split(",") if given else default
    unknown = [name for name in names if name not in known]  # type: ignore[operator]
    if unknown:
        raise SystemExit(f"Unknown {what}: {', '.join(unknown)}; known: {', '.join(known)}.")  # type: ignore[call-overload]
    return names


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few minutes, rough figures")
    parser.add_argument("--only", metavar="NAMES", help=f"subjects, of: {', '.join(SUBJECTS)}")
    parser.add_argument("--layers", metavar="NAMES", help=f"of: {', '.join(CONTENDERS)}")
    parser.add_argument(
        "--settings", type=Path, metavar="FILE", help="more layers, as JSON like CHANNEL_LAYERS"
    )
    parser.add_argument("--repeat", type=int, metavar="N", help="repetitions: 3, or 1 with --quick")
    parser.add_argument("--warm-up", type=float, metavar="SECONDS", help="45, or 10 with --quick")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write plots (PNG) here")
    parser.add_argument("--page", type=Path, metavar="FILE", help="fill this page's marked places")
    parser.add_argument("--read", type=Path, metavar="FILE", help="an earlier --json; no new run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
