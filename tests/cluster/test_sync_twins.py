"""The synchronous twins block their own thread and nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kafka_layer.layer import KafkaChannelLayer
from tests.cluster.cluster import MESSAGE, Cluster
from tests.cluster.conftest import MakeRemote
from tests.support.layers import Layers, next_messages

Call = Callable[[], Any]


class TestBlocking:
    async def test_a_twin_that_waits_blocks_its_thread_alone(
        self, make_layer: Layers, make_remote: MakeRemote
    ) -> None:
        cluster, frozen = (
            Cluster([make_layer(ack_timeout=60) for _ in range(2)]),
            await make_remote(),
        )
        remote_channel = await frozen.call("new_channel")
        client, other = await cluster.connect(1), await cluster.connect(1)
        frozen.freeze()
        asker = cluster[0]
        done = threading.Event()

        async def with_a_running_loop() -> None:
            asker.user_add_sync("ann", remote_channel)

        def wait(call: Call) -> None:
            call()
            done.set()

        with ThreadPoolExecutor(2) as threads:
            waiting = [
                threads.submit(wait, lambda: asker.group_add_sync("room", remote_channel)),
                threads.submit(wait, lambda: asyncio.run(with_a_running_loop())),
            ]
            # The same layer, in this loop and in other threads, meanwhile:
            for number in range(20):
                await asker.group_add(f"room-{number}", other.channel)
                await asyncio.to_thread(asker.group_add_sync, f"room-{number}", client.channel)
                await asyncio.to_thread(asker.group_send_sync, f"room-{number}", {"n": number})
                assert await client.next() == {"n": number}
                assert await other.next() == {"n": number}
            # A loop that stood still would see them done at its next turn.
            assert not done.is_set()
            frozen.thaw()
            for each in waiting:
                await asyncio.wrap_future(each)
        await asker.group_send("room", MESSAGE)
        assert await frozen.call("receive", remote_channel) == MESSAGE
        await asker.user_send("ann", MESSAGE)
        assert await frozen.call("receive", remote_channel) == MESSAGE

    async def test_many_threads_at_once(self, make_layer: Layers) -> None:
        askers, owner = [make_layer(), make_layer()], make_layer(capacity=1000)
        channel = await owner.new_channel()

        def ask(asker: KafkaChannelLayer, number: int) -> None:
            for turn in range(20):
                asker.group_add_sync(f"room-{number}-{turn}", channel)
                asker.group_send_sync(f"room-{number}-{turn}", {"thread": number, "turn": turn})

        with ThreadPoolExecutor(16) as threads:
            loop = asyncio.get_running_loop()
            await asyncio.gather(
                *(
                    loop.run_in_executor(threads, ask, askers[number % 2], number)
                    for number in range(16)
                )
            )
        received = await next_messages(owner, channel, 320)
        assert len({(each["thread"], each["turn"]) for each in received}) == 320
