"""The board of prices in headless Chromium: a topic of other programs, on two workers."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, ViewportSize, expect

from demo_project.market import PRICES
from tests.support.records import console_produce, produce

from .browser import DESKTOP, PHONE, People, take
from .demo import Demo

# The ratio of each text's colour to what is behind it (WCAG 2), for the smallest ones first.
CONTRASTS = """
() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const over = (...colours) => {
    context.clearRect(0, 0, 1, 1);
    for (const colour of colours) {
      context.fillStyle = colour;
      context.fillRect(0, 0, 1, 1);
    }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((each) => each / 255).map((each) =>
      each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const backgrounds = (node) =>
    node ? [...backgrounds(node.parentElement), getComputedStyle(node).backgroundColor] : [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (texts.nextNode()) {
    const node = texts.currentNode.parentElement;
    if (texts.currentNode.data.trim() && node.checkVisibility() && !node.closest("script")) {
      const behind = backgrounds(node);
      const [text, back] = [over(...behind, getComputedStyle(node).color), over(...behind)];
      const [dark, light] = [luminance(text), luminance(back)].sort((a, b) => a - b);
      found.push([(light + 0.05) / (dark + 0.05), texts.currentNode.data.trim()]);
    }
  }
  return found.sort(([a], [b]) => a - b);
}
"""

# The cells whose text is cut.
CUT = """
() => [...document.querySelectorAll(":is(th, td)")]
  .filter((cell) => cell.checkVisibility() && cell.scrollWidth > cell.clientWidth)
  .map((cell) => cell.innerText)
"""

Write = Callable[..., None]


@pytest.fixture
def name() -> str:
    """What nobody else sells."""
    return f"plums {secrets.token_hex(3)}"


def by_a_producer(servers: str, topic: str, name: str, *prices: float) -> None:
    """Write prices as a program of somebody else does."""
    values = [json.dumps({"price": price}).encode() for price in prices]
    produce(servers, topic, values, -1, name.encode())


def by_the_console_producer(servers: str, topic: str, name: str, *prices: float) -> None:
    """Write prices with Kafka's own tool, as the page says."""
    lines = [f'{name}: {{"price": {price}}}\n' for price in prices]
    console_produce(servers, topic, "".join(lines).encode())


@pytest.fixture
def sell(demo: Demo, kafka: str) -> Write:
    return lambda name, *prices: by_a_producer(kafka, topic_of(demo), name, *prices)


def topic_of(demo: Demo) -> str:
    return f"{demo.prefix}.prices"


def row(page: Page, name: str) -> Locator:
    table = page.get_by_role("table", name="Prices")
    header = page.get_by_role("rowheader", name=name, exact=True)
    return table.get_by_role("row").filter(has=header)


def cells(page: Page, name: str) -> list[str]:
    """What the row shows: its price, the last change, and how many records came."""
    shown = row(page, name)
    return [shown.locator(f"td.{each}").inner_text() for each in ("price", "change", "changes")]


@pytest.mark.parametrize(
    ("write", "size"),
    [(by_a_producer, DESKTOP), (by_the_console_producer, PHONE)],
    ids=["producer-desktop", "console-phone"],
)
def test_the_last_price_comes_first_and_then_each_change(
    people: People, demo: Demo, kafka: str, name: str, write: Write, sell: Write, size: ViewportSize
) -> None:
    write(kafka, topic_of(demo), name, 3, 3.2)
    label = name.capitalize()
    first = people.watch(name, on="worker-1", size=size)
    second = people.watch(name, on="worker-2", size=size)
    for page in (first, second):
        expect(row(page, label).locator(".price")).to_have_text("3.20")
        expect(row(page, label).locator(".change")).to_have_text("")
        # The market is open, and sells everything.
        expect(page.locator("#prices tr")).to_have_count(len(PRICES) + 1)
        expect(page.locator("#prices .price").get_by_text("\u2013")).to_have_count(0)
        expect(
            page.locator("#prices .change").filter(has_text=re.compile("[▲▼]"))
        ).not_to_have_count(0)
    # From another program, whose records of this name are in the same partition.
    sell(name, 3.5)
    for page in (first, second):
        expect(row(page, label).locator(".change")).to_have_text("▲ +0.30")
    sell(name, 3.1)
    for page in (first, second):
        expect(row(page, label).locator(".change")).to_have_text("▼ -0.40")
        expect(row(page, label).get_by_role("img")).to_have_accessible_name("From 3.10 to 3.50")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert cells(second, label)[0] == "3.10"


def test_a_killed_worker_costs_no_change(
    people: People, demo: Demo, name: str, sell: Write
) -> None:
    sell(name, 1)
    label = name.capitalize()
    lost, kept = people.watch(name, on="worker-2"), people.watch(name, on="worker-1")
    for page in (lost, kept):
        expect(row(page, label).locator(".price")).to_have_text("1.00")
    pid = people.kill("worker-2")
    sell(name, 2, 3, 4, 5, 6)
    for page in (lost, kept):
        expect(row(page, label).locator(".price")).to_have_text("6.00")
        assert cells(page, label) == ["6.00", "▲ +1.00", "6"]
    expect(lost.get_by_role("status").filter(has_text="Back, with")).to_be_visible()
    expect(kept.locator("#note")).to_be_empty()
    demo.wait_until_back("worker-2", pid)


def test_who_disconnects_and_comes_back_gets_what_changed_meanwhile(
    people: People, name: str, sell: Write
) -> None:
    sell(name, 1)
    label = name.capitalize()
    page, other = people.watch(name), people.watch(name)
    expect(row(page, label).locator(".price")).to_have_text("1.00")
    page.get_by_role("button", name="Disconnect").press("Enter")
    expect(page.locator("#connection")).to_contain_text("Disconnected")
    sell(name, 2, 1.5, 2.5)
    expect(row(other, label).locator(".price")).to_have_text("2.50")
    assert cells(page, label) == ["1.00", "", "1"]
    page.get_by_role("button", name="Connect again").press("Enter")
    expect(row(page, label).locator(".price")).to_have_text("2.50")
    assert cells(page, label) == ["2.50", "▲ +1.00", "4"]
    expect(row(page, label).get_by_role("img")).to_have_accessible_name("From 1.00 to 2.50")
    expect(page.get_by_role("button", name="Disconnect")).to_be_visible()


def test_what_is_no_price_changes_nothing(
    people: People, demo: Demo, kafka: str, name: str, sell: Write
) -> None:
    values = [b"{", b"7", b'{"price": "high"}', b'{"price": NaN}', b'{"price": 1e999}']
    sell(name, 5)
    produce(kafka, topic_of(demo), values, -1, name.encode())
    page = people.watch(name)
    expect(row(page, name.capitalize()).locator(".price")).to_have_text("5.00")
    produce(kafka, topic_of(demo), values, -1, name.encode())
    sell(name, 6)
    expect(row(page, name.capitalize()).locator(".price")).to_have_text("6.00")
    assert cells(page, name.capitalize())[2] == "2"


def test_a_row_is_added_and_a_script_is_text(people: People, sell: Write, name: str) -> None:
    script = f"<img src=x onerror=alert(1)> {secrets.token_hex(1)}"
    sell(script, 4)
    sell(name, 3)
    page = people.watch()
    for each in (script, name):
        page.get_by_label("Add a row").fill(each)
        page.get_by_role("button", name="Add").click()
    expect(row(page, script).locator(".price")).to_have_text("4.00")
    expect(row(page, name.capitalize()).locator(".price")).to_have_text("3.00")


def test_the_chat_and_the_board_lead_to_each_other(people: People, room: str) -> None:
    chat = people.join("Ada", room)
    with chat.context.expect_page() as opened:
        chat.get_by_role("link", name="Live prices").click()
    board = opened.value
    expect(board.get_by_role("heading", name="Prices")).to_be_visible()
    board.get_by_role("link", name="Chat", exact=True).click()
    expect(board.get_by_role("heading", name="Join the chat")).to_be_visible()
    board.get_by_role("link", name="board of live prices").click()
    expect(board.get_by_role("table", name="Prices")).to_be_visible()


def test_it_can_be_read_in_light_and_dark_by_everybody(
    people: People, sell: Write, screenshots: Path
) -> None:
    rising, falling = (f"{each} {secrets.token_hex(2)}" for each in ("rising", "falling"))
    page = people.watch(rising, falling)
    for name, prices in ((rising, (1, 1.1, 1.3, 1.2, 1.5)), (falling, (9, 8.5, 8.7, 1e6, 1e308))):
        sell(name, *prices)
        expect(row(page, name.capitalize()).locator(".changes")).to_have_text("5")
    sell(falling, 3)
    expect(row(page, falling.capitalize()).locator(".change")).to_contain_text("▼")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        for size, viewport in (("desktop", DESKTOP), ("phone", PHONE)):
            page.set_viewport_size(viewport)
            take(page, screenshots / f"board-{size}-{scheme}.png")
            assert page.evaluate(CUT) == []
            contrasts = page.evaluate(CONTRASTS)
            assert len(contrasts) > 40
            assert [each for each in contrasts if each[0] < 4.5] == []
    # Prices that change all the time are not read out, and nothing moves for who wants it so.
    assert page.get_by_role("table").locator("[aria-live], [role=status]").count() == 0
    up = row(page, rising.capitalize()).locator(".price span")
    expect(up).to_have_css("animation-name", "none")
    page.emulate_media(reduced_motion="no-preference")
    expect(up).to_have_css("animation-name", "settle")
