"""End to end: thousands of websockets on daphne processes, from one socket to the others."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from .. import web
from ..subject import Bench, Outcome, subject
from ..traffic import cpu_seconds, flat_out, paced
from ..workers import PortSpec

_SERVERS = 2
_CLIENTS = 2000
_MEMBERS = 20
_RATE = 50.0


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
    rooms = [str(room) for room in range(clients // _MEMBERS)]
    web.allow_files(clients)
    while True:
        with web.serving(bench.running.spec, _SERVERS) as servers:
            config = {"ports": list(servers), "members": _MEMBERS}
            port = PortSpec("websockets", "benchmarks.web.Websockets", config)
            with bench.workers(1, port) as [crowd]:
                crowd.call(cpu_seconds)  # it has started
                began = time.monotonic()
                bench.channels([crowd], clients, True)
                took = time.monotonic() - began
                pair, each = (crowd, [crowd]), (sys.maxsize, len(rooms))
                busy = (_MEMBERS, flat_out, "converse", rooms)
                warm = bench.exchange(*pair, *busy, bench.pick(0.5, 1.5), *each)
                calm = (_MEMBERS, paced, "send", rooms, _RATE, bench.pick(2.0, 4.0))
                slow = bench.exchange(*pair, *calm)
                before = sum(map(web.cpu_seconds, servers.values()))
                full = bench.exchange(*pair, *busy, bench.pick(2.0, 4.0), *each)
                used = sum(map(web.cpu_seconds, servers.values())) - before
        values = {
            "deliveries": full.per_second,
            "cpu": used * 1e6 / sum(inbox.unique for inbox in full.inboxes),
            "connected": clients / took,
        }
        tally = warm.tally + slow.tally + full.tally
        yield Outcome({**values, **full.ms("full_"), **slow.ms("paced_")}, tally)
