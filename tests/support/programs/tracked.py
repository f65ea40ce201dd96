"""Receives on tracked channels, as the sockets of a worker that is killed.

Arguments: the layer's CONFIG as JSON, a group, and how many channels are in it. Writes a JSON array
a line: the number of a channel, the position behind what it got, and what that was; first, for each
channel, the position before any message, and null.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from tests.support.patience import PatientLayer


def say(channel: int, position: str, content: Any) -> None:
    sys.stdout.write(json.dumps([channel, position, content]) + "\n")
    sys.stdout.flush()


async def main() -> None:
    layer = PatientLayer(**json.loads(sys.argv[1]))

    async def receive(number: int, name: str) -> None:
        while True:
            message: Any = await layer.receive(name)
            say(number, message.position, message)

    names = []
    for number in range(int(sys.argv[3])):
        name = await layer.new_channel()
        layer.track(name)
        await layer.group_add(sys.argv[2], name)
        say(number, layer.position(name), None)
        names.append(name)
    await asyncio.gather(*(receive(number, name) for number, name in enumerate(names)))


if __name__ == "__main__":
    asyncio.run(main())
