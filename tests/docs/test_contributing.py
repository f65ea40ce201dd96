"""What the repository says of itself: versions that are tested, programs that are run."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import kafka_layer
from tests.support.kafka import DEFAULT_KAFKA_VERSION
from tests.support.schemas import require_schema
from tests.support.sources import parsed

REPOSITORY = Path(kafka_layer.__file__).parents[1]
PYPROJECT = (REPOSITORY / "pyproject.toml").read_text()
WORKFLOW = REPOSITORY / ".github" / "workflows" / "ci.yml"
NOXFILE = parsed(REPOSITORY / "noxfile.py")


def constants() -> dict[str, Any]:
    """Return what the matrix of the noxfile is made of."""
    found = {}
    for node in NOXFILE.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Tuple() as value):
                if name.isupper() and all(isinstance(each, ast.Constant) for each in value.elts):
                    found[name] = ast.literal_eval(value)
    return found


def classified(framework: str) -> list[str]:
    return re.findall(rf'"{framework} :: (\d+\.\d+)",', PYPROJECT)


def compatibility(head: str) -> list[list[str]]:
    """Return the cells of a table of the page on versions."""
    page = (REPOSITORY / "docs" / "compatibility.md").read_text()
    rows = page.partition(f"\n| {head} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_page_on_versions_has_those_that_the_matrix_runs() -> None:
    matrix = constants()
    supported = {name: versions.split(", ") for name, versions, *_ in compatibility("software")}

    assert supported["Python"] == classified("Programming Language :: Python")
    assert supported["Django"] == list(matrix["DJANGO"]) == classified("Framework :: Django")
    assert supported["Channels"] == list(matrix["CHANNELS"])
    assert supported["Kafka"] == [each.rpartition(".")[0] for each in matrix["KAFKA"]]
    assert matrix["KAFKA"][-1] == DEFAULT_KAFKA_VERSION
    ran = {run for run, *_ in compatibility("run")}
    assert ran == {
        "lowest",
        *(f"Python {each}" for each in supported["Python"]),
        *(f"Django {each}" for each in matrix["DJANGO"]),
        *(f"Channels {each}" for each in matrix["CHANNELS"]),
        *(f"Kafka {each}" for each in matrix["KAFKA"]),
    }


def test_the_lowest_versions_of_the_page_are_those_of_the_package() -> None:
    required = dict(re.findall(r'"([\w-]+)(?:\[[^"]*\])?>=([\d.]+)', PYPROJECT))
    for name, version, *_ in compatibility("package"):
        assert required[name.strip("`")] == version


@pytest.mark.slow
def test_the_workflow_follows_its_schema() -> None:
    require_schema("vendor.github-workflows", WORKFLOW)


def test_the_workflow_runs_what_there_is_on_every_supported_python() -> None:
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    (pythons,) = [
        each["with"]["python-version"]
        for each in jobs["list"]["steps"]
        if each.get("uses", "").startswith("actions/setup-python")
    ]
    assert pythons.split() == classified("Programming Language :: Python")
    commands = [each["run"] for job in jobs.values() for each in job["steps"] if "run" in each]
    assert "bash .ci/run" in commands
    sessions = {node.name for node in NOXFILE.body if isinstance(node, ast.FunctionDef)}
    for page in ("CONTRIBUTING.md", ".github/workflows/ci.yml", ".ci/run", "docs/compatibility.md"):
        named = re.findall(
            r"(?:nox -s|in_nox --session|nox --session) (\w+)", (REPOSITORY / page).read_text()
        )
        assert named, page
        assert set(named) <= sessions, page
