"""The documentation as a site: it builds without a warning, and what its pages quote is so."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest
from asgiref.sync import async_to_sync

import kafka_layer
from kafka_layer import get_layer
from kafka_layer.config.settings import LayerConfig
from kafka_layer.exceptions import Cause
from tests.support.pages import files_of
from tests.support.sources import parsed
from tests.support.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"

VARIABLE = "…"

# Shorter pieces between two variables are in every other message.
_TELLING = 5


class Loaded(HTMLParser):
    """Collects the addresses that a page loads by itself when it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        name = {"link": "href"}.get(tag, "src")
        self.addresses += [value for each, value in attrs if each == name and value]


class Shown(HTMLParser):
    """Collects the text that a page shows: prose, and what stands in fenced blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.text = self.code = ""
        self._inside = [""]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"code", "pre", "script", "style"}:
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside[-1]:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if "pre" in self._inside:
            self.code += data
        elif self._inside[-1] not in {"script", "style"}:
            self.text += data


def blocks(page: str, language: str) -> list[str]:
    """Return what stands in the fenced blocks of a language that have no title."""
    text = (DOCS / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)


@cache
def texts_of(path: Path) -> list[str]:
    """Return the texts in the code of a file, with a mark for what an f-string fills in."""
    found = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(map(_literal, node.values)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # What logging fills in.
            found.append(re.sub(r"%(?:\.\d+)?[sdrf]", VARIABLE, node.value))
    return found


def _literal(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else VARIABLE


def test_it_builds_and_has_every_page(built_site: Path) -> None:
    pages = {path.stem for path in DOCS.glob("*.md")} - {"index"}

    assert {path.parent.name for path in built_site.glob("*/index.html")} == pages


def test_drawings_tell_in_words_what_they_show_and_know_dark_mode() -> None:
    pages = "".join(path.read_text() for path in DOCS.glob("*.md"))
    drawings = set(DOCS.glob("images/*.svg")) - {DOCS / "images" / "logo.svg"}
    for path in drawings:
        drawing = path.read_text()
        assert re.search(r'<svg[^>]* role="img" aria-labelledby="title desc"', drawing), path
        assert re.search(r'<title id="title">.+</title>', drawing), path
        assert re.search(r'<desc id="desc">.{100,}</desc>', drawing), path
        assert "@media (prefers-color-scheme: dark)" in drawing, path
        [words] = re.findall(rf"!\[([^]]+)\]\(images/{path.name}\)", pages)
        assert len(words) > 100, path
    assert len(drawings) == 6


def test_its_pages_load_nothing_from_other_hosts(built_site: Path) -> None:
    for path in built_site.rglob("*.html"):
        loaded = Loaded()
        loaded.feed(path.read_text())
        assert [each for each in loaded.addresses if re.match(r"(\w+:)?//", each)] == [], path
    for path in built_site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text()), path


@pytest.mark.parametrize(
    "name",
    [
        "kafka_layer.layer.KafkaChannelLayer.group_send",
        "kafka_layer.layer.KafkaChannelLayer.group_send_sync",
        "kafka_layer.stats.LayerStats",
        "kafka_layer.shortcuts.user_send_on_commit",
        "kafka_layer.consumers.AsyncUserConsumerMixin",
        "kafka_layer.exceptions.GroupAckTimeout",
        "kafka_layer.signals.messages_dropped",
        "kafka_layer.testing.EmbeddedBroker",
    ],
)
def test_the_reference_has_what_is_public(built_site: Path, name: str) -> None:
    assert f'id="{name}"' in (built_site / "api" / "index.html").read_text()


def test_no_markup_is_left_for_the_reader(built_site: Path) -> None:
    for path in built_site.glob("**/index.html"):
        page = Shown()
        page.feed(path.read_text())
        # Sphinx's way to refer, and drawings in words: neither means anything here.
        assert re.findall(r":(?:attr|class|data|exc|func|meth|mod|ref):|``", page.text) == [], path
        drawing = re.compile(r"^(flowchart|graph|sequenceDiagram)\b", re.MULTILINE)
        assert not drawing.search(page.code), path


def test_troubleshooting_quotes_messages_that_exist() -> None:
    sources = {path: path.read_text() for path in Path(kafka_layer.__file__).parent.rglob("*.py")}

    for message in blocks("troubleshooting.md", "text"):
        parts = [part for part in message.split(VARIABLE) if len(part) >= _TELLING]
        assert parts, message
        pattern = ".*".join(re.escape(part) for part in parts)
        # A word stands in one piece, where a text goes on in the next line.
        words = re.findall(r"\w{4,}", " ".join(parts))
        assert words, message
        assert any(
            re.search(pattern, text, re.DOTALL)
            for path, source in sources.items()
            if all(word in source for word in words)
            for text in texts_of(path)
        ), message


def test_troubleshooting_knows_every_cause_of_drops() -> None:
    calls = re.compile(
        r'(?:dropped\(\s*|UnreadableRecord\(\s*|count\("dropped\.)"?([a-z]+)"', re.DOTALL
    )
    causes = {
        cause
        for path in Path(kafka_layer.__file__).parent.rglob("*.py")
        for cause in calls.findall(path.read_text())
    }
    section = (DOCS / "troubleshooting.md").read_text().split("## Messages that are dropped\n")[1]

    documented = re.findall(r"^\| `(\w+)` \|", section.split("\n## ")[0], re.MULTILINE)

    assert causes <= set(get_args(Cause))
    assert set(documented) == set(get_args(Cause))


@pytest.mark.slow
def test_the_tests_of_the_testing_page_pass(tmp_path: Path) -> None:
    files = files_of((DOCS / "testing.md").read_text())
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for name in ("DJANGO_SETTINGS_MODULE", "PYTEST_ADDOPTS"):
        environment.pop(name, None)

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert len([name for name in files if name.startswith("test_")]) == 5
    assert "skipped" not in done.stdout


def test_the_settings_of_the_deployment_page_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA_CA_FILE", "KAFKA_USER", "KAFKA_PASSWORD"):
        monkeypatch.setenv(name, "given")
    security: dict[str, Any] = {}
    exec(files_of((DOCS / "deployment.md").read_text())["security.py"], security)
    replication, certificates = (
        eval(f"{{{each}}}") for each in blocks("deployment.md", "python") if each.startswith('"')
    )

    for keywords in (replication, certificates, {"client_config": security["CLIENT_CONFIG"]}):
        LayerConfig.from_keywords(bootstrap_servers="kafka:9093", **keywords)

    taken = LayerConfig.from_keywords(bootstrap_servers="kafka:9093", **replication)
    for topic in taken.topics.values():
        assert topic.replication_factor == 3
        assert topic.config["min.insync.replicas"] == "2"


def test_the_health_view_of_the_operations_page_answers(settings: Any) -> None:
    memory = "kafka_layer.testing.InMemoryKafkaChannelLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": memory}}
    views: dict[str, Any] = {}
    exec(files_of((DOCS / "operations.md").read_text())["health_views.py"], views)

    def up() -> Any:
        # A machine that stands still for a second is not ready in that moment.
        answer = async_to_sync(views["up"])(None)
        return answer if answer.status_code == 200 else None

    answer = wait_until(up, "the layer to be ready")

    assert json.loads(answer.content)["kafka"].startswith("A record went to Kafka and came back")
    get_layer().close_sync()
