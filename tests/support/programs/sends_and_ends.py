"""Sends messages to a group and ends, without closing anything.

Arguments: the layer's CONFIG as JSON, the group, how many messages, and how they are sent.
"""

from __future__ import annotations

import asyncio
import json
import sys

from asgiref.sync import async_to_sync

from kafka_layer.layer import KafkaChannelLayer
from tests.support.patience import PatientLayer


async def send_all(layer: KafkaChannelLayer, group: str, count: int) -> None:
    for number in range(count):
        await layer.group_send(group, {"n": number})


kept: list[KafkaChannelLayer] = []
"""Held to the very end, as Django holds its layers: one that is dropped closes by itself."""


def main() -> None:
    layer = PatientLayer(**json.loads(sys.argv[1]))
    group, count, how = sys.argv[2], int(sys.argv[3]), sys.argv[4]
    if how != "dropped":
        kept.append(layer)
    if how == "asyncio.run":
        asyncio.run(send_all(layer, group, count))
    elif how == "dropped":
        asyncio.run(send_all(layer, group, count))
        del layer
    else:
        for number in range(count):
            if how == "sync":
                layer.group_send_sync(group, {"n": number})
            else:
                async_to_sync(layer.group_send)(group, {"n": number})


if __name__ == "__main__":
    main()
