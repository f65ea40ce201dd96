"""How the size of a group shows: in the time until its last member is served, and to the sender."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from .. import traffic
from ..inbox import Faults, percentile
from ..subject import Bench, Figure, Outcome, Subject
from ..workers import Context

__all__ = ["SIZES", "SUBJECT"]

SIZES = (1, 100, 1000, 5000)
_WARM_UP_ROUNDS = 2
_PAUSE = 0.005


async def send_one(context: Context, group: str) -> tuple[float, float]:
    """Send one group message; return when, and how long the call took."""
    # Each size leaves the sender idle for another time: without this, cold caches are measured.
    await context.port.group_send("nobody", traffic.message(0, 0))
    await asyncio.sleep(_PAUSE)
    # The first of its sender, as the inboxes count anew: those that seemed to miss more messages
    # each time took most of the time that was measured.
    message = traffic.message(0, 0)
    began = time.monotonic()
    await context.port.group_send(group, message)
    return began, time.monotonic() - began


def measure(bench: Bench) -> Outcome:
    values: dict[str, float] = {}
    faults = Faults()
    with bench.workers(3) as (sender, *receivers):
        opening = [each.start(traffic.open_channels, max(SIZES) // 2) for each in receivers]
        for each in opening:
            each.result()
        for receiver in receivers:
            receiver.call(traffic.listen)
        for size in SIZES:
            group = bench.unique("group")
            shares = [(size + 1) // 2, size // 2]
            joining = [
                receiver.start(traffic.join, group, share)
                for receiver, share in zip(receivers, shares, strict=True)
                if share
            ]
            for each in joining:
                each.result()
            lasts, calls = [], []
            ends = time.monotonic() + bench.pick(1.0, 2.0)
            for number in range(bench.pick(10, 40) + _WARM_UP_ROUNDS):
                if number > _WARM_UP_ROUNDS + 1 and time.monotonic() > ends:
                    break
                for receiver in receivers:
                    receiver.call(traffic.restart)
                began, took = sender.call(send_one, group)
                draining = [
                    receiver.start(traffic.drain, share)
                    for receiver, share in zip(receivers, shares, strict=True)
                ]
                inboxes = [inbox for each in draining for inbox in each.result()]
                faults += Faults.of(size, inboxes)
                if number >= _WARM_UP_ROUNDS:
                    lasts.append((traffic.last_at(inboxes) - began) * 1000)
                    calls.append(took * 1e6)
            values[f"last_{size}"] = median(lasts)
            values[f"call_{size}"] = percentile(calls, 0.50)
    return Outcome(values, faults)


SUBJECT = Subject(
    "members",
    "Size of a group",
    "One message at a time to a group whose members are in two other processes: until the last "
    "member has it, and how long the group_send call takes. Medians.",
    [
        *(Figure(f"last_{size}", f"last of {size:,}", "ms") for size in SIZES),
        *(Figure(f"call_{size}", f"call, {size:,} members", "µs") for size in SIZES),
    ],
    measure,
    with_floor=True,
)
