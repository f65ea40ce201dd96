"""The chat from outside: its pages, its frames and what it refuses."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import urllib.error
import urllib.parse
import urllib.request

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.waiting import PATIENCE, wait_until

from .demo import Client, Demo, csrf_token, join, post, stays_connected, within


def get(address: str) -> tuple[int, str]:
    """Return status and body of an address."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=PATIENCE) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_names_the_worker_and_a_round_trip_through_the_layer(demo: Demo) -> None:
    def healthy() -> str:
        # A machine that stands still for 3 s is not healthy in that moment.
        status, body = get(f"{demo.address}/healthz")
        return body if status == 200 else ""

    health = json.loads(wait_until(healthy, "the worker to be healthy"))
    assert health["status"] == "ok"
    assert health["worker"] in demo.workers
    assert health["round_trip_ms"] > 0


@pytest.mark.parametrize("file", ["css/base.css", "css/room.css", "js/main.js", "icon.svg"])
def test_static_files_need_no_further_step(demo: Demo, file: str) -> None:
    status, body = get(f"{demo.address}/static/chat/{file}")
    assert status == 200
    assert body


def test_a_room_without_a_person_asks_for_a_name(demo: Demo) -> None:
    status, body = get(f"{demo.address}/rooms/coffee/")
    assert status == 200
    assert 'value="coffee"' in body


def test_a_room_that_cannot_be_is_a_friendly_404(demo: Demo) -> None:
    status, body = get(f"{demo.address}/rooms/caf%C3%A9/")
    assert status == 404
    assert "made of the letters a to z" in body
    assert "tell us a name" not in body


def test_markup_in_a_name_is_text(demo: Demo, room: str) -> None:
    async def scenario() -> None:
        client = await Client.join(demo.address, "<b>Ada</b>", room)
        await client.say("<i>hi</i>")
        message = await client.receive("message")
        assert message["author"]["name"] == "<b>Ada</b>"
        assert message["text"] == "<i>hi</i>"
        assert message["sent_by"] == message["delivered_by"] == client.worker
        await client.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        ('{"type": "say", "text": "  "}', "nothing to send"),
        (json.dumps({"type": "say", "text": "x" * 2001}), "at most 2000 characters"),
        ('{"type": "say", "text": "\\ud83d"}', "broken character"),
        ('{"type": "say", "text": 7}', "does not know"),
        ('{"type": "dance"}', "does not know"),
        ("[]", "does not know"),
        ("{", "not JSON"),
        ("[" * 50_000, "not JSON"),
        (b"\x00", "text only"),
    ],
)
def test_a_bad_frame_is_answered_and_the_connection_goes_on(
    demo: Demo, room: str, frame: str | bytes, problem: str
) -> None:
    async def scenario() -> None:
        client = await Client.join(demo.address, "Ada", room)
        await client.websocket.send(frame)
        assert problem in (await client.receive("problem"))["text"]
        await client.say("still here")
        assert await client.hear(1) == ["still here"]
        await client.close()

    asyncio.run(scenario())


def test_talking_too_fast_is_answered_with_a_problem(demo: Demo, room: str) -> None:
    async def scenario() -> None:
        client = await Client.join(demo.address, "Ada", room)
        kinds: list[str] = []
        # Once, unless the demo takes so long for it that it is not too fast.
        while "problem" not in kinds:
            for number in range(20):
                await client.say(str(number))
            # A message comes back through the layer, a problem at once: in any order.
            kinds += [(await client.next_of("message", "problem"))["type"] for _ in range(20)]
        assert kinds.count("message") >= 10
        await client.close()

    asyncio.run(scenario())


def test_a_frame_that_is_far_too_long_ends_the_connection(demo: Demo, room: str) -> None:
    async def scenario() -> None:
        client = await Client.join(demo.address, "Ada", room)
        await client.say("x" * 100_000)
        await client.lose()

    asyncio.run(scenario())


def test_a_stranger_is_refused_with_a_reason(demo: Demo, room: str) -> None:
    async def scenario() -> None:
        ticket = await asyncio.to_thread(join, demo.address, "Ada", room)
        stranger = await Client.open(dataclasses.replace(ticket, cookies=""))
        assert "join again" in (await stranger.receive("refusal"))["text"]
        with pytest.raises(ConnectionClosed):
            await within(stranger.websocket.recv(), "the connection to close")
        assert stranger.websocket.close_code == 4400

    asyncio.run(scenario())


def test_nobody_else_s_post_ends_a_worker(demo: Demo, room: str) -> None:
    async def scenario() -> None:
        ticket = await asyncio.to_thread(join, demo.address, "Ada", room)
        client = await Client.open(ticket, "Ada")
        process = (await client.receive("welcome"))["process"]
        button, token = f"{demo.address}/end-worker/", csrf_token(ticket.cookies)
        earlier = "0" * 16

        assert get(button)[0] == 405
        assert post(button, ticket.cookies, process=process) == 403
        assert post(button, ticket.cookies, process="all", csrfmiddlewaretoken=token) == 400
        # Meant for a process that ended before the order arrived.
        assert post(button, ticket.cookies, process=earlier, csrfmiddlewaretoken=token) == 202
        assert await stays_connected(client)
        await client.close()

    asyncio.run(scenario())


def test_another_site_cannot_open_a_websocket(demo: Demo, room: str) -> None:
    async def scenario() -> None:
        ticket = await asyncio.to_thread(join, demo.address, "Ada", room)
        with pytest.raises(InvalidStatus, match="403"):
            await Client.open(dataclasses.replace(ticket, origin="http://elsewhere.example"))

    asyncio.run(scenario())
