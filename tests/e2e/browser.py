"""People with a browser, headless Chromium, and what there is to see on a page."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    ViewportSize,
    expect,
)

from tests.support.waiting import wait_until

from .demo import MOST_CONNECTIONS, Demo, join

DESKTOP: ViewportSize = {"width": 1180, "height": 880}
PHONE: ViewportSize = {"width": 390, "height": 780}
TIMEOUT = 30_000
"""Milliseconds; the machine may have other things to do."""


_FAILED_CONNECTION = re.compile(
    r"WebSocket connection to '[^']+' failed: |Failed to load resource: net::ERR_(CONN|EMPTY)"
)

_CONNECTED = re.compile(r"through worker-\d")

# By the page's own button, which takes less than half of what a reload takes.
_CONNECT_TO = """
([worker, most, timeout]) => new Promise((done, failed) => {
  const connection = document.getElementById("connection");
  const fail = () => failed(new Error(`no connection led to ${worker}`));
  const look = () => {
    if (connection.dataset.state !== "open") {
      return;
    }
    if (connection.querySelector(".badge").textContent === worker) {
      watcher.disconnect();
      done();
    } else if (most-- > 0) {
      document.getElementById("reconnect").click();
    } else {
      fail();
    }
  };
  const watcher = new MutationObserver(look);
  watcher.observe(connection, { attributes: true, childList: true, subtree: true });
  setTimeout(fail, timeout);
  look();
})
"""


class People:
    """Makes browsers, each of its own, and notes what they complain about.

    To start one takes longer than most of what a test does with it, so :meth:`leave` keeps them: in
    their next test they have the demo's files, and nothing else of the one before.

    Attributes:
        complaints: What the pages said of errors.
        connections_fail: Whether that a connection failed is no complaint: a worker is killed, and
            its connections end before its port does. So a page that comes back at once, or waits
            for an answer, may reach the port, and has to try again.
    """

    def __init__(self, browser: Browser, demo: Demo) -> None:
        self.complaints: list[str] = []
        self.connections_fail = False
        self._browser = browser
        self._demo = demo
        # A short text, at the address of the demo: to go on from there takes no new process.
        self._nowhere = f"{demo.address}/static/chat/js/dom.js"
        self._used: list[tuple[Page, bool]] = []
        self._idle: list[Page] = []

    def join(self, name: str, room: str, *, on: str | None = None, own: bool = False) -> Page:
        """Open the chat, for somebody who has filled in the form of the first page.

        Args:
            name: What the others see.
            room: Where the others are.
            on: The worker to be connected to, if that matters.
            own: Whether the test changes the page for good, so that no other test may get it.
        """
        ticket = join(self._demo.address, name, room)
        page = self._page(DESKTOP, own=own)
        page.context.add_cookies(
            [
                {"name": key, "value": value, "url": ticket.origin}
                for key, _, value in (each.partition("=") for each in ticket.cookies.split("; "))
            ]
        )
        page.goto(ticket.page)
        return self.on(page, on)

    def fill_in(self, name: str, room: str, *, on: str | None = None) -> Page:
        """Join as a person does: by the form of the first page."""
        page = self._page(DESKTOP)
        page.goto(self._demo.address)
        page.get_by_label("Your name").fill(name)
        page.get_by_label("Room").fill(room)
        page.get_by_role("button", name="Join").click()
        return self.on(page, on)

    def watch(self, *added: str, on: str | None = None, size: ViewportSize = DESKTOP) -> Page:
        """Open the board of prices, with these rows besides those of the market."""
        page = self._page(size)
        query = urlencode({"add": added}, doseq=True)
        for _ in range(MOST_CONNECTIONS):
            page.goto(f"{self._demo.address}/board/?{query}")
            expect(page.locator("#connection")).to_have_text(_CONNECTED)
            if on in (None, worker_of(page)):
                return page
        raise TimeoutError(f"{MOST_CONNECTIONS} connections, and none led to {on}")

    def look(self, size: ViewportSize = DESKTOP) -> Page:
        """Open the page for staff, which shows the servers; the test may change it for good."""
        page = self._page(size, own=True)
        page.goto(f"{self._demo.address}/kafka/")
        expect(page.get_by_role("status").filter(has_text="Live from")).to_be_visible()
        return page

    def _page(self, size: ViewportSize, *, own: bool = False) -> Page:
        page = self._idle.pop() if self._idle and not own else self._started()
        self._used.append((page, own))
        page.set_viewport_size(size)
        return page

    def _started(self) -> Page:
        context = self._browser.new_context(
            color_scheme="light",
            locale="en-GB",
            # What moves without end is drawn 60 times a second, on each page.
            reduced_motion="reduce",
        )
        context.set_default_timeout(TIMEOUT)
        return self._watched(context.new_page())

    def second_tab(self, page: Page, *, on: str | None = None) -> Page:
        tab = self._watched(page.context.new_page())
        tab.goto(page.url)
        return self.on(tab, on)

    def on(self, page: Page, worker: str | None) -> Page:
        """Have a chat connect anew until it is connected to this worker; to any if it is None."""
        expect(page.locator("#connection")).to_have_text(_CONNECTED)
        if worker is not None:
            page.evaluate(_CONNECT_TO, [worker, MOST_CONNECTIONS, TIMEOUT])
        return page

    def kill(self, worker: str) -> int:
        """Kill a worker of the demo; return its process id."""
        self.connections_fail = True
        return self._demo.kill(worker)

    def leave(self) -> None:
        """Have all pages leave the demo, and forget the complaints."""
        for page, own in self._used:
            if own or page.is_closed() or not self._tidy(page):
                page.context.close()
            else:
                self._idle.append(page)
        self._used.clear()
        self.complaints.clear()
        self.connections_fail = False

    def _tidy(self, page: Page) -> bool:
        """Make a page as good as new; returns whether it is."""
        try:
            for tab in page.context.pages:
                if tab != page:
                    tab.close()
            page.goto(self._nowhere)
            page.evaluate("sessionStorage.clear(), localStorage.clear()")
            page.context.clear_cookies()
            page.emulate_media(color_scheme="light", reduced_motion="reduce")
            page.mouse.move(0, 0)
        except Error:
            return False
        return True

    def _watched(self, page: Page) -> Page:
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self._require_own(request.url))
        page.on("console", self._hear)
        return page

    def _hear(self, said: ConsoleMessage) -> None:
        expected = self.connections_fail and _FAILED_CONNECTION.match(said.text)
        if said.type == "error" and not expected:
            self.complaints.append(f"console: {said.text}")

    def _require_own(self, url: str) -> None:
        if not url.startswith(f"{self._demo.address}/"):
            self.complaints.append(f"an address elsewhere: {url}")


def worker_of(page: Page) -> str:
    return page.locator("#connection .badge").inner_text()


def connected_again(page: Page) -> Locator:
    """What a chat says each time that it is connected again."""
    return page.get_by_role("log").get_by_text("Connected again")


def say(page: Page, text: str) -> None:
    box = page.get_by_role("textbox")
    box.fill(text)
    box.press("Enter")


def message(page: Page, text: str) -> Locator:
    """A message of the conversation; not one that waits until the server has it."""
    return page.locator("#messages .message").filter(has=page.get_by_text(text, exact=True))


def here(page: Page) -> Locator:
    return page.get_by_role("complementary", name="Details").locator("#here li")


def texts(page: Page) -> list[str]:
    """What the page shows of the conversation, in its order."""
    return page.locator("#messages .message-text").all_inner_texts()


def row_of(page: Page, worker: str) -> Locator:
    """What the details show about a worker."""
    return page.locator("#workers li").filter(has=page.get_by_text(worker, exact=True))


def kafka_away(page: Page) -> Locator:
    return page.get_by_role("status").filter(has_text="Kafka cannot be reached")


def take(page: Page, path: Path) -> None:
    page.screenshot(path=path)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path.name
    wait_until(lambda: path.stat().st_size > 5_000, f"{path.name} to show something")
