"""Uses a layer as websockets do; fails if it loaded modules that such a process has no use for.

The argument is the layer's CONFIG, as JSON; its topics must be there.
"""

from __future__ import annotations

import asyncio
import json
import sys

import kafka_layer.checks  # noqa: F401 (as an installed app)
from kafka_layer.layer import KafkaChannelLayer
from tests.test_tiers import loaded_for_nothing

_PATIENCE = 60.0


async def main() -> None:
    layer = KafkaChannelLayer(**json.loads(sys.argv[1]))
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.user_add(7, channel)
    sent = [layer.group_send("room", {"n": 0}), layer.user_send(7, {"n": 1})]
    for each in (*sent, layer.all_send({"n": 2}), layer.send(channel, {"n": 3})):
        await each
        await asyncio.wait_for(layer.receive(channel), _PATIENCE)
    await layer.group_discard("room", channel)
    await layer.close()


if __name__ == "__main__":
    asyncio.run(main())
    sys.exit(", ".join(sorted(loaded_for_nothing())) or None)
