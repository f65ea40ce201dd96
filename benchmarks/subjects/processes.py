"""What a process pays: for its start, for nothing at all, and for calls, one after another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from channels.exceptions import ChannelFull

from tests.support.counting import Tally, percentile

from .. import traffic
from ..subject import Bench, Outcome, subject
from ..workers import Context

_TIMEOUT = 15.0
_CHANNELS = 100
_BURST = 100
"""As many messages as a channel holds by default."""


async def send_in_thread(context: Context, way: str, group: str, seconds: float) -> traffic.Sent:
    """Send group messages one after another from a thread that has no event loop."""
    return await asyncio.to_thread(_send, context.port.sync_group_sends()[way], group, seconds)


async def ways(context: Context) -> list[str]:
    """Name the ways of this contender to send from synchronous code."""
    return list(context.port.sync_group_sends())


async def first_received(context: Context, group: str) -> float | None:
    """Construct the layer, join a group, send to it; return milliseconds until the message came."""
    began = time.monotonic()
    layer = context.port.layer
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    await layer.group_send(group, traffic.message(0, 0))
    try:
        await asyncio.wait_for(layer.receive(channel), _TIMEOUT)
    except asyncio.TimeoutError:
        return None
    return (time.monotonic() - began) * 1000


async def memory(context: Context) -> float:
    """Return this process's own memory in MiB."""
    return _resident("self")


async def time_calls(context: Context, group: str, bursts: int) -> dict[str, float]:
    """Return the microseconds that calls take of this thread's processor."""
    layer, message = context.port.layer, traffic.message(0, 0)
    [channel] = context.inboxes
    calls = {
        "local": lambda: layer.send(channel, message),
        "receive": lambda: layer.receive(channel),
        "call": lambda: layer.group_send(group, message),
    }
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(bursts):
        for name, call in calls.items():
            began = time.thread_time()
            for _ in range(_BURST):
                await call()
            took[name].append((time.thread_time() - began) * 1e6 / _BURST)
        await asyncio.sleep(0.005)
    return {name: percentile(each, 0.5) for name, each in took.items()}


@subject(
    "Group sends from synchronous code",
    "One thread without an event loop sends group messages one after another: with the layer's own "
    "synchronous method, where it has one, and with async_to_sync.",
    "best: best way (sends/s, more)",
    "native: own method (sends/s, more)",
    "bridged: async_to_sync (sends/s, more)",
    with_floor=True,
)
def synchronous(bench: Bench) -> Iterator[Outcome]:
    with bench.workers(2) as (sender, receiver):
        bench.channels([receiver], 1)
        groups = {way: bench.unique("group") for way in sender.call(ways)}
        for group in groups.values():
            receiver.call(traffic.join, group)
        while True:
            values: dict[str, float] = {}
            tally = Tally()
            for way, group in groups.items():
                sending = (send_in_thread, way, group)
                found = bench.twice(bench.pick(1.0, 2.0), 0.2, (sender, [receiver]), 1, *sending)
                tally += found.tally
                values[way] = found.sent.messages / (found.sent.ended - found.sent.began)
            yield Outcome({**values, "best": max(values.values())}, tally)


@subject(
    "Start of a process",
    "A new process with everything imported: from the construction of the layer until it has "
    "joined a group and received its own message to it; and, for a process that only sends, until "
    "another process has its first message.",
    *("received: first message received (ms)", "sent: first sent (ms)"),
)
def startup(bench: Bench) -> Iterator[Outcome]:
    while True:
        with bench.workers(3) as (receiver, sender, newcomer):
            received = newcomer.call(first_received, bench.unique("group"))
            [channel] = bench.channels([receiver], 1)
            found = bench.exchange(
                sender, [receiver], 1, traffic.paced, "send", [channel], 1.0, 1.0
            )
        values = {} if received is None else {"received": received}
        if not found.tally.lost:
            values["sent"] = found.took * 1000
        yield Outcome(values, Tally(1, int(received is None)) + found.tally)


@subject(
    "Memory and idle processor time",
    "A process with 100 channels in a group, each with a receive that waits, while nothing is "
    "sent. The memory of a whole Python process; that of the floor is the part that the Kafka "
    "client takes.",
    *("memory: process (MiB)", "idle_cpu: idle (% of a core)", "server_memory: its server (MiB)"),
    with_floor=True,
    long=True,
)
def footprint(bench: Bench) -> Iterator[Outcome]:
    while True:
        with bench.workers(1, fresh=True) as [worker]:
            bench.channels([worker], _CHANNELS)
            worker.call(traffic.join, bench.unique("group"))
            time.sleep(bench.pick(0.5, 1.5))
            before, began = worker.call(traffic.cpu_seconds), time.monotonic()
            time.sleep(bench.pick(2.0, 6.0))
            used = worker.call(traffic.cpu_seconds) - before
            share = used / (time.monotonic() - began)
            values = {"memory": worker.call(memory), "idle_cpu": share * 100}
        if bench.running.server.pid is not None:
            values["server_memory"] = _resident(str(bench.running.server.pid))
        yield Outcome(values)


@subject(
    "Single calls",
    "Sends to a channel of the own process, receives of them, and sends to a group without "
    "members, 100 of each in turn, in processor time of the calling thread; and sends to such a "
    "group one each millisecond, in time.",
    *("local: send to an own channel (µs)", "receive: receive (µs)"),
    *("call: group_send in a row (µs)", "cold: group_send alone (µs)"),
)
def calls(bench: Bench) -> Iterator[Outcome]:
    with bench.workers(1) as [worker]:
        worker.call(traffic.open_channels, 1)
        while True:
            values = worker.call(time_calls, bench.unique("group"), bench.pick(50, 200))
            group = bench.unique("group")
            timed = worker.call(traffic.time_sends, "group_send", group, bench.pick(300, 500))
            yield Outcome({**values, "cold": percentile(timed, 0.5) * 1e6})


def _send(
    send: Callable[[str, dict[str, object]], object], group: str, seconds: float
) -> traffic.Sent:
    began = time.monotonic()
    sent = 0
    while time.monotonic() < began + seconds:
        try:
            send(group, traffic.message(0, sent))
        except ChannelFull:
            time.sleep(0.001)
        else:
            sent += 1
    return traffic.Sent(sent, began, time.monotonic())


def _resident(pid: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/status has no VmRSS")
