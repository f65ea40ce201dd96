"""Questions for what was sent before: an answer, or an error, in time, whatever became of Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from kafka_layer.exceptions import HistoryUnavailable
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.messages import Recovery
from tests.support.inspect import server_of

__all__ = [
    "DEADLINE",
    "GROUP",
    "IN_TIME",
    "history",
    "numbers",
    "recovered",
    "send",
    "tracked",
    "unavailable",
    "until_decided",
]

IN_TIME = 15.0
"""Seconds: the layer gives up after 5, on a machine that is busy with brokers."""

DEADLINE = 60.0
"""Seconds for what a healthy machine does in one or two."""

GROUP = "room"


async def send(layer: KafkaChannelLayer, *values: object, group: str = GROUP) -> None:
    """Send messages, and return when they are in the log."""
    for value in values:
        await layer.group_send(group, {"n": value})
    await asyncio.to_thread(server_of(layer).transport.settle, DEADLINE)


async def unavailable(layer: KafkaChannelLayer) -> bool:
    """Ask for the history; fail the test if there is neither an answer nor the error in time."""
    began = time.monotonic()
    try:
        await layer.group_history(GROUP)
    except HistoryUnavailable:
        return True
    finally:
        assert time.monotonic() - began < IN_TIME
    return False


async def history(layer: KafkaChannelLayer) -> list[Any]:
    """Return the history, once it is available."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        with contextlib.suppress(HistoryUnavailable):
            return list((await layer.group_history(GROUP)).messages)
    raise TimeoutError(f"Waited {DEADLINE:g} s for the history")


async def tracked(layer: KafkaChannelLayer, group: str = GROUP) -> str:
    """Return a tracked channel in a group."""
    channel = await layer.new_channel()
    layer.track(channel)
    await layer.group_add(group, channel)
    return channel


async def recovered(layer: KafkaChannelLayer, position: str, group: str = GROUP) -> Recovery:
    """Recover a new channel, and fail the test if there is no verdict in time."""
    channel = await tracked(layer, group)
    return await asyncio.wait_for(layer.recover(channel, position), IN_TIME)


def numbers(found: Recovery) -> list[Any]:
    """Return what was recovered."""
    assert found.recovered, found.reason
    return [each["n"] for each in found.messages]


async def until_decided(layer: KafkaChannelLayer, position: str) -> Recovery:
    """Recover, again while the server does not know the new topic yet."""
    deadline = time.monotonic() + DEADLINE
    while (found := await recovered(layer, position)).reason in {"unavailable", "timeout"}:
        assert time.monotonic() < deadline, f"still {found.reason}"
    return found
