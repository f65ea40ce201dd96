"""The tutorial of docs/streams.md, typed in: Kafka's own tools, a server and browsers."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.support.pages import files_of
from tests.support.records import kafka_tool

from .test_recovery import REPOSITORY, Server

TUTORIAL = (
    (REPOSITORY / "docs" / "streams.md")
    .read_text()
    .partition("\n## In five minutes\n")[2]
    .partition("\n## ")[0]
)


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?\n)```$", text, re.MULTILINE | re.DOTALL)


def test_from_a_topic_to_a_browser(
    tmp_path: Path, kafka: str, prefix: str, chromium: Browser
) -> None:
    # A topic of its own, on the broker of the tests.
    tutorial = TUTORIAL.replace("market.prices", f"{prefix}.prices").replace(
        "localhost:9092", kafka
    )
    for name, text in files_of(tutorial).items():
        (tmp_path / name).write_text(text)
    make_topic, serve, write = (
        shlex.split(block.replace("\\\n", " ")) for block in blocks("bash", tutorial)
    )
    (lines,) = blocks("text", tutorial)
    kafka_tool(*make_topic)
    assert serve == ["python", "-m", "daphne", "project:application"]
    server = Server(tmp_path, {"KAFKA_BOOTSTRAP_SERVERS": kafka, "KAFKA_PREFIX": prefix})
    server.start()
    try:
        first = chromium.new_page()
        first.goto(f"http://127.0.0.1:{server.port}/")
        expect(first.locator("#tea")).to_have_text("\u2013")
        kafka_tool(*write, lines=lines.encode())
        second = chromium.new_page()
        for page in (first, second):
            if page is second:
                page.goto(f"http://127.0.0.1:{server.port}/")
            expect(page.locator("#tea")).to_have_text("4.25")
            expect(page.locator("#coffee")).to_have_text("6.35")
            page.context.close()
    finally:
        server.kill()
        sys.stderr.write(server.log)  # pytest shows it with a failure
