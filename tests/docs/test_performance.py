"""docs/performance.md shows every figure that the benchmarks measure, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import plots, tables
from benchmarks.report import Entry, Report
from benchmarks.subjects import DOCUMENTED
from tests.support.counting import Tally
from tests.support.tables import for_each

PAGE = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()


def test_each_subject_has_a_place_on_the_page() -> None:
    assert sorted(tables.places(PAGE)) == sorted(["about", "targets", *DOCUMENTED])


@for_each("name", DOCUMENTED)
def test_the_page_shows_all_figures_of_a_subject(name: str) -> None:
    subject = DOCUMENTED[name]
    [shown] = re.findall(rf"^<!-- benchmark: {name} -->\n(.*?)^<!-- end -->$", PAGE, re.M | re.S)
    [heads] = re.findall(r"^\|  \|(.*)\|$", shown, re.M)
    found = heads.split("|") if subject.variants else re.findall(r"^\| ([^|]+)\|", shown, re.M)
    figures = [f"{each.label} ({each.unit})" for each in subject.figures]
    names = [each.strip() for each in found if each.strip()]
    assert names[: len(figures)] == figures
    assert subject.what in shown


@pytest.mark.slow
def test_a_report_fills_the_page_and_all_its_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    labels = {"kafka": "kafka_layer", "floor": "floor: bare clients", "redis-core": "core"}
    report = Report({"kind": "made up"}, {"Kafka": "4.3"}, labels, {})
    for name, subject in DOCUMENTED.items():
        report.subjects[name] = {contender: Entry() for contender in labels}
        values = {each.name: 2.0 for each in subject.figures}
        for entry in report.subjects[name].values():
            entry.add(values, Tally(10, lost=1))
            entry.add(values, Tally(10))
    drawn = {path.name for _, _, path in plots.draw(report, tmp_path)}
    assert drawn == set(re.findall(r"images/performance/([\w-]+\.png)", PAGE))
    filled = tables.fill(PAGE, tables.sections(report))
    assert "- kind: made up" in filled
    assert "14, 0 and 0 of 280" in filled
    assert filled.count("| lost |") == len(DOCUMENTED)
