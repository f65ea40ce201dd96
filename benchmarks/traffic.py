"""What worker processes do in a measurement: open channels, send in several ways, and drain.

All functions are run in workers; see :class:`benchmarks.workers.Worker`.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from channels.exceptions import ChannelFull

from .inbox import Inbox
from .workers import Context

__all__ = [
    "Sent",
    "cpu_seconds",
    "drain",
    "join",
    "last_at",
    "listen",
    "message",
    "open_channels",
    "restart",
    "send_flat_out",
    "send_paced",
    "time_sends",
]

TEXT = "The quick brown fox jumps over the lazy dog and then writes home about it. " * 2

_QUIET = 1.5
_REFUSED_PAUSE = 0.001
_YIELD_EVERY = 50


@dataclass(frozen=True)
class Sent:
    """What was sent.

    Attributes:
        messages: How many.
        began: When, on ``time.monotonic()``.
        ended: When the last send returned.
        refused: How often a send raised ChannelFull and was tried again.
    """

    messages: int
    began: float
    ended: float
    refused: int = 0


def message(sender: int, number: int) -> dict[str, Any]:
    """Return a chat message of about 200 bytes; ``t`` is when it is sent."""
    return {"type": "chat.message", "s": sender, "n": number, "text": TEXT, "t": time.monotonic()}


async def open_channels(context: Context, count: int) -> list[str]:
    """Open channels and return their names."""
    names = await context.port.new_channels(count)
    # The layer may forget a channel whose name object nobody holds.
    context.inboxes.update(dict.fromkeys(names))  # type: ignore[arg-type]
    return names


async def listen(context: Context, keep_latencies: bool = False) -> None:
    """Begin to receive on every opened channel."""
    for channel in context.inboxes:
        context.inboxes[channel] = Inbox(keep_latencies)
    await context.port.listen(context.inboxes)


async def restart(context: Context) -> None:
    """Count anew on every opened channel."""
    for inbox in context.inboxes.values():
        inbox.reset()


async def join(context: Context, group: str, count: int | None = None) -> None:
    """Make the first ``count`` opened channels members of a group; None: all of them."""
    await context.port.join(group, list(context.inboxes)[:count])


async def send_paced(
    context: Context, method: str, addresses: Sequence[str], rate: float, seconds: float
) -> Sent:
    """Send ``rate`` messages a second, to the addresses in turn.

    Args:
        context: The worker's.
        method: ``send`` or ``group_send``.
        addresses: Channels or groups.
        rate: Messages a second.
        seconds: For how long.
    """
    send = getattr(context.port, method)
    began = time.monotonic()
    total = int(rate * seconds)
    refused = 0
    for number in range(total):
        pause = began + number / rate - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        # A sender for each address: a channel may be in several of the groups.
        turn, sender = divmod(number, len(addresses))
        refused += await _send(send, addresses[sender], sender, turn)
    return Sent(total, began, time.monotonic(), refused)


async def send_flat_out(
    context: Context,
    method: str,
    addresses: Sequence[str],
    seconds: float,
    tasks: int = 10,
    limit: int = sys.maxsize,
) -> Sent:
    """Send as fast as it goes, from several tasks, each a sender of its own.

    Args:
        context: The worker's.
        method: ``send`` or ``group_send``.
        addresses: Channels or groups; every task sends to all in turn, if there are fewer of them
            than tasks, and to its share otherwise.
        seconds: For how long.
        tasks: How many tasks.
        limit: Messages after which a task ends before its time.
    """
    send = getattr(context.port, method)
    began = time.monotonic()

    async def run(sender: int) -> tuple[int, int]:
        mine = addresses[sender::tasks] if len(addresses) >= tasks else addresses
        sent = refused = 0
        while sent < limit and time.monotonic() < began + seconds:
            for _ in range(_YIELD_EVERY):
                number, which = divmod(sent, len(mine))
                refused += await _send(send, mine[which], sender, number)
                sent += 1
            await asyncio.sleep(0)
        return sent, refused

    results = await asyncio.gather(*map(run, range(tasks)))
    return Sent(
        sum(sent for sent, _ in results),
        began,
        time.monotonic(),
        sum(refused for _, refused in results),
    )


async def time_sends(context: Context, channel: str, count: int) -> float:
    """Send messages one after another, with a pause between; return the median call's seconds."""
    calls = []
    for number in range(count):
        sending = message(0, number)
        began = time.monotonic()
        await context.port.send(channel, sending)
        calls.append(time.monotonic() - began)
        await asyncio.sleep(_REFUSED_PAUSE)
    return median(calls)


async def drain(context: Context, expected: int) -> list[Inbox]:
    """Return the inboxes once they hold ``expected`` messages in all, or nothing comes any more."""
    inboxes = list(context.inboxes.values())
    seen, since = -1, time.monotonic()
    while True:
        unique = sum(each.unique for each in inboxes)
        now = time.monotonic()
        if unique != seen:
            seen, since = unique, now
        if unique >= expected or now - since > _QUIET:
            return inboxes
        await asyncio.sleep(0.02)


async def cpu_seconds(context: Context) -> float:
    """Return the processor time that this process has used, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def last_at(inboxes: Iterable[Inbox]) -> float:
    """Return when the last message of all came."""
    return max(each.last_at for each in inboxes)


async def _send(
    send: Callable[[str, dict[str, Any]], Awaitable[Any]], address: str, sender: int, number: int
) -> int:
    refused = 0
    while True:
        try:
            await send(address, message(sender, number))
        except ChannelFull:
            refused += 1
            await asyncio.sleep(_REFUSED_PAUSE)
        else:
            return refused
