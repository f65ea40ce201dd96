"""End to end: thousands of websockets on daphne processes, from one socket to the others."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from tests.support.counting import Tally

from .. import recovering, web
from ..subject import Bench, Outcome, Skipped, percentiles, subject
from ..traffic import cpu_seconds, drain, flat_out, paced
from ..workers import PortSpec

_SERVERS = 2
_CLIENTS = 2000
_MEMBERS = 20
_RATE = 50.0
# Messages to each room before and after the kill, of which each client misses the latter.
_BEFORE, _MISSED = 10, 20
# Messages to all rooms together in a second.
_BURST = 200.0
# Seconds before the end of the burst at which clients come back, so that it goes on meanwhile.
_EARLY = 1.0


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


@subject(
    "Recovery of websockets whose worker is killed",
    f"{_CLIENTS:,} websocket clients that keep their positions, in rooms of {_MEMBERS}, all on one "
    f"of {_SERVERS} daphne processes, which is killed (SIGKILL) in the middle of a burst of "
    f"{_BURST:.0f} messages a second. Each client misses about {_MISSED} messages and comes back "
    "to the other process while the burst goes on; every message is counted.",
    "recovered: coming back, until all that was missed has come (clients/s, more)",
    "connected: for comparison: connecting for the first time (clients/s, more)",
    *("back_p50: p50 of coming back (ms)", "back_p99: p99 of coming back (ms)"),
    "replayed: messages replayed to each client (messages)",
    long=True,
)
def recovery(bench: Bench) -> Iterator[Outcome]:
    if not bench.running.spec.backend.startswith("kafka_layer."):
        raise Skipped("it recovers nothing")
    clients = bench.pick(_CLIENTS // 5, _CLIENTS)
    rooms = clients // _MEMBERS
    rate = _BURST * rooms / (_CLIENTS // _MEMBERS)
    groups = [f"{web.RECOVERING.strip('/')}{room}" for room in range(rooms)]
    seconds = (_BEFORE + _MISSED) * rooms / rate
    web.allow_files(clients)
    while True:
        with web.serving(bench.running.spec, _SERVERS) as servers:
            (first, killed), (second, _) = servers.items()
            config = {"port": first, "members": _MEMBERS}
            port = PortSpec("recovering", "benchmarks.recovering.RecoveringSockets", config)
            with bench.workers(1, port) as [crowd], bench.workers(1) as [sender]:
                took = crowd.call(recovering.first_connections, second, clients)
                bench.channels([crowd], clients, True)
                sending = sender.start(paced, "group_send", groups, rate, seconds)
                began = time.monotonic()
                time.sleep(_BEFORE * rooms / rate)
                killed.kill()
                time.sleep(max(0.0, began + seconds - _EARLY - time.monotonic()))
                back = crowd.call(recovering.come_back, second)
                expected = sending().messages * _MEMBERS
                inboxes = crowd.call(drain, expected)
        if back.reasons:
            raise RuntimeError(f"some clients were not recovered: {dict(back.reasons)}")
        values = {
            "recovered": clients / back.took,
            "connected": clients / took,
            "replayed": back.replayed / clients,
            **percentiles([each * 1000 for each in back.seconds], "back_"),
        }
        yield Outcome(values, Tally.of(expected, inboxes))
