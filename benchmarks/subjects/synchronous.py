"""How many group messages a second synchronous code sends, as in a view or a task."""

from __future__ import annotations

import asyncio
import time

from channels.exceptions import ChannelFull

from .. import traffic
from ..inbox import Faults
from ..subject import Bench, Figure, Outcome, Subject
from ..workers import Context

__all__ = ["SUBJECT"]


async def send_in_thread(context: Context, way: str, group: str, seconds: float) -> traffic.Sent:
    """Send group messages one after another from a thread that has no event loop."""
    return await asyncio.to_thread(_send, context, way, group, seconds)


async def ways(context: Context) -> list[str]:
    """Name the ways of this contender to send from synchronous code."""
    return list(context.port.sync_group_sends())


def measure(bench: Bench) -> Outcome:
    values: dict[str, float] = {}
    faults = Faults()
    with bench.workers(2) as (sender, receiver):
        receiver.call(traffic.open_channels, 1)
        receiver.call(traffic.listen)
        for way in sender.call(ways):
            group = bench.unique("group")
            receiver.call(traffic.join, group)
            for seconds in (0.2, bench.pick(1.0, 2.0)):
                receiver.call(traffic.restart)
                sent = sender.call(send_in_thread, way, group, seconds)
                faults += Faults.of(sent.messages, receiver.call(traffic.drain, sent.messages))
            values[way] = sent.messages / (sent.ended - sent.began)
    values["best"] = max(values.values())
    return Outcome(values, faults)


def _send(context: Context, way: str, group: str, seconds: float) -> traffic.Sent:
    send = context.port.sync_group_sends()[way]
    began = time.monotonic()
    sent = refused = 0
    while time.monotonic() < began + seconds:
        try:
            send(group, traffic.message(0, sent))
        except ChannelFull:
            refused += 1
            time.sleep(0.001)
        else:
            sent += 1
    return traffic.Sent(sent, began, time.monotonic(), refused)


SUBJECT = Subject(
    "synchronous",
    "Group sends from synchronous code",
    "One thread without an event loop sends group messages one after another: with the layer's own "
    "synchronous method, where it has one, and with async_to_sync.",
    [
        Figure("best", "best way", "sends/s", "more"),
        Figure("native", "own method", "sends/s", "more"),
        Figure("bridged", "async_to_sync", "sends/s", "more"),
    ],
    measure,
    with_floor=True,
)
