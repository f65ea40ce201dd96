"""What people see while Kafka is away, in headless Chromium."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.kafka import RealBroker

from .browser import PHONE, People, kafka_away, message, row_of, say, take, texts
from .demo import STOP_SECONDS, Demo


@pytest.mark.usefixtures("real_broker_tools")
def test_a_broker_that_restarts_costs_no_message(
    painter: Browser, room: str, screenshots: Path
) -> None:
    with (
        RealBroker() as broker,
        Demo("--job-workers", "0", workers=2, kafka=broker.bootstrap_servers) as demo,
    ):
        people = People(painter, demo)
        ada = people.join("Ada", room, on="worker-1", own=True)
        bob = people.join("Bob", room, on="worker-2", own=True)
        say(bob, "Before")
        expect(message(ada, "Before")).to_be_visible()
        servers = people.look()
        expect(servers.get_by_role("table", name="Servers").locator("tbody tr")).to_have_count(2)

        broker.kill()
        expect(servers.locator("#note")).to_contain_text("Kafka cannot be reached")
        for page in (ada, bob):
            expect(kafka_away(page)).to_be_visible()
        say(ada, "Typed while Kafka was away")
        expect(ada.locator("#waiting")).to_contain_text("Typed while Kafka was away")
        show(ada, screenshots)
        expect(ada.get_by_role("button", name="Kill worker-1")).to_be_disabled()
        late = people.second_tab(bob)
        expect(kafka_away(late)).to_be_visible()
        # Its own server still tells of itself, also to a page that comes only now.
        servers.reload()
        expect(servers.locator("#note")).to_contain_text("Kafka cannot be reached")
        expect(servers.get_by_role("row").filter(has_text="disconnected")).not_to_have_count(0)
        take(servers, screenshots / "servers-kafka-away.png")

        broker.start()
        expect(servers.locator("#note")).to_be_empty()
        expect(servers.locator(".state").filter(has_text="disconnected")).to_have_count(0)
        for page in (ada, bob, late):
            expect(page.get_by_role("log")).to_contain_text("Kafka is back after")
            expect(kafka_away(page)).to_have_count(0)
            expect(message(page, "Typed while Kafka was away")).to_be_visible()
        expect(ada.locator("#waiting li")).to_have_count(0)
        expect(ada.get_by_role("button", name="Kill worker-1")).to_be_enabled()
        say(bob, "Welcome back")
        for page in (ada, bob):
            expect(message(page, "Welcome back")).to_be_visible()
            assert texts(page) == ["Before", "Typed while Kafka was away", "Welcome back"]
            expect(row_of(page, "worker-1")).to_contain_text("page")
            expect(row_of(page, "worker-2")).to_contain_text("page")
            expect(page.locator("#latency")).to_have_text(re.compile(r"^\d[\d.,]* m?s$"))
        assert people.complaints == []
        people.leave()
        assert demo.end(signal.SIGTERM) < STOP_SECONDS
        assert demo.exit_code == 0


def show(page: Page, screenshots: Path) -> None:
    """Take pictures of a page that cannot reach Kafka."""
    desktop = page.viewport_size
    assert desktop is not None
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        take(page, screenshots / f"kafka-away-desktop-{scheme}.png")
    page.set_viewport_size(PHONE)
    take(page, screenshots / "kafka-away-phone-dark.png")
    page.set_viewport_size(desktop)
