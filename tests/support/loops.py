"""Event loops that stand still while something waits in them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["left_waiting"]


def left_waiting(
    coroutine: Coroutine[Any, Any, object], loop: asyncio.AbstractEventLoop | None = None
) -> asyncio.AbstractEventLoop:
    """Let a coroutine wait in a loop that stands still from then on, or is closed.

    Args:
        coroutine: Has to wait for something after one step.
        loop: Where; None makes one.

    Returns:
        The loop. It does not complain of the task that is never done.
    """
    loop = loop or asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    loop.create_task(coroutine)
    loop.run_until_complete(asyncio.sleep(0))
    return loop
