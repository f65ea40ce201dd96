"""The chat in headless Chromium, on a real Kafka and two workers.

Screenshots go to the folder that DEMO_SCREENSHOTS names, or to a temporary one.
"""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.support.waiting import wait_until

from .browser import DESKTOP, PHONE, People, here, message, say, take
from .demo import Demo

SCRIPT = "<script>document.title = 'taken over'</script><img src=x onerror=alert(1)>"


def test_two_browsers_on_two_workers_talk(people: People, room: str) -> None:
    ada = people.fill_in("Ada Lovelace", room, on="worker-1")
    bob = people.fill_in("Bob", room, on="worker-2")
    say(ada, "Hello from the first worker")
    expect(message(bob, "Hello from the first worker")).to_contain_text("worker-1→ to worker-2")
    say(bob, "And back")
    expect(message(ada, "And back")).to_contain_text("Bob")
    expect(message(bob, "And back")).to_contain_text("You")


def test_a_script_is_shown_as_text(people: People, room: str) -> None:
    ada = people.fill_in("<b>Ada</b>", room)
    bob = people.join("Bob", room)
    say(ada, SCRIPT)
    expect(message(bob, SCRIPT)).to_contain_text("<b>Ada</b>")
    expect(here(bob).filter(has_text="<b>Ada</b>")).to_be_visible()
    for page in (ada, bob):
        assert page.title() == f"#{room} · kafka_layer chat"
        assert page.locator("#messages :is(script, img, b)").count() == 0


def test_a_direct_message_reaches_both_tabs_and_nobody_else(people: People, room: str) -> None:
    ada = people.join("Ada", room, on="worker-1")
    ada_2 = people.second_tab(ada, on="worker-2")
    bob = people.join("Bob", room, on="worker-1")
    bob_2 = people.second_tab(bob, on="worker-2")
    eve = people.join("Eve", room)

    ada.get_by_role("button", name="Write to Bob").click()
    expect(ada.get_by_role("textbox", name="Message to Bob alone")).to_be_focused()
    say(ada, "Between you and me")
    for page in (ada, ada_2, bob, bob_2):
        shown = message(page, "Between you and me")
        expect(shown).to_have_count(1)
        expect(shown).to_have_class(re.compile(r"\bdirect\b"))
    expect(message(bob, "Between you and me")).to_contain_text("only to you")
    expect(message(ada_2, "Between you and me")).to_contain_text("only to Bob")

    # Back to the room with the keyboard; what Eve gets then is all that she got.
    ada.get_by_role("textbox").press("Escape")
    say(ada, "Hello everyone")
    expect(message(eve, "Hello everyone")).to_be_visible()
    expect(eve.locator(".message")).to_have_count(1)


def test_one_can_answer_a_direct_message_by_its_name(people: People, room: str) -> None:
    ada = people.join("Ada", room)
    bob = people.join("Bob", room)
    say(ada, "Anyone here?")
    bob.get_by_role("log").get_by_role("button", name="Ada").press("Enter")
    say(bob, "Me")
    expect(message(ada, "Me")).to_contain_text("only to you")


def test_the_list_shows_who_is_here(people: People, room: str) -> None:
    ada = people.join("Ada", room, on="worker-1")
    bob = people.join("Bob", room)
    people.second_tab(bob)
    expect(here(ada).last).to_contain_text("2 pages")
    # From here on the second tab is there, however long another page takes to load.
    people.on(bob, "worker-2")
    for page in (ada, bob):
        expect(here(page)).to_have_count(2)
    expect(here(bob).first).to_contain_text("Bob (you)")
    expect(here(ada).last).to_contain_text("2 pages")
    expect(ada.get_by_role("log")).to_contain_text("Bob joined")
    bob.reload()
    bob.get_by_role("button", name="Connect again").click()
    expect(here(bob)).to_have_count(2)
    bob.context.close()
    expect(here(ada)).to_have_count(1)
    # Neither the second tab nor the reload was news.
    expect(ada.get_by_text("Bob joined")).to_have_count(1)
    expect(ada.get_by_text("Bob left")).to_have_count(1)


