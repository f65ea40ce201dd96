"""A process that only ever asks: it changes groups and users of another process's channel.

Arguments: the layer's CONFIG as JSON, the channel, and ``sync`` or ``async``.
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
    layer, channel = PatientLayer(**json.loads(sys.argv[1])), sys.argv[2]
    if sys.argv[3] == "sync":
        ask_sync(layer, channel)
    else:
        asyncio.run(ask(layer, channel))
    print("acknowledged")  # noqa: T201
