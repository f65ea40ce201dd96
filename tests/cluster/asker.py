"""A process that only ever asks: it changes groups and users of another process's channels.

Arguments: the CONFIG of its layers as JSON, and two channels: for one of them it asks by the
synchronous methods, for the other in an event loop, each by a layer of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys

from kafka_layer.layer import KafkaChannelLayer
from tests.support.patience import PatientLayer


async def ask(layer: KafkaChannelLayer, channel: str) -> None:
    await layer.group_add("room", channel)
    await layer.group_add("left", channel)
    await layer.group_discard("left", channel)
    await layer.user_add("ann", channel)


def ask_sync(layer: KafkaChannelLayer, channel: str) -> None:
    layer.group_add_sync("room", channel)
    layer.group_add_sync("left", channel)
    layer.group_discard_sync("left", channel)
    layer.user_add_sync("ann", channel)


if __name__ == "__main__":
    by_sync, by_async = (PatientLayer(**json.loads(sys.argv[1])) for _ in range(2))
    ask_sync(by_sync, sys.argv[2])
    asyncio.run(ask(by_async, sys.argv[3]))
    print("acknowledged")  # noqa: T201