def type_until_seen(page: Page, name: str, other: Page) -> None:
    """Have somebody type until another page says so."""

    def is_seen() -> bool:
        # Typed again and again: the words go 4 s after the last key that was told.
        page.get_by_role("textbox").press_sequentially("l")
        return other.locator("#typing").inner_text() == f"{name} is typing…"

    wait_until(is_seen, f"a page to see that {name} is typing", pause=0.2)


def test_typing_is_shown_to_the_others(people: People, room: str) -> None:
    ada = people.join("Ada", room)
    bob = people.join("Bob", room)

    type_until_seen(ada, "Ada", bob)
    expect(ada.locator("#typing")).to_be_empty()
    say(ada, "Hello")
    expect(message(bob, "Hello")).to_be_visible()
    expect(bob.locator("#typing")).to_be_empty()


def test_the_details_can_be_used_on_a_phone(people: People, room: str) -> None:
    ada = people.join("Ada", room)
    people.join("Bob", room)
    ada.set_viewport_size(PHONE)
    toggle = ada.get_by_role("button", name="2 here")
    toggle.press("Enter")
    ada.get_by_role("button", name="Write to Bob").press("Enter")
    expect(ada.get_by_role("textbox", name="Message to Bob alone")).to_be_focused()
    expect(here(ada).first).to_be_hidden()
    assert ada.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_everything_at_once_for_the_screenshots(
    people: People, demo: Demo, screenshots: Path
) -> None:
    room = "lobby"
    grace = people.join("Grace Hopper", room, on="worker-2")
    alan = people.join("Alan", room, on="worker-1")
    people.second_tab(alan, on="worker-2")
    ada = people.join("Ada Lovelace", room, on="worker-1")
    expect(here(ada)).to_have_count(3)

    say(grace, "Good morning! Which worker are you on?")
    expect(message(ada, "Good morning! Which worker are you on?")).to_be_visible()
    say(ada, "The first one, and you came through the second.")
    say(ada, "/roll 3d6")
    expect(ada.get_by_text("background job")).to_be_visible()
    staff = people.join("Staff", "office")
    staff.goto(f"{demo.address}/announce/?token={demo.staff_token}")
    staff.get_by_label("Announcement").fill("Coffee is ready in the kitchen.")
    staff.get_by_role("button", name="Send to everyone").click()
    expect(staff.get_by_role("status")).to_contain_text("Coffee is ready in the kitchen.")
    for page in (ada, grace, alan):
        expect(page.locator(".announcement")).to_contain_text("Coffee is ready in the kitchen.")
    say(alan, "See you there.")
    expect(message(ada, "See you there.")).to_be_visible()
    grace.get_by_role("button", name="Write to Ada Lovelace").click()
    say(grace, "Save me a cup, will you?")
    expect(message(ada, "Save me a cup, will you?")).to_be_visible()
    ada.get_by_role("button", name="Write to Grace Hopper").click()
    say(ada, "With milk, as always.")
    expect(message(grace, "With milk, as always.")).to_be_visible()
    ada.get_by_role("textbox").press("Escape")
    ada.mouse.move(0, 0)
    expect(ada.locator("#workers li")).to_have_count(3)
    type_until_seen(alan, "Alan", ada)

    for page, name in ((ada, "room"), (staff, "announce")):
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            for size, viewport in (("desktop", DESKTOP), ("phone", PHONE)):
                page.set_viewport_size(viewport)
                take(page, screenshots / f"{name}-{size}-{scheme}.png")
    ada.get_by_role("button", name="3 here").click()
    take(ada, screenshots / "details-phone-dark.png")
    ada.get_by_role("button", name="Write to Alan").click()
    take(ada, screenshots / "direct-phone-dark.png")
    assert len(list(screenshots.glob("*.png"))) >= 10
