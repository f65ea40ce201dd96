"""A layer that keeps positions, as far as the recovery mixins see one."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from channels.layers import channel_layers

from kafka_layer.config.timings import Timings
from kafka_layer.messages import Message, Recovery
from tests.support.waiting import PATIENCE

__all__ = ["FakeLayer", "default_layer", "message"]


class FakeLayer:
    """Notes what is called, in ``log``; what is put into ``messages`` is received.

    Attributes:
        log: What was called, and whatever a test adds.
        recovery: The next answer of ``recover``.
        timings: As of a layer, but no frame is released before its handler is done because the
            machine is slow. A test may replace them before a browser connects.
    """

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.recovery = Recovery(True, None, [], 0.0)
        self.timings = Timings(held_frame=PATIENCE)
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.changed: Callable[[], None] = lambda: None
        self._positions: defaultdict[str, int] = defaultdict(int)

    async def new_channel(self, prefix: str = "specific") -> str:
        return "channel"

    async def receive(self, channel: str) -> dict[str, Any]:
        self.log.append("receive")
        return await self.messages.get()

    async def group_add(self, group: str, channel: str) -> None:
        self.log.append(f"add {group}")
        self.changed()

    async def group_discard(self, group: str, channel: str) -> None:
        self.log.append(f"discard {group}")

    async def user_add(self, user_id: object, channel: str) -> None:
        self.log.append(f"user {user_id}")

    def user_add_sync(self, user_id: object, channel: str) -> None:
        self.log.append(f"user {user_id}")

    async def user_discard(self, user_id: object, channel: str) -> None: ...

    def user_discard_sync(self, user_id: object, channel: str) -> None: ...

    def track(self, channel: str, on_change: Callable[[], None]) -> None:
        self.log.append("track")
        self.changed = on_change

    def position(self, channel: str) -> str:
        """Return POSITION-1, POSITION-2, …"""
        self._positions[channel] += 1
        return f"POSITION-{self._positions[channel]}"

    async def recover(self, channel: str, position: str, *, limit: int) -> Recovery:
        self.log.append(f"recover {position} {limit}")
        return self.recovery


@contextlib.contextmanager
def default_layer() -> Iterator[FakeLayer]:
    """Have ``channel_layers`` call a new one ``default`` for as long as the context lasts."""
    layer = FakeLayer()
    channel_layers.set("default", layer)
    try:
        yield layer
    finally:
        del channel_layers.backends["default"]


def message(
    place: str, text: str, kind: str = "chat.message", *, replayed: bool = False
) -> Message:
    return Message({"type": kind, "text": text}, "unused", 0.0, replayed, place)
