"""Two servers, in this process and in real ones of their own: races, exits, forks."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

from tests.support.layers import PARTITIONS, Layers, Servers, next_message, next_messages
from tests.support.processes import RemoteLayer, run_program

ROUNDS = 60
COUNT = 1000


def config(make_layer: Layers, **keywords: Any) -> dict[str, Any]:
    """CONFIG keywords of a layer in another process, on the topics of this test."""
    return {**make_layer.backend.config, "prefix": make_layer.prefix, **keywords}


class TestGroupAddHasReturned:
    """What is sent once group_add has returned, by whom ever, is received."""

    async def test_in_one_process(self, servers: Servers) -> None:
        here, there, _ = servers
        received = 0
        for number in range(ROUNDS):
            channel = await here.new_channel()
            await here.group_add(f"room-{number}", channel)
            await there.group_send(f"room-{number}", {"n": number})
            received += await next_message(here, channel) == {"n": number}
        assert received == ROUNDS

    async def test_by_the_first_use_of_a_server(self, make_layer: Layers) -> None:
        there = make_layer()
        await there.new_channel()
        for number in range(5):
            here = make_layer()
            channel = await here.new_channel()
            await here.group_add("room", channel)
            await there.group_send("room", {"n": number})
            assert await next_message(here, channel) == {"n": number}
            await here.close()

    async def test_in_two_processes(self, make_layer: Layers) -> None:
        here = make_layer()
        async with RemoteLayer(**config(make_layer)) as there:
            remote_channel = await there.call("new_channel")
            for number in range(ROUNDS):
                channel = await here.new_channel()
                await here.group_add(f"room-{number}", channel)
                await there.call("group_send", f"room-{number}", {"n": number})
                assert await next_message(here, channel) == {"n": number}
            for number in range(ROUNDS):
                await there.call("group_add", f"other-{number}", remote_channel)
                await here.group_send(f"other-{number}", {"n": number})
                assert await there.call("receive", remote_channel) == {"n": number}
            # For a channel of the other process.
            for number in range(ROUNDS):
                await here.group_add(f"third-{number}", remote_channel)
                await here.group_send(f"third-{number}", {"n": number})
                assert await there.call("receive", remote_channel) == {"n": number}


async def test_a_process_that_sends_and_receives_loads_no_feature(make_layer: Layers) -> None:
    # So that the topics are there.
    await make_layer().new_channel()
    await run_program("plain_use", json.dumps(config(make_layer)))


async def test_scripts_that_send_and_end_deliver(make_layer: Layers) -> None:
    layer = make_layer()
    hows = ("sync", "async_to_sync", "asyncio.run", "dropped")
    receiving = []
    for how in hows:
        channel = await layer.new_channel()
        await layer.group_add(how, channel)
        receiving.append(asyncio.create_task(next_messages(layer, channel, COUNT, 90)))
    # The last ones certainly wait in the client when a script ends.
    slow = json.dumps(config(make_layer, producer_config={"linger.ms": 1000}))
    await asyncio.gather(
        *(run_program("sends_and_ends", slow, how, str(COUNT), how) for how in hows)
    )
    for each in receiving:
        assert [message["n"] for message in await each] == list(range(COUNT))


class TestFork:
    async def test_just_after_the_topics_were_created(self, make_layer: Layers) -> None:
        # The client that created them must be gone: freed in a child, it would hang.
        settings = {**config(make_layer), "prefix": f"fresh-{uuid.uuid4().hex[:8]}"}
        settings |= {"auto_create_topics": True, "default_partitions": PARTITIONS}
        await run_program("forks", json.dumps(settings), "room", "before")

    async def test_children_work_and_end_well_and_the_parent_goes_on(
        self, make_layer: Layers
    ) -> None:
        layer = make_layer()
        uses = ("before", "after")
        channels = [await layer.new_channel() for _ in uses]
        for used, channel in zip(uses, channels, strict=True):
            await layer.group_add(used, channel)
        settings = json.dumps(config(make_layer))
        await asyncio.gather(*(run_program("forks", settings, used, used) for used in uses))
        for used, channel in zip(uses, channels, strict=True):
            expected = ["child-0", "child-0-sync", "child-1", "child-1-sync"]
            expected += ["parent", "parent-after"]
            expected += ["parent-before"] if used == "before" else []
            received = await next_messages(layer, channel, len(expected))
            assert sorted(each["from"] for each in received) == expected
