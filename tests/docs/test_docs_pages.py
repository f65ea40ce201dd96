"""The site in headless Chromium: nothing is cut, on a desk and on a phone; search; dark mode."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from tests.support.accessibility import serious_findings
from tests.support.browsers import chromium

DOCS = Path(__file__).parents[2] / "docs"
DRAWINGS = sorted(set(DOCS.glob("images/*.svg")) - {DOCS / "images" / "logo.svg"})
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}
TIMEOUT = 30_000
"""Milliseconds; the machine may have other things to do."""

# What is wider than its place: the page, tables, and anything that stands beside the window.
TOO_WIDE = """
() => {
  const frame = (node) => node.closest(".md-typeset__scrollwrap, pre, .highlight");
  return {
    page: document.documentElement.scrollWidth > innerWidth,
    tables: [...document.querySelectorAll(".md-typeset table")]
      .filter((table) => table.scrollWidth > frame(table).clientWidth + 1)
      .map((table) => [table.rows[0].cells.length, table.innerText.slice(0, 60)]),
    beside: [...document.querySelectorAll(".md-content *")]
      .filter((node) => node.getBoundingClientRect().right > innerWidth + 1 && !frame(node))
      .map((node) => node.outerHTML.slice(0, 100)),
  };
}
"""

NARROWEST_COLUMN = """
() => Math.min(999, ...[...document.querySelectorAll(".md-typeset td")]
  .filter((cell) => cell.innerText.length > 20)
  .map((cell) => cell.getBoundingClientRect().width))
"""

# Texts of a drawing that leave it, and texts that lie on each other.
CLASHES = """
() => {
  const paper = document.documentElement.getBoundingClientRect();
  const texts = [...document.querySelectorAll("text")].map((text) => {
    const { left, right, top, bottom } = text.getBoundingClientRect();
    return { text: text.textContent, left, right, top: top + 3, bottom: bottom - 3 };
  });
  const meet = (one, other) => one.left < other.right && other.left < one.right &&
    one.top < other.bottom && other.top < one.bottom;
  const outside = ({ left, right, top, bottom }) => left < paper.left || right > paper.right ||
    top < paper.top || bottom > paper.bottom;
  return [
    ...texts.filter(outside).map(({ text }) => text),
    ...texts.flatMap((one, number) => texts.slice(number + 1)
      .filter((other) => meet(one, other)).map((other) => [one.text, other.text])),
  ];
}
"""

# The colour of a picture's corner, which is its paper.
PAPER = """
(image) => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 480, height: 480 });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, 480, 480);
  return [...context.getImageData(240, 2, 1, 1).data];
}
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def served(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def address(built_site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the site is, with nothing to search: each page that opens makes an index of all."""
    site = tmp_path_factory.mktemp("site")
    for each in built_site.iterdir():
        if each.name != "search":
            (site / each.name).symlink_to(each)
    index = json.loads((built_site / "search" / "search_index.json").read_text())
    (site / "search").mkdir()
    (site / "search" / "search_index.json").write_text(json.dumps({**index, "docs": []}))
    with served(site) as address:
        yield address


@pytest.fixture
def with_search(built_site: Path) -> Iterator[str]:
    """Where the whole site is."""
    with served(built_site) as address:
        yield address


@pytest.fixture
def page() -> Iterator[Page]:
    """A page that asks no other host for anything."""
    expect.set_options(timeout=TIMEOUT)
    context = chromium().new_context(viewport=DESKTOP, color_scheme="light")
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    yield page
    context.close()
    ours = ("http://127.0.0.1:", "blob:", "data:")
    assert [each for each in asked if not each.startswith(ours)] == []


def all_pages() -> list[str]:
    return ["", *sorted(f"{path.stem}/" for path in DOCS.glob("*.md") if path.stem != "index")]


def test_no_page_is_cut_on_a_desk_and_each_can_be_read_on_a_phone(address: str, page: Page) -> None:
    nothing = {"page": False, "tables": [], "beside": []}
    found = {}
    for each in all_pages():
        page.set_viewport_size(DESKTOP)
        page.goto(f"{address}/{each}")
        found[each] = page.evaluate(TOO_WIDE)
        assert page.evaluate(NARROWEST_COLUMN) > 60, each
        page.set_viewport_size(PHONE)
        wide = page.evaluate(TOO_WIDE)
        # Figures in many columns move within their own frame, beside their first column.
        assert [table for table in wide["tables"] if table[0] < 5] == [], each
        assert not wide["page"], each
        assert wide["beside"] == [], each
        assert page.evaluate(NARROWEST_COLUMN) > 60, each
    assert found == dict.fromkeys(found, nothing)


def test_everybody_can_read_them(address: str, page: Page) -> None:
    for each, dark in (("", False), ("", True), ("quickstart/", True), ("comparison/", False)):
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.set_viewport_size(DESKTOP if dark else PHONE)
        page.goto(f"{address}/{each}")
        assert serious_findings(page) == [], f"{each}, dark: {dark}"


def test_the_search_finds_a_setting(with_search: str, page: Page) -> None:
    page.goto(with_search)
    page.get_by_role("textbox", name="Search").press_sequentially("recent_bytes")
    page.locator(".md-search-result__link").first.click()
    expect(page).to_have_url(re.compile(f"^{with_search}/settings/"))


def test_the_texts_of_the_drawings_have_room(address: str, page: Page) -> None:
    assert len(DRAWINGS) == 6
    for each in DRAWINGS:
        page.goto(f"{address}/images/{each.name}")
        assert page.locator("text").count() > 5
        assert page.evaluate(CLASHES) == [], each


def test_dark_mode_switches_the_pages_and_their_drawings(address: str, page: Page) -> None:
    page.goto(f"{address}/design/")
    drawing = page.locator(".md-content img[src$='.svg']").first
    body = page.locator("body")
    expect(body).to_have_css("background-color", "rgb(255, 255, 255)")
    light = drawing.evaluate(PAPER)

    page.get_by_title("Switch to dark mode").click()

    expect(body).to_have_attribute("data-md-color-scheme", "slate")
    expect(body).not_to_have_css("background-color", "rgb(255, 255, 255)")
    assert drawing.evaluate(PAPER) != light
    page.goto(address)
    expect(body).to_have_attribute("data-md-color-scheme", "slate")
    expect(page.locator("img[src$='demo-dark.png#only-dark']")).to_be_visible()
    expect(page.locator("img[src$='demo.png#only-light']")).to_be_hidden()
