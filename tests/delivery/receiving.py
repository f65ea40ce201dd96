"""What a layer does with a mailbox: put and receive, also in loops that stand still."""

from __future__ import annotations

import asyncio
import time

from kafka_layer.delivery.mailbox import Envelope, Mailbox
from kafka_layer.delivery.wakeups import Wakeups
from tests.support.loops import left_waiting

__all__ = ["abandon_a_receive", "envelope", "put", "receive"]


def envelope(number: int = 0) -> Envelope:
    return Envelope(str(number).encode(), time.monotonic() + 60)


def put(mailbox: Mailbox, wakeups: Wakeups, number: int) -> None:
    assert mailbox.put(envelope(number))
    wakeups.flush()


async def receive(mailbox: Mailbox) -> int:
    """Do what the layer's receive does."""
    while True:
        taken = mailbox.take()
        if taken is not None:
            return int(taken.payload)
        await mailbox.wait()


def abandon_a_receive(
    mailbox: Mailbox, loop: asyncio.AbstractEventLoop | None = None
) -> asyncio.AbstractEventLoop:
    """Let a receive wait in a loop that stands still from then on."""
    return left_waiting(receive(mailbox), loop)
