"""How long a process takes from its layer's construction to its first message."""

from __future__ import annotations

import asyncio
import time

from .. import traffic
from ..inbox import Faults
from ..subject import Bench, Figure, Outcome, Subject
from ..workers import Context

__all__ = ["SUBJECT"]

_TIMEOUT = 15.0


async def first_received(context: Context, group: str) -> float | None:
    """Construct the layer, join a group, send to it; return seconds until the message came."""
    began = time.monotonic()
    layer = context.port.layer  # type: ignore[attr-defined]
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    await layer.group_send(group, traffic.message(0, 0))
    try:
        await asyncio.wait_for(layer.receive(channel), _TIMEOUT)
    except asyncio.TimeoutError:
        return None
    return time.monotonic() - began


async def first_sent(context: Context, channel: str) -> float:
    """Construct the layer and send; return when that began."""
    began = time.monotonic()
    await context.port.send(channel, traffic.message(0, 0))
    return began


def measure(bench: Bench) -> Outcome:
    with bench.workers(3) as (receiver, sender, newcomer):
        received = newcomer.call(first_received, bench.unique("group"))
        channels = receiver.call(traffic.open_channels, 1)
        receiver.call(traffic.listen)
        began = sender.call(first_sent, channels[0])
        inboxes = receiver.call(traffic.drain, 1)
    faults = Faults(1, int(received is None)) + Faults.of(1, inboxes)
    values = {}
    if received is not None:
        values["received"] = received * 1000
    if inboxes[0].received:
        values["sent"] = (inboxes[0].last_at - began) * 1000
    return Outcome(values, faults)


SUBJECT = Subject(
    "startup",
    "Start of a process",
    "A new process with everything imported: from the construction of the layer until it has "
    "joined a group and received its own message to it; and, for a process that only sends, until "
    "another process has its first message.",
    [Figure("received", "first message received", "ms"), Figure("sent", "first sent", "ms")],
    measure,
)
