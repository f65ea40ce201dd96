"""Members of groups: how their number shows, how fast they join, and what a command takes."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from statistics import median

from tests.support.counting import Tally

from .. import traffic
from ..subject import Bench, Line, Rounds, percentiles, subject
from ..workers import Context

SIZES = (1, 100, 1000, 5000)
_WARM_UP_ROUNDS = 2
_PAUSE = 0.005
_TASKS = 10
_GROUPS = 100


async def send_one(context: Context, method: str, groups: Sequence[str]) -> traffic.Sent:
    """Send one group message."""
    # Each size leaves the sender idle for another time: without this, cold caches are measured.
    await context.port.group_send("nobody", traffic.message(0, 0))
    await asyncio.sleep(_PAUSE)
    # The first of its sender, as the inboxes count anew: those that seemed to miss more messages
    # each time took most of the time that was measured.
    message = traffic.message(0, 0)
    began = time.monotonic()
    await context.port.group_send(groups[0], message)
    return traffic.Sent(1, began, time.monotonic())


async def join_and_leave(context: Context, names: list[str], seconds: float) -> float:
    """Join and leave groups, a task for each channel but the first, with groups of a name each;
    returns pairs a second.
    """
    layer = context.port.layer
    began = time.monotonic()

    async def run(channel: str, name: str) -> int:
        done = 0
        while time.monotonic() < began + seconds:
            group = f"{name}-{done % _GROUPS}"
            await layer.group_add(group, channel)
            await layer.group_discard(group, channel)
            done += 1
            if not done % 50:
                await asyncio.sleep(0)
        return done

    done = sum(await asyncio.gather(*map(run, list(context.inboxes)[1:], names)))
    return done / (time.monotonic() - began)


async def send_on_signal(context: Context) -> int:
    """Send to each group whose name arrives on a socket; return the socket's port."""
    # The first send of a process has nothing to do with the race.
    await context.port.group_send("nobody", traffic.message(0, 0))
    signals = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    signals.bind(("127.0.0.1", 0))
    signals.setblocking(False)

    async def run() -> None:
        while True:
            group = await asyncio.get_running_loop().sock_recv(signals, 200)
            await context.port.group_send(group.decode(), traffic.message(0, 0))

    context.notes["sending"] = asyncio.create_task(run())
    return int(signals.getsockname()[1])


async def race(context: Context, name: str, rounds: int, port: int) -> int:
    """Join a group, have another process send to it at once; return in how many rounds it came."""
    layer = context.port.layer
    [channel] = context.inboxes
    arrived = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as signal:
        for number in range(rounds):
            group = f"{name}-{number}"
            receiving = asyncio.create_task(layer.receive(channel))
            await asyncio.sleep(0)
            await layer.group_add(group, channel)
            signal.sendto(group.encode(), ("127.0.0.1", port))
            done, _ = await asyncio.wait([receiving], timeout=2.0)
            arrived += len(done)
            await layer.group_discard(group, channel)
            if not done:
                receiving.cancel()
                await asyncio.wait([receiving])
                # Some layers close a channel whose receive was cancelled.
                [channel] = await context.port.new_channels(1)
    return arrived


async def time_commands(context: Context, group: str, channel: str, count: int) -> list[float]:
    """Add a channel of another process to groups; return the milliseconds of each call."""
    layer = context.port.layer
    calls = []
    for number in range(count):
        began = time.monotonic()
        await layer.group_add(f"{group}-{number}", channel)
        calls.append((time.monotonic() - began) * 1000)
        await layer.group_discard(f"{group}-{number}", channel)
    return calls


@subject(
    "Size of a group",
    "One message at a time to a group whose members are in two other processes: until the last "
    "member has it, and how long the group_send call takes. Medians.",
    *(f"last_{size}: last of {size:,} (ms)" for size in SIZES),
    *(f"call_{size}: call, {size:,} members (µs)" for size in SIZES),
    with_floor=True,
)
def members(bench: Bench) -> Rounds:
    with bench.workers(3) as (sender, *receivers):
        bench.channels(receivers, max(SIZES) // 2)
        lines = {}
        for size in SIZES:
            group = bench.group(receivers, [(size + 1) // 2, size // 2])
            lines[size] = Line(sender, receivers, "group_send", [group], size)
        while True:
            values: dict[str, float] = {}
            for size, line in lines.items():
                found = []
                ends = time.monotonic() + bench.pick(1.0, 2.0)
                while len(found) < _WARM_UP_ROUNDS + 2 or (
                    time.monotonic() < ends and len(found) < bench.pick(20, 40)
                ):
                    found.append(bench.exchange(line, send_one))
                counted = found[_WARM_UP_ROUNDS:]
                values[f"last_{size}"] = median(each.took for each in counted) * 1e3
                calls = [each.sent.ended - each.sent.began for each in counted]
                values[f"call_{size}"] = median(calls) * 1e6
            yield values


@subject(
    "Joining and leaving groups",
    "group_add and group_discard in ten tasks of one process: of the first member of a group "
    "there, and of further ones; and rounds in which another process sends to the group as soon "
    "as group_add has returned.",
    "first: add + discard, first member (pairs/s, more)",
    "further: add + discard, further members (pairs/s, more)",
    "race: lost just after group_add (of 1,000)",
)
def membership(bench: Bench) -> Rounds:
    first = [bench.unique("group") for _ in range(_TASKS)]
    further = [bench.unique("group")] * _TASKS
    rounds = bench.pick(100, 250)
    with bench.workers(1) as [worker], bench.workers(2) as (sender, joiner):
        worker.call(traffic.open_channels, 1 + _TASKS)
        for number in range(_GROUPS):
            # The first is a member that stays.
            worker.call(traffic.join, f"{further[0]}-{number}", 1)
        joiner.call(traffic.open_channels, 1)
        port = sender.call(send_on_signal)
        while True:
            values = {}
            for name, groups in (("first", first), ("further", further)):
                worker.call(join_and_leave, groups, 0.2)
                values[name] = worker.call(join_and_leave, groups, bench.pick(0.7, 1.5))
            lost = rounds - joiner.call(race, bench.unique("race"), rounds, port)
            bench.tally += Tally(rounds, lost)
            yield {**values, "race": lost * 1000 / rounds}


@subject(
    "Commands",
    "group_add of a channel of another process, one after another: until it is a member.",
    *("p50: p50 (ms)", "p99: p99 (ms)"),
)
def commands(bench: Bench) -> Rounds:
    with bench.workers(2) as (asker, owner):
        [channel] = bench.channels([owner], 1)
        bench.channels([asker], 1)
        while True:
            calls = asker.call(time_commands, bench.unique("group"), channel, bench.pick(100, 300))
            yield percentiles(calls)
