"""The pages of the documentation in headless Chromium: nothing is cut, on a desk and on a phone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.browsers import chromium

DOCS = Path(__file__).parents[2] / "docs"
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}

# What is wider than its place: the page, tables, and anything that stands beside the window.
TOO_WIDE = """
() => {
  const frame = (node) => node.closest(".wy-table-responsive, pre, .highlight");
  return {
    page: document.documentElement.scrollWidth > innerWidth,
    tables: [...document.querySelectorAll(".rst-content table")]
      .filter((table) => table.scrollWidth > table.parentElement.clientWidth + 1)
      .map((table) => [table.rows[0].cells.length, table.innerText.slice(0, 60)]),
    beside: [...document.querySelectorAll(".rst-content *")]
      .filter((node) => node.getBoundingClientRect().right > innerWidth + 1 && !frame(node))
      .map((node) => node.outerHTML.slice(0, 100)),
  };
}
"""

NARROWEST_COLUMN = """
() => Math.min(999, ...[...document.querySelectorAll(".rst-content td")]
  .filter((cell) => cell.innerText.length > 20)
  .map((cell) => cell.getBoundingClientRect().width))
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def all_pages() -> list[str]:
    return ["", *sorted(f"{path.stem}/" for path in DOCS.glob("*.md") if path.stem != "index")]


def test_no_page_is_cut_on_a_desk_and_each_can_be_read_on_a_phone(address: str) -> None:
    page = chromium().new_page(viewport=DESKTOP)
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
