"""How the chat looks to people: sizes, colours and words, in headless Chromium."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, ViewportSize, expect

from tests.support.waiting import wait_until

from .browser import People, here, message, say

DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}
BETWEEN_LABEL_AND_EDGE = 8
"""Pixels, on either side of a button's label."""

DURATIONS = {
    0.2: "1 ms",
    6.7: "7 ms",
    48.4: "48 ms",
    999.4: "999 ms",
    999.6: "1 s",
    1500: "1.5 s",
    9940: "9.9 s",
    15488.2: "15 s",
    99_400: "99 s",
    150_000: "3 min",
}

LABELS = """
() => [...document.querySelectorAll(".button")].filter((button) =>
  button.checkVisibility() && button.innerText.trim()
).map((button) => {
  const label = document.createRange();
  label.selectNodeContents(button);
  const [inner, outer] = [label.getBoundingClientRect(), button.getBoundingClientRect()];
  return [button.innerText, inner.left - outer.left, outer.right - inner.right];
})
"""

# The area that is taken by the words of a message, and by what stands above them.
AREAS = """
(item) => ["message-head", "message-text"].map((name) => {
  const node = item.querySelector(`.${name}`);
  const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
  let area = 0;
  while (walker.nextNode()) {
    const range = document.createRange();
    range.selectNodeContents(walker.currentNode);
    const hidden = getComputedStyle(walker.currentNode.parentElement).clipPath !== "none";
    for (const { width, height } of hidden ? [] : range.getClientRects()) {
      area += width * height;
    }
  }
  return area;
})
"""


BACKGROUNDS = """
async (ids) => {
  const { avatar } = await import("/static/chat/js/people.js");
  const list = document.getElementById("here");
  return ids.map((id) => {
    const node = list.appendChild(avatar({ id, name: "Somebody" }));
    return getComputedStyle(node).backgroundColor;
  });
}
"""


def background(page: Page, name: str) -> Any:
    avatar = here(page).filter(has_text=name).locator(".avatar")
    return avatar.evaluate("(node) => getComputedStyle(node).backgroundColor")


def test_the_worker_can_be_killed_without_a_search_for_the_button(
    people: People, room: str
) -> None:
    ada = people.join("Ada", room)
    for size in (DESKTOP, PHONE):
        ada.set_viewport_size(size)
        button = ada.get_by_role("button", name="Kill worker-")
        expect(button).to_be_in_viewport(ratio=1)
        box = button.bounding_box()
        assert box is not None
        is_on_top = "([x, y]) => document.elementFromPoint(x, y).closest('#kill button') !== null"
        middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
        assert ada.evaluate(is_on_top, middle), size


def test_no_label_fills_its_button_edge_to_edge(people: People, room: str) -> None:
    ada = people.join("Ada", room)
    for size in (DESKTOP, PHONE):
        ada.set_viewport_size(size)
        if size is PHONE:
            ada.get_by_role("button", name="1 here").click()
        labels = ada.evaluate(LABELS)
        assert len(labels) >= 3, size
        narrow = [each for each in labels if min(each[1:]) < BETWEEN_LABEL_AND_EDGE]
        assert narrow == [], size


def test_durations_are_told_as_people_tell_them(people: People, room: str) -> None:
    ada = people.join("Ada", room)
    told = ada.evaluate(
        """async (all) => {
            const { duration } = await import("/static/chat/js/dom.js");
            return all.map(duration);
        }""",
        list(DURATIONS),
    )
    assert dict(zip(DURATIONS, told, strict=True)) == DURATIONS


def test_people_in_a_room_have_colours_of_their_own(people: People, room: str) -> None:
    ada = people.join("Ada", room)
    people.join("Bob", room)
    expect(here(ada)).to_have_count(2)
    # By their ids these six would have one colour.
    others = ada.evaluate(BACKGROUNDS, [f"0000{number:08}" for number in range(6)])
    assert len({background(ada, "Ada"), background(ada, "Bob"), *others}) == 8


def test_the_words_of_a_message_are_its_largest_part(people: People, room: str) -> None:
    ada = people.join("Ada", room, on="worker-1")
    bob = people.join("Bob", room, on="worker-2")
    for page, text in ((ada, "How do you do?"), (bob, "Very well, thank you."), (ada, "Good.")):
        say(page, text)
        expect(message(bob, text)).to_be_visible()
    above = message(bob, "How do you do?")
    head, words = above.evaluate(AREAS)
    assert head < words
    # The newest tells its way in words; who wants to know it of the others points at it.
    expect(message(bob, "Good.").get_by_text("worker-1")).to_have_css("clip-path", "none")
    expect(above.get_by_text("worker-1")).not_to_have_css("clip-path", "none")
    title = above.locator(".route").get_attribute("title")
    assert title is not None
    assert title.startswith("through worker-1→ to worker-2")


def test_the_chart_has_a_scale_and_tells_its_time(people: People, room: str) -> None:
    ada = people.join("Ada", room)
    people.join("Bob", room)
    chart = ada.locator(".chart")
    expect(chart).to_contain_text("per second")
    expect(chart).to_contain_text("a minute ago")
    expect(chart).to_contain_text("now")

    def has_grown() -> bool:
        say(ada, "A message")
        return chart.locator("#chart-most").inner_text() != "2"

    wait_until(has_grown, "the scale to grow with the messages", pause=0.2)
