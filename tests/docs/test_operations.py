"""docs/operations.md, the alert rules and the dashboard say what the collector does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kafka_layer.metrics import LayerCollector
from kafka_layer.stats import Ages, LayerStats
from tests.support.prometheus import promtool, require_prometheus, rules_in

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations.md"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
BOARD = ROOT / "deploy" / "grafana" / "kafka-layer.json"
_STREAM = {"records": 1, "filtered": 1, "errors": {}, "state": "reading", "lag": 0}


class Layer:
    """A layer with a figure of every kind."""

    def measure(self) -> None:
        pass

    def stats(self) -> LayerStats:
        return LayerStats(
            state="connected",
            errors={"a": 1},
            lag_by_topic={"a": 1},
            backlog={"a": 1},
            streams={"a": _STREAM},
            ages=Ages((1.0,), (1, 1), 0.5),
        )


def samples() -> dict[str, set[str]]:
    """Return the names of all samples that the collector may tell, with their labels."""
    found: dict[str, set[str]] = {}
    for family in LayerCollector({"default": Layer()}).collect():
        assert family.samples, family.name
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def metrics() -> dict[str, tuple[str, set[str]]]:
    """Return the metrics: their names as in the table, with their kinds and labels."""
    found = {}
    for family in LayerCollector({"default": Layer()}).collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {label for sample in family.samples for label in sample.labels}
        found[family.name + suffix] = (family.type, labels - {"alias", "le"})
    return found


def test_the_table_has_every_metric_and_no_other() -> None:
    documented = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `kafka_layer_"):
            name, kind, labels, _ = (cell.strip() for cell in line.strip("|").split("|"))
            assert name not in documented
            documented[name.strip("`")] = kind, set(re.findall("`([^`]+)`", labels))
    assert documented == metrics()


def queries() -> Iterator[tuple[str, str]]:
    """Yield every PromQL expression of the repository, with what it is for."""
    for rule in rules_in(ALERTS):
        yield rule["alert"], rule["expr"]
    board = json.loads(BOARD.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def test_every_query_asks_for_metrics_and_labels_that_there_are() -> None:
    known = samples()
    # Prometheus gives these to every sample.
    given = {"job", "instance"}
    asked = set()
    for what, expression in queries():
        names = re.findall(r"\bkafka_layer_\w+", expression)
        assert names, what
        assert set(names) <= set(known), what
        asked |= set(names)
        labels = set().union(*(known[name] for name in names)) | given
        used = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)
        for listed in re.findall(r"\bby \(([^)]*)\)", expression):
            used += [each.strip() for each in listed.split(",")]
        assert set(used) <= labels, what
    # A metric that nobody looks at would be one too many.
    assert {re.sub("_(bucket|count|sum)$", "", name) for name in known} == {
        re.sub("_bucket$", "", name) for name in asked
    }


def test_every_alert_has_a_summary_and_a_section_that_says_what_to_do() -> None:
    sections = set(re.findall(r"^### (KafkaLayer\w+)$", PAGE.read_text(), re.MULTILINE))
    rules = list(rules_in(ALERTS))
    assert {rule["alert"] for rule in rules} == sections
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".")
        heading = rule["alert"].lower()
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{heading}"


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    board: dict[str, Any] = json.loads(BOARD.read_text())
    assert board["title"]
    assert board["schemaVersion"] >= 36
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    variables = {each["name"] for each in board["templating"]["list"]}
    filled: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & filled, f"{panel['title']} lies over another panel"
        filled |= cells
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            names = set(re.findall(r"\$(\w+)", target["expr"]))
            assert names - {"__rate_interval"} <= variables, panel["title"]


@pytest.mark.slow
def test_promtool_takes_the_rules_and_they_fire_when_they_should(tmp_path: Path) -> None:
    require_prometheus()
    promtool("check", "rules", str(ALERTS))
    case = Path(__file__).with_name("alerts_test.yml")
    cases = yaml.safe_load(case.read_text())
    tested = {
        each["alertname"]
        for test in cases["tests"]
        for each in test["alert_rule_test"]
        if each.get("exp_alerts")
    }
    assert tested == {rule["alert"] for rule in rules_in(ALERTS)}
    promtool("test", "rules", str(case))
