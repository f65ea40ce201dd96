"""Joining groups: how fast, and whether a message sent right afterwards reaches the new member."""

from __future__ import annotations

import asyncio
import socket
import time

from .. import traffic
from ..inbox import Faults
from ..subject import Bench, Figure, Outcome, Subject
from ..workers import Context

__all__ = ["SUBJECT"]

_TASKS = 10
_GROUPS = 100


async def join_and_leave(context: Context, names: list[str], seconds: float) -> float:
    """Join and leave groups, one task a channel; return pairs a second.

    Args:
        context: The worker's.
        names: What the groups of each task are called.
        seconds: For how long.
    """
    layer = context.port.layer  # type: ignore[attr-defined]
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

    done = sum(await asyncio.gather(*map(run, context.inboxes, names)))
    return done / (time.monotonic() - began)


async def occupy(context: Context, name: str) -> None:
    """Give each group of a name a member that stays."""
    [channel] = await context.port.new_channels(1)
    for number in range(_GROUPS):
        await context.port.join(f"{name}-{number}", [channel])


async def send_on_signal(context: Context) -> int:
    """Send to each group whose name arrives on a socket; return the socket's port."""
    loop = asyncio.get_running_loop()
    tasks = set()

    class Signals(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            group = data.decode()
            task = loop.create_task(context.port.group_send(group, traffic.message(0, 0)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    # The first send of a process has nothing to do with the race.
    await context.port.group_send("nobody", traffic.message(0, 0))
    transport, _ = await loop.create_datagram_endpoint(Signals, local_addr=("127.0.0.1", 0))
    return int(transport.get_extra_info("sockname")[1])


async def race(context: Context, name: str, rounds: int, port: int) -> int:
    """Join a group, have another process send to it at once; return in how many rounds it came."""
    layer = context.port.layer  # type: ignore[attr-defined]
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


def measure(bench: Bench) -> Outcome:
    values = {}
    seconds = bench.pick(0.7, 1.5)
    with bench.workers(1) as [worker]:
        worker.call(traffic.open_channels, _TASKS)
        empty = [bench.unique("group") for _ in range(_TASKS)]
        shared = [bench.unique("group")] * _TASKS
        worker.call(occupy, shared[0])
        for name, groups in (("first", empty), ("further", shared)):
            worker.call(join_and_leave, groups, 0.2)
            values[name] = worker.call(join_and_leave, groups, seconds)
    rounds = bench.pick(100, 250)
    with bench.workers(2) as (sender, joiner):
        joiner.call(traffic.open_channels, 1)
        port = sender.call(send_on_signal)
        arrived = joiner.call(race, bench.unique("race"), rounds, port)
    lost = rounds - arrived
    values["race"] = lost * 1000 / rounds
    return Outcome(values, Faults(rounds, lost))


SUBJECT = Subject(
    "membership",
    "Joining and leaving groups",
    "group_add and group_discard in ten tasks of one process: of the first member of a group "
    "there, and of further ones; and rounds in which another process sends to the group as soon "
    "as group_add has returned.",
    [
        Figure("first", "add + discard, first member", "pairs/s", "more"),
        Figure("further", "add + discard, further members", "pairs/s", "more"),
        Figure("race", "lost just after group_add", "of 1,000"),
    ],
    measure,
)
