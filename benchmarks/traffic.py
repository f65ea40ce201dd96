"""What worker processes do in a measurement: open channels, send in several ways, and drain."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from channels.exceptions import ChannelFull

from tests.support.counting import Inbox, JobInbox

from .workers import Context

_TEXT = "The quick brown fox jumps over the lazy dog and then writes home about it. " * 2
_REFUSED_PAUSE = 0.001
_YIELD_EVERY = 50
_TASKS = 10


class Sent(NamedTuple):
    """How many messages were sent, when that began, when the last send returned, and the seconds
    of each call where they are measured.
    """

    messages: int
    began: float
    ended: float
    calls: Sequence[float] = ()


def message(sender: int, number: int) -> dict[str, Any]:
    """Return a chat message of about 200 bytes; ``t`` is when it is sent."""
    return {"type": "chat.message", "s": sender, "n": number, "text": _TEXT, "t": time.monotonic()}


async def open_channels(context: Context, count: int, latencies: bool | None = None) -> list[str]:
    """Open channels and return their names; listen on them, unless ``latencies`` is None."""
    names = await context.port.new_channels(count)
    # The layer may forget a channel whose name object nobody holds.
    context.inboxes.update((name, Inbox(bool(latencies))) for name in names)
    if latencies is not None:
        await context.port.listen(context.inboxes)
    return [str(name) for name in names]  # their class is that of one version


async def work(context: Context, channel: str) -> None:
    """Receive jobs from now on, one after another as runworker does; once is enough."""
    if channel not in context.inboxes:
        context.inboxes[channel] = JobInbox()
        await context.port.listen({channel: context.inboxes[channel]})


async def restart(context: Context) -> float:
    """Count anew on every channel; returns what ``cpu_seconds`` does."""
    for inbox in context.inboxes.values():
        inbox.reset()
    return await cpu_seconds(context)


async def count(context: Context) -> int:
    """Return how many messages came since then."""
    return sum(each.unique for each in context.inboxes.values())


async def inboxes(context: Context) -> list[Inbox]:
    """Return what was counted on each channel."""
    return list(context.inboxes.values())


async def join(context: Context, group: str, count: int | None = None) -> None:
    """Make the first ``count`` opened channels members of a group; None: all of them."""
    await context.port.join(group, list(context.inboxes)[:count])


async def paced(
    context: Context, method: str, addresses: Sequence[str], rate: float, seconds: float
) -> Sent:
    """Send ``rate`` messages a second by ``send`` or ``group_send``, to the addresses in turn."""
    began = time.monotonic()
    send = getattr(context.port, method)
    for number in range(int(rate * seconds)):
        pause = began + number / rate - time.monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        # A sender for each address: a channel may be in several of the groups.
        turn, sender = divmod(number, len(addresses))
        await _send(send, addresses[sender], sender, turn)
    return Sent(int(rate * seconds), began, time.monotonic())


async def flat_out(
    context: Context,
    method: str,
    addresses: Sequence[str],
    seconds: float,
    limit: int = sys.maxsize,
    tasks: int = _TASKS,
) -> Sent:
    """Send as fast as it goes, from several tasks, each a sender of its own.

    Every task sends to all addresses in turn, if there are fewer of them than tasks, and to its
    share otherwise; it ends after ``seconds``, or after ``limit`` messages.
    """
    send = getattr(context.port, method)
    began = time.monotonic()

    async def run(sender: int) -> int:
        mine = addresses[sender::tasks] if len(addresses) >= tasks else addresses
        sent = 0
        while sent < limit and time.monotonic() < began + seconds:
            number, which = divmod(sent, len(mine))
            await _send(send, mine[which], sender, number)
            sent += 1
            if not sent % _YIELD_EVERY:
                await asyncio.sleep(0)
        return sent

    return Sent(sum(await asyncio.gather(*map(run, range(tasks)))), began, time.monotonic())


async def time_sends(context: Context, method: str, addresses: Sequence[str], count: int) -> Sent:
    """Send messages to one address, one after another with a pause between, and time the calls."""
    send = getattr(context.port, method)
    calls = []
    begun = time.monotonic()
    for number in range(count):
        sending = message(0, number)
        began = time.monotonic()
        await send(addresses[0], sending)
        calls.append(time.monotonic() - began)
        await asyncio.sleep(_REFUSED_PAUSE)
    return Sent(count, begun, time.monotonic(), calls)


async def cpu_seconds(context: Context) -> float:
    """Return the processor time that this process has used, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _send(send: Any, address: str, sender: int, number: int) -> None:
    """Send one message; again and again where the layer is full."""
    while True:
        with contextlib.suppress(ChannelFull):
            await send(address, message(sender, number))
            return
        await asyncio.sleep(_REFUSED_PAUSE)
