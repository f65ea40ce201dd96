"""`manage.py demo` from start to end: many people, several workers, and their deaths."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import socket
from collections import Counter, defaultdict
from typing import Any

import pytest
from confluent_kafka import Producer
from websockets.exceptions import ConnectionClosedError

from demo_project.market import PRICES
from tests.support.waiting import PATIENCE

from .demo import (
    MOST_CONNECTIONS,
    START_TIMEOUT,
    STOP_SECONDS,
    Client,
    Demo,
    Ticket,
    csrf_token,
    join,
    play,
    post,
    stays_connected,
    within,
)

V1 = "kafka-layer.v1"


def test_it_brings_its_own_broker_and_a_killed_worker_back_and_no_process_outlives_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DJANGO_DEBUG", "0")
    with Demo(workers=3) as demo:
        play(everyone_hears_the_same(demo, people=9, rooms=2))
        play(prices_come_on_each_worker(demo))
        play(without_debug_no_order_ends_a_worker(demo))
        play(survive_a_kill(demo))
        assert demo.end(signal.SIGKILL) < STOP_SECONDS


def test_a_taken_port_is_one_clear_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError) as failure, Demo("--port", str(port)):
            pass
    assert f"Port {port} on 127.0.0.1 is taken" in str(failure.value)
    assert "Traceback" not in str(failure.value)


async def everyone_hears_the_same(demo: Demo, *, people: int, rooms: int) -> None:
    """Have all talk at once; each room must hear all of it once, in one order."""
    names = [f"room-{secrets.token_hex(3)}" for _ in range(rooms)]
    members: dict[str, list[Client]] = defaultdict(list)
    for number in range(MOST_CONNECTIONS):
        if number >= people and workers_of(members) == demo.workers:
            break
        room = names[number % rooms]
        members[room].append(await Client.join(demo.address, f"Person {number}", room))
    assert workers_of(members) == demo.workers

    await asyncio.gather(*(talk(clients) for clients in members.values()))


async def prices_come_on_each_worker(demo: Demo) -> None:
    """Open the board until each worker served one: it has all prices at once, and then changes."""
    ticket = Ticket(f"{demo.address}/ws/board/".replace("http:", "ws:"), demo.address, "")
    workers = set()
    for _ in range(MOST_CONNECTIONS):
        board = await Client.open(ticket, "A board")
        workers.add((await board.receive("welcome"))["worker"])
        came = Counter[str]()
        while came.keys() != PRICES.keys() or max(came.values()) < 2:
            came[(await board.receive("price"))["name"]] += 1
        await board.close()
        if workers == demo.workers:
            return
    raise TimeoutError(f"{MOST_CONNECTIONS} connections led to {workers} alone")


async def without_debug_no_order_ends_a_worker(demo: Demo) -> None:
    ticket = await asyncio.to_thread(join, demo.address, "Ada", f"room-{secrets.token_hex(3)}")
    client = await Client.open(ticket, "Ada")
    process = (await client.receive("welcome"))["process"]
    fields = {"process": process, "csrfmiddlewaretoken": csrf_token(ticket.cookies)}
    button = f"{demo.address}/end-worker/"
    assert await asyncio.to_thread(post, button, ticket.cookies, **fields) == 404

    # Nor does one that somebody wrote to Kafka, where no view is asked.
    order = json.dumps({"type": "worker.end", "process": process})
    producer = Producer({"bootstrap.servers": demo.own_broker, "log_level": 0})
    producer.produce(f"{demo.prefix}-send-group", order, key="workers")
    assert await asyncio.to_thread(producer.flush, PATIENCE) == 0
    assert await stays_connected(client)


def workers_of(members: dict[str, list[Client]]) -> set[str]:
    return {client.worker for clients in members.values() for client in clients}


async def talk(clients: list[Client]) -> None:
    """Have everyone in a room say some lines at the same time, and check what all heard."""
    lines = {client.name: [f"{client.name}, line {n}" for n in range(5)] for client in clients}

    async def say_all(client: Client) -> None:
        for line in lines[client.name]:
            await client.say(line)

    await asyncio.gather(*(say_all(client) for client in clients))
    said = sorted(line for own in lines.values() for line in own)
    heard = await asyncio.gather(*(client.hear(len(said)) for client in clients))
    assert sorted(heard[0]) == said
    assert all(each == heard[0] for each in heard)
    for name, own in lines.items():
        assert [line for line in heard[0] if line in own] == own, f"the lines of {name}"

    # What comes next must be the farewell: nothing was heard twice.
    await clients[0].say("farewell")
    farewells = await asyncio.gather(*(client.hear(1) for client in clients))
    assert farewells == [["farewell"]] * len(clients)


class RecoveringPage:
    """A page that keeps its position, as docs/recovery.md describes it.

    Attributes:
        heard: The texts of the messages in the room.
        process: The process that it is connected to.
        verdict: What it was told when it came back; empty before.
    """

    def __init__(self, ticket: Ticket) -> None:
        self.heard: list[str] = []
        self.process = ""
        self.verdict: dict[str, Any] = {}
        self._ticket = ticket
        self._client: Client | None = None
        self._position = ""

    async def connect(self) -> str:
        """Connect, again if it is sent on; return its worker once it has its position."""
        offers = [V1, f"kafka-layer.position.{self._position}"][: 1 + bool(self._position)]
        for _ in range(MOST_CONNECTIONS):
            self._client = await Client.open(self._ticket, "Page", *offers)
            with contextlib.suppress(ConnectionClosedError):
                return await self._hear_position()
        raise TimeoutError(f"{MOST_CONNECTIONS} connections, and none was let in")

    async def close(self) -> None:
        assert self._client is not None
        await self._client.close()

    async def _hear_position(self) -> str:
        assert self._client is not None
        worker = ""
        while True:
            frame = json.loads(await within(self._client.websocket.recv(), "a page's position"))
            self.verdict = frame.get("r", self.verdict)
            match frame:
                case {"d": {"type": "welcome", "worker": str(worker), "process": str(process)}}:
                    self.process = process
                case {"d": {"type": "message", "text": str(text)}}:
                    self.heard.append(text)
                case {"t": str(position)}:
                    self._position = position
                    return worker


async def survive_a_kill(demo: Demo) -> None:
    room = f"room-{secrets.token_hex(3)}"
    clients: list[Client] = []
    while {client.worker for client in clients} != demo.workers:
        assert len(clients) < MOST_CONNECTIONS, "a worker gets no connections"
        clients.append(await Client.join(demo.address, f"Person {len(clients)}", room))
    ticket = await asyncio.to_thread(join, demo.address, "Page", room)
    # Known by its name, it is sent on once at most by each worker.
    page = RecoveringPage(ticket.named("page"))
    victim = await page.connect()
    killed = page.process
    pid = demo.kill(victim)
    others = [client for client in clients if client.worker != victim]
    for client in clients:
        if client.worker == victim:
            await client.lose()
    await asyncio.to_thread(demo.wait_until_gone, pid)
    await others[0].say("still here")
    heard = await asyncio.gather(*(client.hear(1) for client in others))
    assert heard == [["still here"]] * len(others)
    await page.connect()
    assert page.process != killed
    assert (page.verdict["reason"], page.heard) == (None, ["still here"])
    await page.close()

    await asyncio.to_thread(demo.wait_until_back, victim, pid)
    assert f"{victim} | was ended by SIGKILL; starting it again" in demo.lines

    async def land_on_the_victim() -> Client:
        while True:
            newcomer = await Client.join(demo.address, "Newcomer", room)
            if newcomer.worker == victim:
                return newcomer
            await newcomer.close()

    newcomer = await within(
        land_on_the_victim(), f"a connection to land on {victim}", START_TIMEOUT
    )
    await newcomer.say("back again")
    heard = await asyncio.gather(*(client.hear(1) for client in [*others, newcomer]))
    assert heard == [["back again"]] * (len(others) + 1)
