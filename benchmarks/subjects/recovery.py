"""Websockets that come back after the process that served them was killed."""

from __future__ import annotations

import time

from .. import recovering, web
from ..servers import Skipped
from ..subject import Bench, Line, Rounds, percentiles, subject
from ..traffic import paced
from ..workers import PortSpec
from .sockets import CLIENTS, MEMBERS, SERVERS

# Messages to each room before and after the kill, of which each client misses the latter.
_BEFORE, _MISSED = 10, 20
# Messages to all rooms together in a second.
_BURST = 200.0
# Seconds before the end of the burst at which clients come back, so that it goes on meanwhile.
_EARLY = 1.0


@subject(
    "Recovery of websockets whose worker is killed",
    f"{CLIENTS:,} websocket clients that keep their positions, in rooms of {MEMBERS}, all on one "
    f"of {SERVERS} daphne processes, which is killed (SIGKILL) in the middle of a burst of "
    f"{_BURST:.0f} messages a second. Each client misses about {_MISSED} messages and comes back "
    "to the other process while the burst goes on; every message is counted.",
    "recovered: coming back, until all that was missed has come (clients/s, more)",
    "connected: for comparison: connecting for the first time (clients/s, more)",
    *("back_p50: p50 of coming back (ms)", "back_p99: p99 of coming back (ms)"),
    "replayed: messages replayed to each client (messages)",
    long=True,
)
def recovery(bench: Bench) -> Rounds:
    if not bench.contender.backend.startswith("kafka_layer."):
        raise Skipped("it recovers nothing")
    clients = bench.pick(CLIENTS // 5, CLIENTS)
    rooms = clients // MEMBERS
    rate = _BURST * rooms / (CLIENTS // MEMBERS)
    groups = [f"{recovering.RECOVERING.strip('/')}{room}" for room in range(rooms)]
    seconds = (_BEFORE + _MISSED) * rooms / rate
    web.allow_files(clients)
    while True:
        with web.serving(bench.contender, SERVERS) as servers:
            (first, killed), (second, _) = servers.items()
            config = {"port": first, "members": MEMBERS}
            port = PortSpec("recovering", "benchmarks.recovering.RecoveringSockets", config)
            with bench.workers(1, port) as [crowd], bench.workers(1) as [sender]:
                took = crowd.call(recovering.first_connections, second, clients)
                bench.channels([crowd], clients, True)
                line = Line(sender, [crowd], "group_send", groups, MEMBERS)
                sending = line.start(paced, rate, seconds)
                began = time.monotonic()
                time.sleep(_BEFORE * rooms / rate)
                killed.kill()
                time.sleep(max(0.0, began + seconds - _EARLY - time.monotonic()))
                back = crowd.call(recovering.come_back, second)
                sent = sending()
                bench.drained(line, sent, sent.messages * MEMBERS)
        if back.reasons:
            raise RuntimeError(f"some clients were not recovered: {dict(back.reasons)}")
        yield {
            "recovered": clients / back.took,
            "connected": clients / took,
            "replayed": back.replayed / clients,
            **percentiles([each * 1000 for each in back.seconds], "back_"),
        }
