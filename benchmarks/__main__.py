"""The command: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from . import plots, tables
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
    if options.json:
        options.json.write_text(json.dumps(report.to_json(), indent=1) + "\n")
    text = tables.markdown(report)
    if options.markdown:
        options.markdown.write_text(text)
    else:
        print(text)
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
        plots.draw(report, options.plots)
    return 0


def _measured(options: argparse.Namespace) -> Report:
    known: dict[str, Contender] = dict(CONTENDERS)
    if options.settings:
        known.update((each.name, each) for each in from_settings(options.settings))
    default = [each.name for each in known.values() if each.by_default]
    names = _chosen("layers", options.layers, known, default)
    subjects = _chosen("subjects", options.only, SUBJECTS, list(SUBJECTS))
    backends = [known[name].backend.rpartition(".")[0] for name in names]
    preload([*_PRELOADED, *filter(None, backends)])
    with start([known[name] for name in names]) as started:
        for name, reason in started.skipped.items():
            print(f"  {name} is left out: {reason}", file=sys.stderr)
        return run(
            started,
            [SUBJECTS[name] for name in subjects],
            quick=options.quick,
            repetitions=options.repeat or (1 if options.quick else 5),
            warm_up=(10.0 if options.quick else 45.0)
            if options.warm_up is None
            else options.warm_up,
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
    parser.add_argument("--repeat", type=int, metavar="N", help="repetitions: 5, or 1 with --quick")
    parser.add_argument("--warm-up", type=float, metavar="SECONDS", help="45, or 10 with --quick")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write plots (PNG) here")
    parser.add_argument("--read", type=Path, metavar="FILE", help="an earlier --json; no new run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
