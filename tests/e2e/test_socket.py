"""The browser client in headless Chromium, against a server whose side the test plays."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page

from tests.support.waiting import wait_until
from tests.support.websocket_server import PlayedServer, Side

V1 = "kafka-layer.v1"

OPEN = """
(options) => {
    window.events = [];
    window.socket = new RecoveringSocket("/ws/", options);
    const names = ["open", "message", "close", "recovered", "unrecovered", "gap", "state"];
    for (const name of names) {
        socket.addEventListener(name, ({ type, data, code, detail }) =>
            events.push([type, { message: data, close: code }[type] ?? detail]));
    }
}
"""


@pytest.fixture
def server() -> Iterator[PlayedServer]:
    with PlayedServer() as server:
        yield server


@contextmanager
def without_errors(page: Page) -> Iterator[Page]:
    complaints: list[str] = []

    def complain(error: Error) -> None:
        complaints.append(str(error))

    page.on("pageerror", complain)
    yield page
    page.remove_listener("pageerror", complain)
    assert complaints == []


@pytest.fixture(scope="module")
def tab(chromium: Browser) -> Iterator[Page]:
    """One for many tests: to start one takes longer than what they do with it."""
    page = chromium.new_page()
    # It comes back at once: the waits are for pages whose time passes as a test lets it.
    page.add_init_script("Math.random = () => 0")
    yield page
    page.context.close()


@pytest.fixture
def page(tab: Page, server: PlayedServer) -> Iterator[Page]:
    with without_errors(tab):
        tab.goto(server.address)
        yield tab
        # Else it goes on trying to connect.
        tab.evaluate("window.socket?.close()")


@pytest.fixture
def asleep(chromium: Browser, server: PlayedServer) -> Iterator[Page]:
    """A page whose time passes only where a test lets it, and whose random numbers are all 0.5."""
    page = chromium.new_page()
    with without_errors(page):
        page.clock.install()
        page.goto(server.address)
        page.clock.pause_at(page.evaluate("Date.now() + 3_600_000"))
        page.evaluate("Math.random = () => 0.5")
        yield page
    page.context.close()


def opened(page: Page, server: PlayedServer, **options: Any) -> Side:
    """Have the page connect; return once it is told its first position."""
    page.evaluate(OPEN, options)
    side = server.accept()
    side.send('{"t":"T1","i":25}')
    wait_until(lambda: position(page).startswith("T1"), "the page to have its position")
    return side


def events(page: Page, *, states: bool = False) -> list[list[Any]]:
    """Return what the page was told and has not been asked for yet."""
    told: list[list[Any]] = page.evaluate("events.splice(0)")
    return told if states else [each for each in told if each[0] not in ("open", "state")]


def next_events(page: Page, count: int) -> list[list[Any]]:
    found: list[list[Any]] = []

    def are_there() -> bool:
        found.extend(events(page))
        return len(found) >= count

    wait_until(are_there, f"{count} events")
    return found


def position(page: Page) -> str:
    text: str = page.evaluate("socket.position")
    return text


def state(page: Page) -> str:
    text: str = page.evaluate("socket.state")
    return text


def wait_for_state(page: Page, wanted: str) -> None:
    wait_until(lambda: state(page) == wanted, f"the socket to be {wanted}")


def test_it_comes_back_from_where_it_was(page: Page, server: PlayedServer) -> None:
    side = opened(page, server)
    assert side.offered == [V1]
    side.send('{"d":"welcome"}', '{"p":"g3.5","d":{"text":"one"}}', '{"p":"a0.9","d":2}')
    side.send('{"p":"u1.4"}')
    assert next_events(page, 3) == [
        ["message", "welcome"],
        ["message", {"text": "one"}],
        ["message", 2],
    ]
    wait_until(lambda: position(page) == "T1~g3.5~a0.9~u1.4", "all places to count")
    side.break_off()

    side = server.accept()
    assert side.offered == [V1, "kafka-layer.position.T1~g3.5~a0.9~u1.4"]
    side.send('{"p":"g3.5","d":"known"}', '{"p":"g3.6","d":"missed"}')
    side.send('{"r":{"recovered":true,"reason":null,"count":1}}')
    assert next_events(page, 2) == [["message", "missed"], ["recovered", {"count": 1}]]
    side.send('{"t":"T2","i":25}', '{"p":"a0.9","d":"known"}', '{"p":"a0.10","d":"live"}')
    assert next_events(page, 1) == [["message", "live"]]
    assert position(page) == "T2~g3.6~a0.10~u1.4"


def test_a_second_loss_in_the_middle_of_a_replay(page: Page, server: PlayedServer) -> None:
    side = opened(page, server)
    side.break_off()
    side = server.accept()
    side.send('{"p":"g3.6","d":6}')
    assert next_events(page, 1) == [["message", 6]]
    side.break_off()
    side = server.accept()
    assert side.offered == [V1, "kafka-layer.position.T1~g3.6"]
    side.send('{"p":"g3.7","d":7}', '{"r":{"recovered":true,"reason":null,"count":1}}')
    assert next_events(page, 2) == [["message", 7], ["recovered", {"count": 1}]]


def test_what_is_not_recovered_begins_anew(page: Page, server: PlayedServer) -> None:
    side = opened(page, server)
    side.send('{"p":"g3.50","d":"old"}')
    assert next_events(page, 1) == [["message", "old"]]
    side.break_off()
    side = server.accept()
    side.send('{"r":{"recovered":false,"reason":"epoch","count":0}}', '{"t":"T2","i":25}')
    assert next_events(page, 1) == [["unrecovered", {"reason": "epoch"}]]
    # In a topic that was created again the places are lower.
    side.send('{"p":"g3.1","d":"new"}')
    assert next_events(page, 1) == [["message", "new"]]
    wait_until(lambda: position(page) == "T2~g3.1", "the new place to count")


def test_a_connection_that_broke_before_its_first_position(
    page: Page, server: PlayedServer
) -> None:
    """Before any, or between a verdict and the position that follows it."""
    page.evaluate(OPEN, {})
    server.accept().break_off()
    side = server.accept()
    assert side.offered == [V1, "kafka-layer.position.lost"]
    side.send('{"r":{"recovered":false,"reason":"invalid","count":0}}')
    assert next_events(page, 1) == [["unrecovered", {"reason": "unknown"}]]
    side.send('{"t":"T1","i":25}')
    wait_until(lambda: position(page) == "T1", "the page to have its position")
    side.break_off()
    side = server.accept()
    side.send('{"r":{"recovered":false,"reason":"expired","count":0}}')
    assert next_events(page, 1) == [["unrecovered", {"reason": "expired"}]]
    side.break_off()
    assert server.accept().offered == [V1, "kafka-layer.position.lost"]


def test_a_server_that_speaks_the_applications_subprotocol(
    page: Page, server: PlayedServer
) -> None:
    server.speaks = "chat.v2"
    page.evaluate(OPEN, {"protocols": ["chat.v2"]})
    side = server.accept()
    assert side.offered == [V1, "chat.v2"]
    side.send('{"p":"g3.5","d":1}', "no JSON")
    assert next_events(page, 2) == [["message", {"p": "g3.5", "d": 1}], ["message", "no JSON"]]
    side.break_off()
    server.accept()
    assert next_events(page, 1) == [["unrecovered", {"reason": "unknown"}]]


def test_a_page_begins_where_its_data_was_loaded(page: Page, server: PlayedServer) -> None:
    page.evaluate(OPEN, {"position": "T0"})
    side = server.accept()
    assert side.offered == [V1, "kafka-layer.position.T0"]
    side.send('{"r":{"recovered":true,"reason":null,"count":0}}')
    assert next_events(page, 1) == [["recovered", {"count": 0}]]


@pytest.mark.parametrize("storage", ["session", "memory"])
def test_a_reload_of_the_page(page: Page, server: PlayedServer, storage: str) -> None:
    side = opened(page, server, storage=storage)
    side.send('{"p":"g3.5","d":5}')
    next_events(page, 1)
    page.reload()
    page.evaluate(OPEN, {"storage": storage})
    kept = ["kafka-layer.position.T1~g3.5"] if storage == "session" else []
    assert server.accept().offered == [V1, *kept]


@pytest.mark.parametrize("code", [4400, 4499])
def test_it_gives_up_where_the_application_says_so(
    page: Page, server: PlayedServer, code: int
) -> None:
    side = opened(page, server)
    side.close(code, "not you")
    assert next_events(page, 1) == [["close", code]]
    assert state(page) == "closed"
    page.evaluate("dispatchEvent(new Event('online'))")
    assert state(page) == "closed"


@pytest.mark.parametrize("code", [1000, 1011, 4399, 4500])
def test_it_comes_back_after_every_other_code(page: Page, server: PlayedServer, code: int) -> None:
    opened(page, server).close(code)
    assert server.accept().offered[0] == V1


def test_a_gap_is_told(page: Page, server: PlayedServer) -> None:
    opened(page, server).close(4008, "expired")
    server.accept().send('{"r":{"recovered":false,"reason":"expired","count":0}}')
    assert next_events(page, 2) == [
        ["gap", {"reason": "expired"}],
        ["unrecovered", {"reason": "expired"}],
    ]


COUNTED = """
() => {
    window.made = [];
    window.WebSocket = class extends WebSocket {
        constructor(...address) {
            super(...address);
            made.push(this);
        }
    };
}
"""
ALIVE = "made.filter(({ readyState }) => readyState <= WebSocket.OPEN).length"


@pytest.mark.parametrize(("act", "alive"), [("close", 0), ("reconnect", 1)])
@pytest.mark.parametrize("state", ["connecting", "open"])
def test_an_event_in_which_the_page_closes_or_reconnects(
    page: Page, server: PlayedServer, state: str, act: str, alive: int
) -> None:
    """There is one connection at most, whichever step tells the page."""
    page.evaluate(COUNTED)
    side = opened(page, server)
    page.evaluate(
        """([state, act]) => {
            window.acted = 0;
            socket.onstate = ({ detail }) => detail === state && !acted++ && socket[act]();
        }""",
        [state, act],
    )
    side.break_off()
    wait_until(lambda: page.evaluate("acted") > 0, "the page to act")
    wait_for_state(page, "open" if alive else "closed")
    assert page.evaluate(ALIVE) == alive


def test_what_is_sent_while_the_connection_closes(page: Page, server: PlayedServer) -> None:
    page.evaluate(COUNTED)
    opened(page, server)
    assert page.evaluate("made[0].close(), [socket.state, socket.send('lost')]") == ["open", False]


def test_a_page_that_reconnects_as_soon_as_it_is_connected(
    page: Page, server: PlayedServer
) -> None:
    """It has no position yet, and may have missed something."""
    page.evaluate(
        f"""() => {{
            ({OPEN})({{}});
            let times = 0;
            socket.onstate = ({{ detail }}) => detail === "open" && !times++ && socket.reconnect();
        }}"""
    )
    assert server.accept().offered == [V1]
    assert server.accept().offered == [V1, "kafka-layer.position.lost"]


def test_a_page_that_reconnects_when_it_hears_of_a_gap(asleep: Page, server: PlayedServer) -> None:
    side = opened(asleep, server)
    asleep.evaluate("() => { socket.ongap = () => socket.reconnect() }")
    side.close(4008)
    server.accept()
    wait_for_state(asleep, "open")


def test_a_replaced_connection_is_not_heard(page: Page, server: PlayedServer) -> None:
    side = opened(page, server)
    events(page)
    # The page does not look at what comes until it has connected anew.
    page.evaluate("socket.send('go'), setTimeout(() => {"
                  "  const request = new XMLHttpRequest();"
                  "  request.open('GET', '/later', false);"
                  "  request.send();"
                  "  socket.reconnect();"
                  "}, 0)")  # fmt: skip
    assert side.receive() == "go"
    side.send('{"p":"g3.5","d":"late"}')
    server.later.set()
    side = server.accept()
    assert side.offered == [V1, "kafka-layer.position.T1"]
    side.send('{"r":{"recovered":true,"reason":null,"count":0}}')
    assert next_events(page, 1) == [["recovered", {"count": 0}]]


def test_it_waits_longer_each_time_and_no_longer_than_20_seconds(
    asleep: Page, server: PlayedServer
) -> None:
    opened(asleep, server)
    server.open = False
    asleep.evaluate("socket.reconnect()")
    # Half of 0.5, 1, 2, 4, 8, 16, 20, 20 seconds.
    for delay in (250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000):
        wait_for_state(asleep, "waiting")
        events(asleep)
        asleep.clock.run_for(delay - 1)
        assert events(asleep, states=True) == []
        asleep.clock.run_for(1)
        assert events(asleep, states=True)[0] == ["state", "connecting"]
    wait_for_state(asleep, "waiting")
    # A good connection makes up for that.
    server.open = True
    asleep.clock.run_for(10_000)
    side = server.accept()
    wait_for_state(asleep, "open")
    asleep.clock.run_for(5000)
    side.break_off()
    wait_for_state(asleep, "waiting")
    asleep.clock.run_for(250)
    server.accept()


@pytest.mark.parametrize("sign", ["window, 'online'", "document, 'visibilitychange'"])
def test_it_tries_at_once_when_there_is_hope(asleep: Page, server: PlayedServer, sign: str) -> None:
    target, event = sign.split(", ")
    opened(asleep, server).break_off()
    wait_for_state(asleep, "waiting")
    asleep.evaluate(f"{target}.dispatchEvent(new Event({event}))")
    server.accept()


def test_a_silent_connection_counts_as_dead(asleep: Page, server: PlayedServer) -> None:
    side = opened(asleep, server)
    asleep.clock.run_for(34_000)
    side.send('{"d":"still here"}')
    assert next_events(asleep, 1) == [["message", "still here"]]
    # 25 s are promised, 10 s may be late, 1 s is for what waits in a page that slept.
    asleep.clock.run_for(35_999)
    assert state(asleep) == "open"
    asleep.clock.run_for(1)
    assert server.accept().offered == [V1, "kafka-layer.position.T1"]


def test_a_connection_that_dies_before_its_first_position(
    asleep: Page, server: PlayedServer
) -> None:
    """The silence that the server before allowed itself counts."""
    opened(asleep, server).break_off()
    wait_for_state(asleep, "waiting")
    asleep.clock.run_for(250)
    server.accept()
    wait_for_state(asleep, "open")
    asleep.clock.run_for(36_000)
    assert server.accept().offered == [V1, "kafka-layer.position.T1"]


def test_a_page_that_slept_hears_first_what_waits(asleep: Page, server: PlayedServer) -> None:
    side = opened(asleep, server)
    events(asleep)
    asleep.clock.fast_forward(3_600_000)
    side.send('{"p":"g3.5","d":"while it slept"}')
    assert next_events(asleep, 1) == [["message", "while it slept"]]
    asleep.clock.run_for(35_000)
    assert state(asleep) == "open"


def test_a_handshake_that_takes_too_long(asleep: Page) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        asleep.evaluate("(url) => { window.socket = new RecoveringSocket(url); }", address)
        asleep.clock.run_for(19_999)
        assert state(asleep) == "connecting"
        asleep.clock.run_for(1)
        assert state(asleep) == "waiting"


def test_a_storage_that_there_is_not(page: Page) -> None:
    made = "() => { try { new RecoveringSocket('/ws/', { storage: 'local' }) }"
    assert "memory" in page.evaluate(made + " catch (error) { return error.message } }")


def test_it_has_the_shape_of_a_websocket(page: Page, server: PlayedServer) -> None:
    side = opened(page, server)
    assert page.evaluate("socket.send('to the server')") is True
    assert side.receive() == "to the server"
    side.send(b"\x01\x02")
    page.evaluate("socket.binaryType = 'arraybuffer'")
    side.send(b"\x01\x02\x03")
    [blob, _] = next_events(page, 2)
    assert blob[0] == "message"
    page.evaluate(
        """() => {
            window.seen = [];
            for (let times = 0; times < 2; times++) {
                socket.onmessage = ({ data }) => seen.push(data.byteLength ?? data);
            }
        }"""
    )
    side.send(b"\x01\x02\x03", '{"d":"text"}')
    wait_until(lambda: page.evaluate("seen.length") == 2, "two messages")
    assert page.evaluate("seen") == [3, "text"]
    shape = "[socket.url, socket.protocol, socket.readyState, RecoveringSocket.OPEN, socket.OPEN]"
    url = server.address.replace("http:", "ws:") + "/ws/"
    assert page.evaluate(shape) == [url, V1, 1, 1, 1]
    page.evaluate("socket.close(3000, 'bye')")
    assert events(page)[-1] == ["close", 3000]
    assert page.evaluate("[socket.readyState, socket.send('late')]") == [3, False]
