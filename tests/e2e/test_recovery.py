"""Browsers on real servers that are killed, stopped, cut off and restarted: the tutorial's chat."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from kafka_layer.layer import KafkaChannelLayer
from tests.support.pages import files_of
from tests.support.proxy import Proxy
from tests.support.waiting import PATIENCE, wait_until

from .browser import TIMEOUT

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "recovery.md").read_text()
KEY = re.findall(r"export SECRET_KEY=(\S+)", PAGE)[0]


class Server:
    """A daphne that serves the tutorial's chat, at one port over all its lives.

    Args:
        folder: The project.
        environment: Its environment, besides this process's own.

    Attributes:
        port: Where it listens; 0 before its first start.
        log: Everything that it said.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.port = 0
        self.log = ""
        self._folder = folder
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def start(self, **environment: str) -> None:
        """Start it, and return once it listens."""
        self.log = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "daphne", "--port", str(self.port), "project:application"],
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **self._environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        found = wait_until(
            lambda: re.search(r"Listening on TCP address \S+:(\d+)", self.log),
            f"daphne to listen; it said: {self.log}",
            60.0,
        )
        self.port = int(found[1])

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        assert self._process is not None
        assert self._reader is not None
        self._process.kill()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.log += line


class Speaker:
    """Says ``MOST`` numbers to the chat, unless it is told to stop before; a context manager."""

    # Fewer than a browser may miss: what a page gets on a slow machine may be far behind.
    MOST = 250

    def __init__(self, layer: KafkaChannelLayer) -> None:
        self.said: list[str] = []
        self._layer = layer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._speak, daemon=True)

    def say(self, text: str) -> None:
        self._layer.group_send_sync("chat", {"type": "chat.message", "text": text})
        self.said.append(text)

    def _speak(self) -> None:
        while len(self.said) < self.MOST and not self._stop.wait(0.005):
            self.say(f"number {len(self.said)}")

    def __enter__(self) -> Speaker:  # noqa: PYI034 (Self is new in 3.11)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)


@pytest.fixture(scope="module")
def environment(kafka: str) -> dict[str, str]:
    prefix = f"test-recovery-{secrets.token_hex(4)}"
    return {"KAFKA_BOOTSTRAP_SERVERS": kafka, "KAFKA_PREFIX": prefix, "SECRET_KEY": KEY}


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> Iterator[tuple[Server, Server]]:
    folder = tmp_path_factory.mktemp("tutorial")
    for name, text in files_of(PAGE).items():
        (folder / name).write_text(text)
    first, second = servers = Server(folder, environment), Server(folder, environment)
    for server in servers:
        server.start()
    yield first, second
    for server in servers:
        server.kill()
        sys.stderr.write(server.log)  # pytest shows it with a failure


@pytest.fixture(scope="module")
def layer(environment: dict[str, str]) -> Iterator[KafkaChannelLayer]:
    layer = KafkaChannelLayer(
        bootstrap_servers=environment["KAFKA_BOOTSTRAP_SERVERS"], prefix=environment["KAFKA_PREFIX"]
    )
    yield layer
    layer.close_sync()


@pytest.fixture
def speaker(layer: KafkaChannelLayer) -> Speaker:
    return Speaker(layer)


@pytest.fixture
def proxy(servers: tuple[Server, Server]) -> Iterator[Proxy]:
    """Leads to the first server, until a test says otherwise."""
    with Proxy() as proxy:
        proxy.target = servers[0].port
        yield proxy


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    complaints: list[str] = []
    page = chromium.new_page()
    page.set_default_timeout(TIMEOUT)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    page.context.close()
    assert complaints == []


def open_page(page: Page, port: int) -> None:
    page.goto(f"http://127.0.0.1:{port}/")
    expect(page.locator("p")).to_have_text("open")


def shown(page: Page) -> list[str]:
    return page.locator("li").all_inner_texts()


def wait_for(page: Page, text: str) -> None:
    exactly = re.compile(f"^{re.escape(text)}$")
    expect(page.locator("li").filter(has_text=exactly)).to_be_visible()


def try_now(page: Page) -> None:
    """Have a page that waits for its next try make it, as when a network is there again."""
    page.evaluate("dispatchEvent(new Event('online'))")


def test_the_tutorial(page: Page, chromium: Browser, servers: tuple[Server, Server]) -> None:
    def write(where: Page, text: str) -> None:
        where.get_by_role("textbox").fill(text)
        where.get_by_role("button").click()

    first, second = servers
    other = chromium.new_page()
    open_page(page, first.port)
    open_page(other, second.port)
    for where, text in ((page, "Hello"), (other, "Hello yourself")):
        write(where, text)
        for each in (page, other):
            wait_for(each, text)

    first.kill()
    expect(page.locator("p")).to_have_text(re.compile("waiting|connecting"))
    write(other, "Are you there?")
    write(other, "Never mind")
    wait_for(other, "Never mind")
    first.start()
    try_now(page)
    expect(page.locator("p")).to_have_text("back, with 2 messages")
    everything = ["Hello", "Hello yourself", "Are you there?", "Never mind"]
    assert shown(page) == everything

    # A server with another key knows nothing of its position.
    first.kill()
    write(other, "And again")
    first.start(SECRET_KEY="another")
    try_now(page)
    wait_for(page, "And again")
    assert shown(page) == [*everything, "And again"]
    first.kill()
    first.start()
    other.context.close()


def test_a_server_is_killed_in_the_middle_of_a_burst(
    page: Page, servers: tuple[Server, Server], proxy: Proxy, speaker: Speaker
) -> None:
    first, second = servers
    open_page(page, proxy.port)
    with speaker:
        wait_for(page, "number 40")
        first.kill()
        proxy.target = second.port
        wait_until(lambda: len(speaker.said) == speaker.MOST, "the burst to end")
    wait_for(page, speaker.said[-1])
    assert shown(page) == speaker.said
    first.start()


@pytest.mark.parametrize("how", ["cut off", "stopped", "frozen"])
def test_a_connection_dies_without_a_sound(
    page: Page, servers: tuple[Server, Server], proxy: Proxy, speaker: Speaker, how: str
) -> None:
    """Nobody closes it: only the silence tells the page."""
    first, second = servers
    page.clock.install()
    open_page(page, proxy.port)
    speaker.say("one")
    wait_for(page, "one")
    lifecycle = page.context.new_cdp_session(page)
    match how:
        case "cut off":
            proxy.strand()
        case "stopped":
            first.send(signal.SIGSTOP)
        case "frozen":
            lifecycle.send("Page.setWebLifecycleState", {"state": "frozen"})
            proxy.strand()
    proxy.target = second.port
    speaker.say("two")
    speaker.say("three")
    if how == "frozen":
        lifecycle.send("Page.setWebLifecycleState", {"state": "active"})
    # The page's time, not ours.
    page.clock.fast_forward(36_000)
    page.clock.run_for(2_000)
    wait_for(page, "three")
    # What the first server still has to say goes to nobody.
    first.send(signal.SIGCONT)
    speaker.say("four")
    wait_for(page, "four")
    assert shown(page) == ["one", "two", "three", "four"]
