"""Clients that come back for what they missed, and a reader that stalls."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import psutil

from tests.support.counting import Tally, percentile

from .. import recovering, traffic, web
from ..recovering import GREETING, MISSED, RECOVERING, ComeBack
from ..servers import Skipped
from ..subject import Bench, Line, Rounds, percentiles, subject
from ..traffic import paced
from ..workers import PortSpec, Worker
from .sockets import CLIENTS, MEMBERS, SERVERS

# Messages to each room before the kill; each client misses ``MISSED`` after it.
_BEFORE = 10
# Messages to all rooms together in a second.
_BURST = 200.0
# Seconds before the end of the burst at which clients come back, so that it goes on meanwhile.
_EARLY = 1.0

# Seconds in which a server that rests takes a tenth of the processor at most; it does so within.
_REST, _RESTS_AFTER = 0.3, 30.0

# Messages of the log, as many as 1,000 a second are in two minutes, and how fast they are sent.
_LOG, _FAST = 120_000, 20_000.0
# Channels that recover, and their groups; every other message is to a group of its own.
_ASKERS, _GROUPS = 1000, 50
# Seconds within which as many ask as websockets connect.
_SPREAD = 1.0

# Messages a second to the reader that stalls and to its neighbours, and how many those are.
_STREAM, _TALK, _NEIGHBOURS = 500.0, 50.0, 10
# Seconds for which it stalls, and for which its neighbours are still measured afterwards.
_STALL, _AFTER = 60.0, 3.0


@subject(
    "Recovery",
    f"{CLIENTS:,} websocket clients that keep their positions, in rooms of {MEMBERS}, all on one "
    f"of {SERVERS} daphne processes, which is killed (SIGKILL) in the middle of a burst of "
    f"{_BURST:.0f} messages a second. Each client misses about {MISSED} messages and comes back "
    f"to the other process while the burst goes on. Then, without websockets: one channel of a "
    f"server that has just started recovers {MISSED} messages from a log that got {_LOG:,} "
    f"messages meanwhile; so do {_ASKERS:,} channels of another such server, within a second; as "
    "many of a third one, all at the same moment; and as many, one after another, from the memory "
    "of this server. "
    f"Then one of its channels is sent {_STREAM:.0f} messages a second: "
    f"for {_STALL:.0f} s it receives them; for another {_STALL:.0f} s it receives none, and then "
    f"all. Meanwhile {_NEIGHBOURS} channels of the server are in a group with {_TALK:.0f} messages "
    "a second. Every message is counted.",
    "recovered: websockets: coming back, until all that was missed has come (clients/s, more)",
    "connected: for comparison: connecting for the first time (clients/s, more)",
    "greeted: the same, and being sent as many messages by connect (clients/s, more)",
    "recovered_cpu: the server's processor: coming back (ms/client)",
    *("connected_cpu: connecting (ms/client)", "greeted_cpu: and being sent as much (ms/client)"),
    *("back_p50: p50 of coming back (ms)", "back_p99: p99 of coming back (ms)"),
    "replayed: messages replayed to each client (messages)",
    "log_alone: channels: one alone, from the log (ms)",
    "log_bare: for comparison: a bare consumer that reads this log (ms)",
    *("spread_p50: p50 from the log, within a second (ms)", "spread_p95: p95 of this (ms)"),
    *("log_p50: p50 from the log, all at once (ms)", "log_p95: p95 of this (ms)"),
    "memory_p95: p95 from memory, one after another (ms)",
    "reading_p99: neighbours of a reader that reads: p99 (ms)",
    "stalled_p99: neighbours of one that stalls and goes on: p99 (ms)",
    "reading_memory: memory while it reads (MiB more)",
    "stalled_memory: memory while it stalls and goes on (MiB more)",
    "caught_up: until it has caught up (s)",
    long=True,
)
def recovery(bench: Bench) -> Rounds:
    if not bench.contender.backend.startswith("kafka_layer."):
        raise Skipped("it recovers nothing")
    while True:
        yield {**_websockets(bench), **_channels(bench)}


def _websockets(bench: Bench) -> dict[str, float]:
    clients = bench.pick(CLIENTS // 5, CLIENTS)
    rooms = clients // MEMBERS
    rate = _BURST * rooms / (CLIENTS // MEMBERS)
    groups = [f"{RECOVERING.strip('/')}{room}" for room in range(rooms)]
    seconds = (_BEFORE + MISSED) * rooms / rate
    web.allow_files(clients)
    with web.serving(bench.contender, SERVERS) as servers:
        (first, killed), (second, server) = servers.items()
        config = {"port": first, "members": MEMBERS}
        port = PortSpec("recovering", "benchmarks.recovering.RecoveringSockets", config)
        with bench.workers(1, port) as [crowd], bench.workers(1) as [sender]:
            first_time = {}
            for name, kind in (("connected", RECOVERING), ("greeted", GREETING)):
                _let_rest(server)
                used = web.cpu_seconds(server)
                took = crowd.call(recovering.first_connections, second, kind, clients)
                first_time[name] = clients / took
                first_time[f"{name}_cpu"] = (web.cpu_seconds(server) - used) * 1000 / clients
            _let_rest(server)
            bench.channels([crowd], clients, True)
            line = Line(sender, [crowd], "group_send", groups, MEMBERS)
            sending = line.start(paced, rate, seconds)
            began = time.monotonic()
            time.sleep(_BEFORE * rooms / rate)
            killed.kill()
            time.sleep(max(0.0, began + seconds - _EARLY - time.monotonic()))
            used = web.cpu_seconds(server)
            back = crowd.call(recovering.come_back, second)
            used = web.cpu_seconds(server) - used
            sent = sending()
            bench.drained(line, sent, sent.messages * MEMBERS)
    _require_recovered(back)
    return {
        "recovered": clients / back.took,
        "recovered_cpu": used * 1000 / clients,
        **first_time,
        "replayed": back.replayed / clients,
        **percentiles([each * 1000 for each in back.seconds], "back_"),
    }


def _let_rest(server: subprocess.Popen[bytes]) -> None:
    """Wait until a server has nothing to do, such as with clients that left."""
    deadline = time.monotonic() + _RESTS_AFTER
    while time.monotonic() < deadline:
        used = web.cpu_seconds(server)
        time.sleep(_REST)
        if web.cpu_seconds(server) - used < _REST / 10:
            return
    raise TimeoutError(f"the server was busy for {_RESTS_AFTER} s")


def _channels(bench: Bench) -> dict[str, float]:
    groups = [bench.unique("missed") for _ in range(_GROUPS)]
    others = [bench.unique("other") for _ in range(_LOG // MISSED // _GROUPS - 1)]
    with bench.workers(2) as (sender, keeper):
        bench.channels([keeper], _GROUPS)
        positions = keeper.call(recovering.keep_positions, groups)
        addresses = [name for group in groups for name in (group, *others)]
        line = Line(sender, [keeper], "group_send", addresses)
        since = time.time()
        sent = line.send(paced, _FAST, _LOG / _FAST)
        bench.drained(line, sent, MISSED * _GROUPS)
    with bench.workers(2) as (bare, server):
        asked = time.monotonic()
        if bare.call(recovering.read_bare, since) < _LOG:
            raise RuntimeError("the bare consumer read less than was sent")
        bare_took = time.monotonic() - asked
        [alone] = _recover(bench, server, groups, positions, 1, 0.0)
    with bench.workers(1) as [server]:
        spread = _recover(bench, server, groups, positions, _ASKERS, _SPREAD)
    with bench.workers(3) as (sender, talker, server):
        from_log = _recover(bench, server, groups, positions, _ASKERS, 0.0)
        from_memory = _recover(bench, server, groups, positions, _ASKERS, None)
        # So that all that its memory kept has made room once for younger messages.
        Line(sender, [server], "group_send", others).send(paced, _FAST, _LOG / _FAST)
        values = _stall(bench, sender, talker, server)
    values["log_alone"], values["log_bare"] = alone, bare_took * 1000
    values["spread_p50"] = percentile(spread, 0.50)
    values["spread_p95"] = percentile(spread, 0.95)
    values["log_p50"] = percentile(from_log, 0.50)
    values["log_p95"] = percentile(from_log, 0.95)
    values["memory_p95"] = percentile(from_memory, 0.95)
    return values


def _recover(bench: Bench, server: Worker, *asked: Any) -> list[float]:
    """Recover channels of a server and count what they got; returns the milliseconds of each."""
    back, inboxes = server.call(recovering.recover, *asked)
    _require_recovered(back)
    bench.tally += Tally.of(MISSED * len(inboxes), inboxes)
    return [each * 1000 for each in back.seconds]


def _stall(bench: Bench, sender: Worker, talker: Worker, server: Worker) -> dict[str, float]:
    values: dict[str, float] = {}
    seconds = bench.pick(_STALL / 6, _STALL)
    memory = psutil.Process(server.pid.result()).memory_info
    bench.channels([server], _NEIGHBOURS, True)
    room = bench.group([server])
    for phase in ("reading", "stalled"):
        group = bench.unique("stream")
        server.call(recovering.follow, group)
        if phase == "reading":
            server.call(recovering.read_on)
        server.call(traffic.restart)
        before = memory().rss
        stream = Line(sender, [server], "group_send", [group])
        talk = Line(talker, [server], "group_send", [room], _NEIGHBOURS)
        talking = talk.start(paced, _TALK, seconds + _AFTER)
        sent = stream.send(paced, _STREAM, seconds)
        began = time.monotonic()
        if phase == "stalled":
            server.call(recovering.read_on)
        expected = sent.messages + talking().messages * _NEIGHBOURS
        found = bench.drained(stream, sent, expected)
        values[f"{phase}_memory"] = (memory().rss - before) / 2**20
        # The inboxes of the neighbours are the first ones, that of the reader is the last one.
        talked = found._replace(inboxes=found.inboxes[:_NEIGHBOURS])
        values[f"{phase}_p99"] = talked.ms()["p99"]
    values["caught_up"] = found.inboxes[-1].last_at - began
    return values


def _require_recovered(back: ComeBack) -> None:
    if back.reasons:
        raise RuntimeError(f"some were not recovered: {dict(back.reasons)}")
