"""The page for staff in headless Chromium: two servers and a worker, light, dark, phone, keys."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.support.accessibility import serious_findings
from tests.support.waiting import wait_until

from .browser import DESKTOP, PHONE, People, say, take
from .demo import START_TIMEOUT, Demo

# Puts ten minutes before what a page has stored: waves around the means of its figures.
EARLIER = """
const key = Object.keys(sessionStorage).find((each) => each.startsWith("kafka-layer"));
const stored = JSON.parse(sessionStorage.getItem(key) ?? '{"times": [], "series": {}}');
const before = Array.from({ length: 590 - stored.times.length }, (_, at) => at);
const start = (stored.times[0] ?? Date.now()) - before.length * 1000;
for (const [name, values] of Object.entries(stored.series)) {
  const known = values.filter((value) => value !== null);
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  const wave = (at) =>
    1 + 0.4 * Math.sin(at / 50 + name.length) + 0.2 * Math.sin(at / 9) + 0.1 * Math.sin(at * at);
  const whole = known.every(Number.isInteger);
  const earlier = before.map((at) => (whole ? Math.round(mean * wave(at)) : mean * wave(at)));
  stored.series[name] = [...earlier, ...values];
}
stored.times = [...before.map((at) => start + at * 1000), ...stored.times];
sessionStorage.setItem(key, JSON.stringify(stored));
"""

NOTE_NEWS = """
() => {
  window.news = [];
  const node = document.getElementById("news");
  new MutationObserver(() => news.push(node.textContent)).observe(node, { childList: true });
}
"""


def sheet(page: Page, name: str) -> Locator:
    return page.get_by_role("table", name=name)


def card(page: Page, title: str) -> Locator:
    return page.get_by_role("article").filter(has=page.get_by_role("heading", name=title))


def row(page: Page, pid: int) -> Locator:
    """The row of the server in a process."""
    name = re.compile(rf"pid {pid}\b")
    return sheet(page, "Servers").get_by_role("row").filter(has_text=name)


def is_told(page: Page, *pids: int) -> None:
    """Wait until the servers in these processes say that they are connected."""
    for pid in pids:
        expect(row(page, pid).locator(".state")).to_have_text("connected")


def web_pids(demo: Demo) -> list[int]:
    return [demo.worker_pids(worker)[-1] for worker in sorted(demo.workers)]


@pytest.fixture
def chat(people: People, room: str) -> Page:
    """Somebody in the chat, who has had a job done."""
    ada = people.join("Ada", room)
    say(ada, "/roll 3d6")
    expect(ada.get_by_text("background job")).to_be_visible()
    return ada


def test_it_shows_what_every_server_does(people: People, demo: Demo, chat: Page, room: str) -> None:
    page = people.look()
    is_told(page, *web_pids(demo), demo.worker_pids("job-1")[-1])
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

    wait_until(is_counted, "a message to a group to show", pause=1)
    expect(card(page, "Sent").get_by_role("img")).to_have_accessible_name(
        re.compile(r"^Sent, messages a second, over 10 minutes: Groups .* now, .* at most")
    )
    expect(card(page, "Dropped")).to_contain_text("No message was dropped")


def begins_at(page: Page) -> float:
    """Where the line of the latency begins: 0 is 10 minutes ago, 600 now."""
    drawn = card(page, "Latency").locator(".line").first.get_attribute("d")
    return float(drawn.partition(" ")[0].removeprefix("M")) if drawn else 600


def test_servers_come_and_go_while_it_is_open(people: People, demo: Demo, room: str) -> None:
    for worker in demo.workers:
        people.join("Ada", room, on=worker)
    page = people.look()
    is_told(page, *web_pids(demo))
    own = sheet(page, "Servers").get_by_role("row").filter(has_text="this page\u2019s")
    [mine] = [pid for pid in web_pids(demo) if f"pid {pid} " in own.inner_text()]
    [other] = set(web_pids(demo)) - {mine}
    # Each is there for some seconds only.
    page.evaluate(NOTE_NEWS)
    people.connections_fail = True
    os.kill(other, signal.SIGKILL)
    expect(row(page, other)).to_contain_text("silent for")
    expect(page.locator("#tiles")).to_contain_text("1 silent")
    wait_until(lambda: other not in web_pids(demo), "its worker to listen again", START_TIMEOUT)
    # It is a server once somebody connects to it.
    [worker] = [each for each in demo.workers if other in demo.worker_pids(each)]
    people.join("Bob", room, on=worker)
    is_told(page, *web_pids(demo))
    page.wait_for_function("news.some((each) => each.includes('has started'))")

    # Its own server, too: the page goes on with the other one, and keeps what it knows.
    os.kill(mine, signal.SIGKILL)
    expect(row(page, mine)).to_contain_text("silent for")
    expect(own.locator(".state")).to_have_text("connected")
    expect(page.locator("#note")).to_be_empty()
    wait_until(lambda: mine not in web_pids(demo), "its worker to listen again", START_TIMEOUT)


def without_backlogs(route: Route) -> None:
    told = route.fetch().json()
    route.fulfill(json={**told, "backlogs": [], "backlog_trouble": "No broker answers."})


def test_it_says_what_keeps_it_from_its_websocket_and_from_the_figures(people: People) -> None:
    page = people.look()
    page.route_web_socket("**/kafka/socket", lambda socket: socket.close())
    page.reload()
    expect(page.locator("#link")).to_contain_text("Live by HTTP")
    expect(page.locator("#note")).to_contain_text("kafka_layer.urls.websocket_urlpatterns")
    expect(sheet(page, "Servers").locator("tbody tr")).not_to_have_count(0)

    # What waits, and how many work, is unknown where no broker tells it.
    page.route("**/kafka/state*", without_backlogs)
    jobs = sheet(page, "Worker channels").get_by_role("row", name="jobs")
    expect(jobs.locator("td").nth(1)).to_have_text("\u2013")

    page.route("**/kafka/state*", lambda route: route.fulfill(status=403, body="{}"))
    expect(page.locator("#link")).to_contain_text("No access")
    expect(page.locator("#note")).to_contain_text("Log in again")
    # The browser itself complains of the answer.
    people.complaints.clear()


@pytest.mark.usefixtures("chat")
def test_it_keeps_its_course_and_is_used_by_keys_and_stands_still(people: People) -> None:
    page = people.look()
    frames: list[object] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda one: frames.append(one)))
    wait_until(lambda: begins_at(page) < 597, "the line to grow", pause=0.2)
    page.reload()
    wait_until(lambda: begins_at(page) < 600, "the line to be there again", pause=0.2)
    assert begins_at(page) < 597

    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the servers")
    expect(skip).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("h2#servers")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("group", name="Servers")).to_be_focused()

    pause = page.get_by_role("button", name="Pause")
    pause.press("Enter")
    expect(pause).to_have_attribute("aria-pressed", "true")
    stands, seen = begins_at(page), len(frames)
    wait_until(lambda: page.wait_for_timeout(50) or len(frames) > seen + 1, "two more pictures")
    assert begins_at(page) == stands
    pause.press("Enter")
    wait_until(lambda: begins_at(page) != stands, "the line to go on", pause=0.2)
    # Figures that change all the time are not read out.
    expect(page.locator("main [role=status]")).to_have_count(2)
    expect(page.locator("section [role=status], section [aria-live]")).to_have_count(0)


def test_it_can_be_read_by_everybody(
    people: People, demo: Demo, chat: Page, screenshots: Path
) -> None:
    page = people.look()
    for number in range(6):
        say(chat, f"Message {number}")
    expect(card(page, "Sent").get_by_role("row", name="Groups")).to_be_visible()
    is_told(page, *web_pids(demo))
    # Ten minutes that no test can wait for, of the figures of now.
    page.add_init_script(EARLIER)
    page.reload()
    is_told(page, *web_pids(demo))
    sizes = {"desktop": DESKTOP, "phone": PHONE}
    for scheme, size in (("light", "desktop"), ("dark", "phone")):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size(sizes[size])
        take(page, screenshots / f"servers-{size}-{scheme}.png")
        assert serious_findings(page) == [], f"{size}, {scheme}"
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(DESKTOP)
    page.screenshot(path=screenshots / "servers.png", full_page=True)
