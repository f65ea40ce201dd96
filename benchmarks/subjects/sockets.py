"""End to end: thousands of websockets on daphne processes, from one socket to the others."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tests.support.counting import Inbox, Tally

from .. import traffic, web
from ..subject import Bench, Outcome, Skipped, percentiles, subject
from ..workers import Context

_SERVERS = 2
_CLIENTS = 2000
_MEMBERS = 20
_RATE = 50.0
_AT_A_TIME = 20
_FILES_BESIDE = 200
_GIVEN_UP_AFTER = 2.0


class _Crowd:
    """The clients in one process: client ``i`` is in room ``i // _MEMBERS``."""

    def __init__(self, size: int) -> None:
        self.inboxes = [Inbox(keep_latencies=True) for _ in range(size)]
        self.clients: list[web.Client] = []
        # One of each room, on all servers in turn.
        self.senders = [room * _MEMBERS + room % _SERVERS for room in range(size // _MEMBERS)]
        self._sent_at = dict.fromkeys(self.senders, 0.0)
        self._echo = False
        self.reset()

    async def connect(self, ports: Sequence[int]) -> None:
        """Connect all, each to the servers in turn."""
        free = asyncio.Semaphore(_AT_A_TIME)

        async def one(index: int) -> web.Client:
            async with free:
                port, path = ports[index % len(ports)], f"/room-{index // _MEMBERS}"
                return await web.connect(port, path, lambda text: self._take(index, text))

        self.clients = await asyncio.gather(*map(one, range(len(self.inboxes))))

    def reset(self) -> None:
        """Count anew."""
        self.sent = 0
        for inbox in self.inboxes:
            inbox.reset()
        self.numbers = dict.fromkeys(self.senders, 0)

    async def pace(self, seconds: float) -> None:
        """Send to the rooms in turn, at a fixed rate."""
        async for number in traffic.turns(_RATE, seconds):
            self._send(self.senders[number % len(self.senders)])

    async def echo(self, seconds: float) -> None:
        """Let one client of each room send again as soon as its own message came back."""
        self._echo = True
        end = time.monotonic() + seconds
        for sender in self.senders:
            self._send(sender)
        while time.monotonic() < end:
            await asyncio.sleep(min(0.1, max(0.0, end - time.monotonic())))
            # A message that was lost must not end the traffic of its room.
            for sender in self.senders:
                if time.monotonic() - self._sent_at[sender] > _GIVEN_UP_AFTER:
                    self._send(sender)
        self._echo = False

    @property
    def heard(self) -> int:
        """Deliveries so far, each counted once."""
        return sum(inbox.unique for inbox in self.inboxes)

    def _send(self, sender: int) -> None:
        number = self.numbers[sender]
        self.numbers[sender] = number + 1
        self.sent += 1
        self._sent_at[sender] = time.monotonic()
        self.clients[sender].send(json.dumps(traffic.message(sender, number)).encode())

    def _take(self, index: int, text: bytes) -> None:
        message = json.loads(text)
        self.inboxes[index].take(message)
        if self._echo and message["s"] == index and message["n"] == self.numbers[index] - 1:
            self._send(index)


async def gather(context: Context, ports: Sequence[int], size: int) -> float:
    """Connect clients; return how many seconds it took."""
    _allow_files(size)
    crowd = context.notes["crowd"] = _Crowd(size)
    began = time.monotonic()
    await crowd.connect(ports)
    return time.monotonic() - began


async def chat(context: Context, way: str, seconds: float) -> dict[str, Any]:
    """Send for some seconds, by ``pace`` or ``echo``; return what the clients heard."""
    crowd: _Crowd = context.notes["crowd"]
    crowd.reset()
    began = time.monotonic()
    await getattr(crowd, way)(seconds)
    per_second = crowd.heard / (time.monotonic() - began)
    await traffic.settle(crowd.inboxes, crowd.sent * _MEMBERS)
    gone = sum(client.lost for client in crowd.clients)
    if gone:
        raise ConnectionError(f"{gone} of {len(crowd.clients)} websockets were closed")
    return {
        **percentiles([each * 1000 for inbox in crowd.inboxes for each in inbox.latencies]),
        "per_second": per_second,
        "deliveries": crowd.heard,
        "tally": Tally.of(crowd.sent * _MEMBERS, crowd.inboxes),
    }


async def leave(context: Context) -> None:
    """Close all connections."""
    for client in context.notes.pop("crowd").clients:
        client.end()


@subject(
    "End to end, from websocket to websocket",
    f"{_CLIENTS:,} websocket clients of one process on {_SERVERS} daphne processes, in rooms of "
    f"{_MEMBERS}, half of each on either server; a consumer of Channels passes what a client says "
    f"to its room. First {_RATE:.0f} messages a second; then at full load: one client of each room "
    "sends again as soon as its own message came back to it.",
    "deliveries: deliveries at full load (1/s, more)",
    *("full_p50: p50 at full load (ms)", "full_p99: p99 at full load (ms)"),
    f"paced_p50: p50, {_RATE:.0f} messages/s (ms)",
    f"paced_p99: p99, {_RATE:.0f} messages/s (ms)",
    "cpu: both daphnes' processor (µs/delivery)",
    "connected: connecting and joining (clients/s, more)",
    long=True,
)
def sockets(bench: Bench) -> Iterator[Outcome]:
    clients = bench.pick(_CLIENTS // 5, _CLIENTS)
    _allow_files(clients)
    while True:
        with web.serving(bench.running.spec, _SERVERS) as servers, bench.workers(1) as [crowd]:
            took = crowd.call(gather, list(servers), clients)
            warm = crowd.call(chat, "echo", bench.pick(0.5, 1.5))
            paced = crowd.call(chat, "pace", bench.pick(2.0, 4.0))
            before = sum(map(web.cpu_seconds, servers.values()))
            full = crowd.call(chat, "echo", bench.pick(2.0, 4.0))
            used = sum(map(web.cpu_seconds, servers.values())) - before
            crowd.call(leave)
        values = {
            "deliveries": full["per_second"],
            "full_p50": full["p50"],
            "full_p99": full["p99"],
            "paced_p50": paced["p50"],
            "paced_p99": paced["p99"],
            "cpu": used * 1e6 / full["deliveries"],
            "connected": clients / took,
        }
        yield Outcome(values, warm["tally"] + paced["tally"] + full["tally"])


def _allow_files(count: int) -> None:
    """Let this process and its children open a socket for each client."""
    wanted = count + _FILES_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < wanted:
        raise Skipped(f"{wanted} open files are needed, and the system allows {hard}")
    if 0 <= soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
