"""The page for staff in headless Chromium: two servers and a worker, light, dark, phone, keys."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.waiting import wait_until

from .browser import DESKTOP, PHONE, People, say, take
from .demo import Demo

AXE = "axe-core@4.10"

# The impact of each finding of axe-core that matters, with what it is about.
FINDINGS = """
async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, impact, nodes }) => [impact, id, nodes[0].html, nodes[0].failureSummary]);
}
"""


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, from npm."""
    npm = shutil.which("npm")
    if npm is None:
        if os.environ.get("KAFKA_LAYER_REQUIRE_BROWSER") == "1":
            pytest.fail("No npm on PATH (KAFKA_LAYER_REQUIRE_BROWSER=1)", pytrace=False)
        pytest.skip("No npm on PATH, to get axe-core from")
    folder = tmp_path_factory.mktemp("axe")
    for attempt in range(3):
        done = subprocess.run([npm, "pack", "--silent", AXE], cwd=folder, check=attempt == 2)
        if done.returncode == 0:
            break
    [archive] = folder.glob("*.tgz")
    with tarfile.open(archive) as opened:
        script = opened.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


def sheet(page: Page, name: str) -> Locator:
    return page.get_by_role("table", name=name)


def card(page: Page, title: str) -> Locator:
    return page.get_by_role("article").filter(has=page.get_by_role("heading", name=title))


def well(page: Page) -> Locator:
    """The rows of the servers that say that they are connected."""
    connected = page.locator(".state").get_by_text("connected", exact=True)
    return sheet(page, "Servers").locator("tbody tr").filter(has=connected)


@pytest.fixture
def chat(people: People, room: str) -> Page:
    """Somebody in the chat, who has had a job done."""
    ada = people.join("Ada", room)
    say(ada, "/roll 3d6")
    expect(ada.get_by_text("background job")).to_be_visible()
    return ada


def test_it_shows_what_every_server_does(people: People, chat: Page, room: str) -> None:
    page = people.look()
    expect(well(page)).to_have_count(2)
    expect(sheet(page, "Servers").get_by_text("this page\u2019s")).to_have_count(1)
    streams = sheet(page, "Streams").locator("tbody tr")
    expect(streams).to_contain_text("prices")
    expect(streams.locator(".state")).to_have_text("reading")
    jobs = sheet(page, "Worker channels").get_by_role("row", name="jobs")
    expect(jobs.locator("td").nth(1)).to_have_text("1")
    expect(sheet(page, "Largest groups")).to_contain_text(room)
    expect(card(page, "Latency").get_by_role("row").nth(1)).to_contain_text(re.compile(r"\d"))

    def is_counted() -> bool:
        say(chat, "Once more")
        return card(page, "Sent").get_by_role("row", name="Groups").is_visible()

    wait_until(is_counted, "a message to a group to show", 20, pause=1)
    expect(card(page, "Sent").get_by_role("img")).to_have_accessible_name(
        re.compile(r"^Sent, messages a second, over 10 minutes: Groups .* now, .* at most")
    )
    expect(card(page, "Dropped")).to_contain_text("No message was dropped")


def begins_at(page: Page) -> float:
    """Where the line of the latency begins: 0 is 10 minutes ago, 600 now."""
    drawn = card(page, "Latency").locator(".line").first.get_attribute("d")
    return float(drawn.partition(" ")[0].removeprefix("M")) if drawn else 600


@pytest.mark.usefixtures("chat")
def test_a_reload_keeps_the_course(people: People) -> None:
    page = people.look()
    wait_until(lambda: begins_at(page) < 597, "the line to grow", 20)
    page.reload()
    wait_until(lambda: begins_at(page) < 600, "the line to be there again")
    assert begins_at(page) < 597


def test_servers_come_and_go_while_it_is_open(people: People, demo: Demo) -> None:
    page = people.look()
    rows = sheet(page, "Servers").locator("tbody tr")
    expect(well(page)).to_have_count(2)
    killed = kill(rows.filter(has_not_text="this page\u2019s").first)
    expect(rows.filter(has_text=killed)).to_contain_text("silent for")
    expect(page.locator("#tiles")).to_contain_text("1 silent")
    expect(page.locator("#news")).to_contain_text("has come")
    expect(well(page)).to_have_count(2)

    # Its own server, too: the page goes on with another one, and keeps what it knows.
    killed = kill(rows.filter(has_text="this page\u2019s"))
    expect(rows.filter(has_text=killed)).to_contain_text("silent for")
    expect(well(page).filter(has_text="this page\u2019s")).to_have_count(1)
    expect(page.locator("#note")).to_be_empty()
    wait_until(
        lambda: all(len(demo.worker_pids(each)) > 1 for each in demo.workers),
        "both workers to listen again",
        20,
    )


def kill(row: Locator) -> str:
    """Kill the process of a row; return what the row calls it."""
    [pid] = re.findall(r"pid (\d+)", row.inner_text())
    os.kill(int(pid), signal.SIGKILL)
    return f"pid {pid}"


def test_without_its_websocket_it_asks_and_says_how_to_mend_that(people: People) -> None:
    page = people.look()
    page.route_web_socket("**/kafka/socket", lambda socket: socket.close())
    page.reload()
    expect(page.locator("#link")).to_contain_text("Asks each second")
    expect(page.locator("#note")).to_contain_text("kafka_layer.urls.websocket_urlpatterns")
    expect(sheet(page, "Servers").locator("tbody tr")).not_to_have_count(0)


def test_whoever_may_not_see_it_any_more_is_told(people: People) -> None:
    page = people.look()
    page.route("**/kafka/state*", lambda route: route.fulfill(status=403, body="{}"))
    page.reload()
    expect(page.locator("#link")).to_contain_text("Not let in")
    expect(page.locator("#note")).to_contain_text("Log in again")
    # The browser itself complains of the answer.
    people.complaints.clear()


@pytest.mark.usefixtures("chat")
def test_it_is_used_by_keys_and_stands_still_when_asked(people: People) -> None:
    page = people.look()
    frames: list[object] = []
    page.on("websocket", lambda socket: socket.on("framereceived", frames.append))
    page.reload()
    expect(well(page)).to_have_count(2)
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the servers")
    expect(skip).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("h2#servers")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("group", name="Servers")).to_be_focused()

    wait_until(lambda: begins_at(page) < 600, "the line to grow", 20)
    pause = page.get_by_role("button", name="Pause")
    pause.press("Enter")
    expect(pause).to_have_attribute("aria-pressed", "true")
    stands, seen = begins_at(page), len(frames)
    wait_until(lambda: page.wait_for_timeout(50) or len(frames) > seen + 1, "two more pictures")
    assert begins_at(page) == stands
    pause.press("Enter")
    wait_until(lambda: begins_at(page) != stands, "the line to go on")
    # Figures that change all the time are not read out.
    expect(page.locator("main [role=status]")).to_have_count(2)
    expect(page.locator("section [role=status], section [aria-live]")).to_have_count(0)


def test_it_can_be_read_by_everybody(
    people: People, chat: Page, axe: str, screenshots: Path
) -> None:
    page = people.look()
    for number in range(6):
        say(chat, f"Message {number}")
    expect(card(page, "Sent").get_by_role("row", name="Groups")).to_be_visible()
    expect(well(page)).to_have_count(2)
    page.evaluate(axe)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        for size, viewport in (("desktop", DESKTOP), ("phone", PHONE)):
            page.set_viewport_size(viewport)
            take(page, screenshots / f"servers-{size}-{scheme}.png")
            assert page.evaluate(FINDINGS) == [], f"{size}, {scheme}"
