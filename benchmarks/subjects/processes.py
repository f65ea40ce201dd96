"""What a process pays: for its start, for nothing at all, and for calls, one after another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from statistics import median

import psutil
from channels.exceptions import ChannelFull

from tests.support.counting import Tally

from .. import traffic
from ..subject import Bench, Line, Rounds, subject
from ..workers import Context

_TIMEOUT = 15.0
_CHANNELS = 100
_BURST = 100  # as many messages as a channel holds by default


async def send_in_thread(
    context: Context, way: str, groups: Sequence[str], seconds: float
) -> traffic.Sent:
    """Send group messages one after another from a thread that has no event loop."""
    send = getattr(context.port, way)

    def run() -> traffic.Sent:
        began = time.monotonic()
        sent = 0
        while time.monotonic() < began + seconds:
            try:
                send(groups[0], traffic.message(0, sent))
                sent += 1
            except ChannelFull:
                time.sleep(0.001)
        return traffic.Sent(sent, began, time.monotonic())

    return await asyncio.to_thread(run)


async def ways(context: Context) -> list[str]:
    """Name the ways of this contender to send from synchronous code."""
    return [way for way in ("native", "bridged") if hasattr(context.port, way)]


async def first_received(context: Context, group: str) -> float | None:
    """Construct the layer, join a group, send to it; return milliseconds until the message came."""
    began = time.monotonic()
    layer = context.port.layer
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    await layer.group_send(group, traffic.message(0, 0))
    done, _ = await asyncio.wait([asyncio.ensure_future(layer.receive(channel))], timeout=_TIMEOUT)
    return (time.monotonic() - began) * 1000 if done else None


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
    return {name: median(each) for name, each in took.items()}


@subject(
    "Group sends from synchronous code",
    "One thread without an event loop sends group messages one after another: with the layer's own "
    "synchronous method, where it has one, and with async_to_sync.",
    "best: best way (sends/s, more)",
    "native: own method (sends/s, more)",
    "bridged: async_to_sync (sends/s, more)",
    with_floor=True,
)
def synchronous(bench: Bench) -> Rounds:
    with bench.workers(2) as (sender, *receivers):
        bench.channels(receivers, 1)
        # The job takes the way as its method.
        lines = [
            Line(sender, receivers, way, [bench.group(receivers)]) for way in sender.call(ways)
        ]
        while True:
            values = {}
            for line in lines:
                sent = bench.twice(line, bench.pick(1.0, 2.0), 0.2, send_in_thread).sent
                values[line.method] = sent.messages / (sent.ended - sent.began)
            yield {**values, "best": max(values.values())}


@subject(
    "Start of a process",
    "A new process with everything imported: from the construction of the layer until it has "
    "joined a group and received its own message to it; and, for a process that only sends, until "
    "another process has its first message.",
    *("received: first message received (ms)", "sent: first sent (ms)"),
)
def startup(bench: Bench) -> Rounds:
    while True:
        with bench.workers(1) as [newcomer]:
            received = newcomer.call(first_received, bench.unique("group"))
        with bench.to_channels(1) as line:
            sent = bench.exchange(line, traffic.paced, 1.0, 1.0)
        bench.tally += Tally(1, int(received is None))
        values = {"received": received, "sent": sent.took * 1000 if sent.deliveries else None}
        yield {name: value for name, value in values.items() if value is not None}


@subject(
    "Memory and idle processor time",
    "A process with 100 channels in a group, each with a receive that waits, while nothing is "
    "sent. The memory of a whole Python process; that of the floor is the part that the Kafka "
    "client takes.",
    *("memory: process (MiB)", "idle_cpu: idle (% of a core)", "server_memory: its server (MiB)"),
    with_floor=True,
    long=True,
)
def footprint(bench: Bench) -> Rounds:
    while True:
        with bench.workers(1, fresh=True) as [worker]:
            bench.channels([worker], _CHANNELS)
            bench.group([worker])
            time.sleep(bench.pick(0.5, 1.5))
            before, began = worker.call(traffic.cpu_seconds), time.monotonic()
            time.sleep(bench.pick(2.0, 6.0))
            used = worker.call(traffic.cpu_seconds) - before
            values = {"idle_cpu": used / (time.monotonic() - began) * 100}
            processes = {"memory": worker.pid.result(), "server_memory": bench.contender.server_pid}
            for name, pid in processes.items():
                if pid is not None:
                    values[name] = psutil.Process(pid).memory_info().rss / 2**20
        yield values


@subject(
    "Single calls",
    "Sends to a channel of the own process, receives of them, and sends to a group without "
    "members, 100 of each in turn, in processor time of the calling thread; and sends to such a "
    "group one each millisecond, in time.",
    *("local: send to an own channel (µs)", "receive: receive (µs)"),
    *("call: group_send in a row (µs)", "cold: group_send alone (µs)"),
)
def calls(bench: Bench) -> Rounds:
    with bench.workers(1) as [worker]:
        worker.call(traffic.open_channels, 1)
        while True:
            values = worker.call(time_calls, bench.unique("group"), bench.pick(50, 200))
            cold = Line(worker, [], "group_send", [bench.unique("group")])
            sent = cold.send(traffic.time_sends, bench.pick(300, 500))
            yield {**values, "cold": median(sent.calls) * 1e6}
