"""Two servers, in this process and in real ones of their own: races, exits, forks."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

from tests.support.layers import Layers, next_message, next_messages
from tests.support.processes import RemoteLayer, run_program

ROUNDS = 200


def config(make_layer: Layers, **keywords: Any) -> dict[str, Any]:
    """CONFIG keywords of a layer in another process, on the topics of this test."""
    return {**make_layer.backend.config, "prefix": make_layer.prefix, **keywords}


class TestGroupAddHasReturned:
    """What is sent once group_add has returned, by whom ever, is received."""

    async def test_in_one_process(self, make_layer: Layers) -> None:
        here, there = make_layer(), make_layer()
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
        for number in range(10):
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
            for number in range(ROUNDS // 2):
                channel = await here.new_channel()
                await here.group_add(f"room-{number}", channel)
                await there.call("group_send", f"room-{number}", {"n": number})
                assert await next_message(here, channel) == {"n": number}
            for number in range(ROUNDS // 2):
                await there.call("group_add", f"other-{number}", remote_channel)
                await here.group_send(f"other-{number}", {"n": number})
                assert await there.call("receive", remote_channel) == {"n": number}

    async def test_for_a_channel_of_the_other_process(self, make_layer: Layers) -> None:
        here = make_layer()
        async with RemoteLayer(**config(make_layer)) as there:
            channel = await there.call("new_channel")
            for number in range(ROUNDS // 4):
                await here.group_add(f"room-{number}", channel)
                await here.group_send(f"room-{number}", {"n": number})
                assert await there.call("receive", channel) == {"n": number}


async def test_a_process_that_sends_and_receives_loads_no_feature(make_layer: Layers) -> None:
    # So that the topics are there.
    await make_layer().new_channel()
    await run_program("plain_use", json.dumps(config(make_layer)))


class TestExit:
    @pytest.mark.parametrize("how", ["sync", "async_to_sync", "asyncio.run", "dropped"])
    async def test_a_script_that_sends_and_ends_delivers(
        self, make_layer: Layers, how: str
    ) -> None:
        layer = make_layer()
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        receiving = asyncio.create_task(next_messages(layer, channel, 5000, 90))
        # The last ones certainly wait in the client when the script ends.
        slow = config(make_layer, producer_config={"linger.ms": 1000})
        await run_program("sends_and_ends", json.dumps(slow), "room", "5000", how)
        received = await receiving
        assert [each["n"] for each in received] == list(range(5000))

    async def test_a_server_that_is_killed_harms_nobody(self, make_layer: Layers) -> None:
        here, other = make_layer(), make_layer()
        channel = await here.new_channel()
        await here.group_add("room", channel)
        async with RemoteLayer(**config(make_layer)) as there:
            await there.call("group_add", "room", await there.call("new_channel"))
            await there.kill()
        for number in range(100):
            await other.group_send("room", {"n": number})
            assert await next_message(here, channel) == {"n": number}


class TestFork:
    async def test_just_after_the_topics_were_created(self, make_layer: Layers) -> None:
        # The client that created them must be gone: freed in a child, it would hang.
        settings = {**config(make_layer), "prefix": f"fresh-{uuid.uuid4().hex[:8]}"}
        settings["auto_create_topics"] = True
        await run_program("forks", json.dumps(settings), "room", "before")

    @pytest.mark.parametrize("used", ["before", "after"])
    async def test_children_work_and_end_well_and_the_parent_goes_on(
        self, make_layer: Layers, used: str
    ) -> None:
        layer = make_layer()
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await run_program("forks", json.dumps(config(make_layer)), "room", used)
        expected = ["child-0", "child-0-sync", "child-1", "child-1-sync", "parent", "parent-after"]
        expected += ["parent-before"] if used == "before" else []
        received = await next_messages(layer, channel, len(expected))
        assert sorted(each["from"] for each in received) == expected
