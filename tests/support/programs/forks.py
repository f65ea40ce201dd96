"""Uses a layer, forks, and uses it in the child and in the parent.

Arguments: the layer's CONFIG as JSON, a group that others listen to, and when the layer is first
used: ``before`` or ``after`` the fork. Ends with status 0 if all went well.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading

from asgiref.sync import async_to_sync

from kafka_layer.layer import KafkaChannelLayer
from tests.support.patience import PatientLayer


async def round_trip(layer: KafkaChannelLayer, who: str, group: str) -> None:
    channel = await layer.new_channel()
    mine = f"{group}-{who}"
    await layer.group_add(mine, channel)
    for number in range(20):
        await layer.group_send(mine, {"n": number})
        message = await asyncio.wait_for(layer.receive(channel), 20)
        assert message == {"n": number}, message
    await layer.group_send(group, {"from": who})


def main() -> None:
    layer = PatientLayer(**json.loads(sys.argv[1]))
    group, used = sys.argv[2], sys.argv[3]
    if used == "before":
        asyncio.run(round_trip(layer, "parent-before", group))
    assert "ctypes" not in sys.modules
    children = []
    for number in range(2):
        pid = os.fork()
        if not pid:
            if used == "before":
                left = [each.name for each in threading.enumerate() if "kafka-layer" in each.name]
                assert not left, left
            asyncio.run(round_trip(layer, f"child-{number}", group))
            async_to_sync(layer.group_send)(group, {"from": f"child-{number}-sync"})
            sys.exit(0)  # runs what is registered with atexit, as a real process does
        children.append(pid)
        # Children need it at once, and must not wait for a thread that imports it in the parent.
        assert "ctypes" in sys.modules
    asyncio.run(round_trip(layer, "parent", group))
    statuses = [os.waitpid(pid, 0)[1] for pid in children]
    asyncio.run(round_trip(layer, "parent-after", group))
    assert statuses == [0, 0], statuses


if __name__ == "__main__":
    main()
