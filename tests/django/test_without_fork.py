"""The layer in memory is for every system, also one that cannot fork."""

from __future__ import annotations

import subprocess
import sys

import pytest

_WITHOUT_FORK = """
import asyncio, os
del os.register_at_fork, os.fork
from kafka_layer.testing import InMemoryKafkaChannelLayer

async def main():
    layer = InMemoryKafkaChannelLayer()
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"type": "a"})
    print(await asyncio.wait_for(layer.receive(channel), 30))
    await layer.close()

asyncio.run(main())
"""


@pytest.mark.slow
def test_it_works_where_python_cannot_fork() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_FORK], capture_output=True, text=True, timeout=100
    )

    assert done.stdout == "{'type': 'a'}\n", done.stderr
