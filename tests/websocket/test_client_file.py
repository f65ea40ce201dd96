"""The browser client comes with the package."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

from django.contrib.staticfiles.finders import AppDirectoriesFinder

import kafka_layer

PACKAGE = Path(kafka_layer.__file__).parent


def test_all_files_that_are_no_modules_are_in_the_wheel() -> None:
    project = (PACKAGE.parent / "pyproject.toml").read_text()
    [line] = re.findall(r"^\[tool\.setuptools\.package-data\]\nkafka_layer = (.*)$", project, re.M)
    patterns = re.findall(r'"([^"]+)"', line)
    files = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    }
    assert "static/kafka_layer/socket.js" in files
    assert {each for each in files if not any(fnmatch(each, one) for one in patterns)} == set()


def test_django_finds_it() -> None:
    finder = AppDirectoriesFinder(app_names=["kafka_layer"])
    assert finder.find("kafka_layer/socket.js") == str(PACKAGE / "static/kafka_layer/socket.js")
