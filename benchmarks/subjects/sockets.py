"""End to end: thousands of websockets on daphne processes, from one socket to the others."""

from __future__ import annotations

import sys
import time

from .. import web
from ..subject import Bench, Line, Rounds, subject
from ..traffic import cpu_seconds, flat_out, paced
from ..workers import PortSpec

SERVERS = 2
CLIENTS = 2000
MEMBERS = 20
_RATE = 50.0


@subject(
    "End to end, from websocket to websocket",
    f"{CLIENTS:,} websocket clients of one process on {SERVERS} daphne processes, in rooms of "
    f"{MEMBERS}, half of each on either server; a consumer of Channels passes what a client says "
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
def sockets(bench: Bench) -> Rounds:
    clients = bench.pick(CLIENTS // 5, CLIENTS)
    rooms = [str(room) for room in range(clients // MEMBERS)]
    web.allow_files(clients)
    while True:
        with web.serving(bench.contender, SERVERS) as servers:
            config = {"ports": list(servers), "members": MEMBERS}
            port = PortSpec("websockets", "benchmarks.web.Websockets", config)
            with bench.workers(1, port) as [crowd]:
                crowd.call(cpu_seconds)  # it has started
                began = time.monotonic()
                bench.channels([crowd], clients, True)
                took = time.monotonic() - began
                calm = Line(crowd, [crowd], "send", rooms, MEMBERS)
                busy = calm._replace(method="converse")
                # A task for each room.
                tasks = (sys.maxsize, len(rooms))
                bench.exchange(busy, flat_out, bench.pick(0.5, 1.5), *tasks)
                slow = bench.exchange(calm, paced, _RATE, bench.pick(2.0, 4.0))
                before = sum(map(web.cpu_seconds, servers.values()))
                full = bench.exchange(busy, flat_out, bench.pick(2.0, 4.0), *tasks)
                used = sum(map(web.cpu_seconds, servers.values())) - before
        values = {"deliveries": full.per_second, "cpu": used * 1e6 / full.deliveries}
        values["connected"] = clients / took
        yield {**values, **full.ms("full_"), **slow.ms("paced_")}
