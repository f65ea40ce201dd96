"""What people see of workers and brokers that fail, in headless Chromium on a real Kafka."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter

from playwright.sync_api import WebSocketRoute, expect

from tests.support.waiting import wait_until

from .browser import (
    People,
    connected_again,
    here,
    kafka_away,
    message,
    row_of,
    say,
    texts,
    worker_of,
)
from .demo import Demo

SAY_TWICE = """
async ([text, id]) => {
    const { socket } = JSON.parse(document.getElementById("page").textContent);
    const websocket = new WebSocket(socket);
    await new Promise((resolve) => {
        websocket.onmessage = ({ data }) => {
            const frame = JSON.parse(data);
            if (frame.type === "welcome") {
                for (const each of [id, id, `${id.slice(1)}0`]) {
                    const text_ = each === id ? text : "The end";
                    websocket.send(JSON.stringify({ type: "say", text: text_, id: each }));
                }
            } else if (frame.type === "message" && frame.text === "The end") {
                resolve();
            }
        };
    });
    websocket.close();
}
"""


def test_the_panel_shows_figures_and_workers(people: People, room: str) -> None:
    ada = people.join("Ada", room, on="worker-1")
    bob = people.join("Bob", room, on="worker-2")
    people.second_tab(bob, on="worker-2")
    for page in (ada, bob):
        expect(row_of(page, "worker-1")).to_contain_text("1 page")
        expect(row_of(page, "worker-2")).to_contain_text("2 pages")
        expect(row_of(page, "job-1")).to_contain_text("jobs")
        # It needs no message.
        expect(page.locator("#latency")).to_have_text(re.compile(r"^\d[\d.,]* m?s$"))
        expect(page.locator(".message")).to_have_count(0)
    expect(row_of(ada, "worker-1")).to_contain_text("yours")
    expect(row_of(bob, "worker-1")).not_to_contain_text("yours")

    say(ada, "One")
    say(ada, "Two")
    expect(row_of(bob, "worker-1")).to_contain_text("2 messages")

    def is_counted() -> bool:
        # Again and again: a report tells of the time since the last one, two seconds or more.
        say(ada, "And again")
        return 0 < float(bob.locator("#rate").inner_text().replace("\u2013", "0")) <= 3

    # One message on three pages within two seconds, or two.
    wait_until(is_counted, "the messages to be counted", pause=2.0)
    # Numbers that change all the time must not be read out.
    quiet = ada.get_by_role("complementary", name="Details")
    assert quiet.locator("[aria-live], [role=status], [role=log]").count() == 0


def test_the_button_kills_a_worker_and_its_pages_go_on(
    people: People, demo: Demo, room: str
) -> None:
    ada = people.join("Ada", room, on="worker-1")
    bob = people.join("Bob", room, on="worker-2")
    pid = demo.worker_pids("worker-1")[-1]
    connections = connected_again(ada).count()

    people.connections_fail = True
    ada.get_by_role("button", name="Kill worker-1").press("Enter")
    expect(connected_again(ada)).not_to_have_count(connections)
    wait_until(
        lambda: "worker-1 | was ended by SIGKILL; starting it again" in demo.lines,
        "the supervisor to report the killed worker",
    )
    # With worker-2, unless worker-1 was back sooner than the page.
    pages = Counter({"worker-1": 0, "worker-2": 1})
    pages[worker_of(ada)] += 1
    expect(ada.get_by_role("button", name=f"Kill {worker_of(ada)}")).to_be_visible()
    say(ada, "That was loud")
    expect(message(bob, "That was loud")).to_have_count(1)
    demo.wait_until_back("worker-1", pid)
    for page in (ada, bob):
        for worker, count in pages.items():
            expect(row_of(page, worker)).to_contain_text(f"{count} page")


def test_a_killed_worker_takes_nobody_along_and_no_message(
    people: People, demo: Demo, room: str
) -> None:
    """Nor does a page miss one that sleeps meanwhile."""
    # Ada comes last: how often the others connected until then is no news to her.
    bob = people.join("Bob", room, on="worker-2")
    carol = people.join("Carol", room, on="worker-2")
    dora = people.join("Dora", room, on="worker-2", own=True)
    ada = people.join("Ada", room, on="worker-1")
    expect(here(ada)).to_have_count(4)
    joined, connections = ada.get_by_text("Bob joined").count(), connected_again(bob).count()
    lifecycle = dora.context.new_cdp_session(dora)
    lifecycle.send("Page.setWebLifecycleState", {"state": "frozen"})
    say(ada, "Before their worker died")
    for page in (ada, bob):
        expect(message(page, "Before their worker died")).to_be_visible()

    pid = demo.worker_pids("worker-2")[-1]
    os.kill(pid, signal.SIGSTOP)  # it takes what Bob sends, and does nothing with it
    say(bob, "Can you hear me?")
    expect(bob.locator("#waiting")).to_contain_text("Can you hear me?")
    people.kill("worker-2")
    carol.context.close()  # while nobody can say goodbye for her
    said = [f"Line {number}" for number in range(6)]
    for line in said:
        say(ada, line)
    lifecycle.send("Page.setWebLifecycleState", {"state": "active"})

    expect(connected_again(bob)).not_to_have_count(connections)
    for page in (ada, bob, dora):
        expect(message(page, said[-1])).to_be_visible()
        expect(message(page, "Can you hear me?")).to_be_visible()
    expect(bob.locator("#waiting li")).to_have_count(0)
    say(bob, "Good")
    heard = ["Before their worker died", *said, "Good"]
    for page in (ada, bob, dora):
        expect(message(page, "Good")).to_be_visible()
        # In one order; where Bob's message came in it, nobody knows.
        assert texts(page) == texts(ada)
        assert [each for each in texts(page) if each != "Can you hear me?"] == heard
        assert texts(page).count("Can you hear me?") == 1
    expect(ada.get_by_role("log")).to_contain_text("Carol left")
    expect(here(ada)).to_have_count(3)
    expect(ada.get_by_text("Bob joined")).to_have_count(joined)
    expect(ada.get_by_text("Bob left")).to_have_count(0)
    demo.wait_until_back("worker-2", pid)


def test_a_message_that_was_sent_twice_is_shown_once(people: People, room: str) -> None:
    ada = people.join("Ada", room, on="worker-1")
    bob = people.join("Bob", room, on="worker-2")
    bob.evaluate(SAY_TWICE, ["Once is enough", "0123456789abcdef"])
    say(bob, "That was all")
    for page in (ada, bob):
        expect(message(page, "That was all")).to_be_visible()
        expect(message(page, "Once is enough")).to_have_count(1)


FORGE_POSITIONS = """
window.WebSocket = class extends WebSocket {
    constructor(url, protocols) {
        super(url, protocols.map((each) => each.replace("kafka-layer.position.", "$&x")));
    }
};
"""


def test_a_page_that_cannot_have_all_gets_the_last_messages(people: People, room: str) -> None:
    ada = people.join("Ada", room)
    bob = people.join("Bob", room, own=True)
    bob.add_init_script(FORGE_POSITIONS)
    bob.reload()
    expect(bob.locator("#connection")).to_contain_text("through worker-")
    for page, text in ((ada, "One"), (bob, "Two")):
        say(page, text)
        expect(message(bob, text)).to_be_visible()
    bob.get_by_role("button", name="Connect again").click()
    expect(bob.get_by_role("log")).to_contain_text("cannot be had any more")
    say(ada, "Three")
    for page in (ada, bob):
        expect(message(page, "Three")).to_be_visible()
    assert texts(ada) == texts(bob) == ["One", "Two", "Three"]


def test_what_a_worker_had_to_give_up_is_sent_again(people: People, room: str) -> None:
    ada = people.join("Ada", room)
    bob = people.join("Bob", room, own=True)
    sockets: list[WebSocketRoute] = []
    taken: list[str] = []

    def give_up_the_first(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        sockets.append(socket)

        def forward(frame: str | bytes) -> None:
            if json.loads(frame)["type"] == "say" and not taken:
                taken.append(str(frame))
            else:
                server.send(frame)

        socket.on_message(forward)

    bob.route_web_socket("**/ws/**", give_up_the_first)
    bob.reload()
    expect(bob.locator("#connection")).to_contain_text("through worker-")
    sockets[-1].send('{"d": {"type": "kafka", "connected": false, "seconds": 0}}')
    expect(kafka_away(bob)).to_be_visible()
    say(bob, "Older than expiry")
    expect(bob.locator("#waiting")).to_contain_text("Older than expiry")
    wait_until(lambda: bob.wait_for_timeout(50) or taken, "the message to be taken")
    sockets[-1].send('{"d": {"type": "kafka", "connected": true, "seconds": 90}}')
    expect(kafka_away(bob)).to_have_count(0)
    for page in (ada, bob):
        expect(message(page, "Older than expiry")).to_be_visible()
    expect(bob.locator("#waiting li")).to_have_count(0)
