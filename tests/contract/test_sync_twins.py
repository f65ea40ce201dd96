"""The synchronous twins: callable from any thread, with or without a loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from tests.support.layers import Layers, Servers, next_message, next_messages

Call = Callable[[], Any]

MESSAGE = {"type": "test.message"}


async def in_a_thread(call: Call) -> Any:
    return await asyncio.to_thread(call)


async def in_a_thread_with_a_running_loop(call: Call) -> Any:
    async def inside() -> Any:
        return call()

    return await asyncio.to_thread(asyncio.run, inside())


async def in_the_loops_own_thread(call: Call) -> Any:
    return call()


async def in_a_django_view(call: Call) -> Any:
    return await sync_to_async(call)()


@pytest.fixture(
    params=[in_a_thread, in_a_thread_with_a_running_loop, in_the_loops_own_thread, in_a_django_view]
)
def run(request: pytest.FixtureRequest) -> Callable[[Call], Awaitable[Any]]:
    """Runs a call somewhere."""
    run: Callable[[Call], Awaitable[Any]] = request.param
    return run


Run = Callable[[Call], Awaitable[Any]]


class TestEverywhere:
    async def test_as_the_first_use_of_a_layer(self, make_layer: Layers, run: Run) -> None:
        sender, owner = make_layer(), make_layer()
        channel = await owner.new_channel()
        await run(lambda: sender.group_add_sync("room", channel))
        await run(lambda: make_layer().group_send_sync("room", MESSAGE))
        assert await next_message(owner, channel) == MESSAGE

    async def test_all_of_them(self, servers: Servers, run: Run) -> None:
        sender, owner, _ = servers
        channel, other = await owner.new_channel(), await owner.new_channel()

        def changes_and_sends() -> None:
            sender.group_add_sync("room", channel)
            sender.group_add_sync("room", other)
            sender.user_add_sync(7, channel)
            sender.user_add_sync(7, other)
            assert sender.send_sync(channel, {"by": "send"}) is None
            assert sender.group_send_sync("room", {"by": "group"}, exclude=[other]) is None
            assert sender.user_send_sync(7, {"by": "user"}, exclude=[other]) is None
            assert sender.all_send_sync({"by": "all"}, exclude=[other]) is None
            assert sender.send_many_sync([channel], {"by": "many"}) == [None]
            assert sender.group_send_many_sync(
                ["room", "empty"], {"by": "groups"}, exclude=[other]
            ) == [None, None]
            sender.user_discard_sync("7", other)
            assert sender.user_send_many_sync([7, 8], {"by": "users"}) == [None, None]

        await run(changes_and_sends)
        received = await next_messages(owner, channel, 7)
        expected = ["all", "group", "groups", "many", "send", "user", "users"]
        assert sorted(each["by"] for each in received) == expected

        def leaves() -> None:
            sender.group_discard_sync("room", other)
            sender.group_discard_sync("room", channel)
            sender.user_discard_sync(7, channel)

        await run(leaves)
        assert owner.stats().groups == owner.stats().users == 0
        await owner.send(other, MESSAGE)
        assert await next_message(owner, other) == MESSAGE

    async def test_a_channel_of_this_server(self, servers: Servers, run: Run) -> None:
        layer = servers[0]
        channel = await layer.new_channel()
        await run(lambda: layer.group_add_sync("room", channel))
        await run(lambda: layer.send_sync(channel, {"n": 1}))
        assert await next_message(layer, channel) == {"n": 1}
        await run(lambda: layer.group_send_sync("room", {"n": 2}))
        assert await next_message(layer, channel) == {"n": 2}

    async def test_a_local_send_as_the_first_call(self, make_layer: Layers, run: Run) -> None:
        layer = make_layer()
        channel = await layer.new_channel()
        await run(lambda: layer.send_sync(channel, MESSAGE))
        assert await next_message(layer, channel) == MESSAGE

    @pytest.mark.parametrize(
        ("method", "arguments"),
        [
            ("send_sync", ("no legal name!!", MESSAGE)),
            ("send_sync", ("specific.0-ab!c", "not a dict")),
            ("group_send_sync", ("no legal name", MESSAGE)),
            ("group_send_sync", ("room", [1])),
            ("user_send_sync", ("", MESSAGE)),
            ("user_send_sync", (True, MESSAGE)),
            ("all_send_sync", ({"at": object()},)),
            ("send_many_sync", ("specific.0-ab!c", MESSAGE)),
            ("group_send_many_sync", ("room", MESSAGE)),
            ("user_send_many_sync", ("ann", MESSAGE)),
            ("group_add_sync", ("no legal name", "specific.0-ab!c")),
            ("group_discard_sync", ("room", "no legal name!!")),
            ("user_add_sync", (None, "specific.0-ab!c")),
            ("user_discard_sync", ("ann", "no legal name!!")),
        ],
    )
    async def test_errors_are_those_of_the_others(
        self, make_layer: Layers, method: str, arguments: tuple[Any, ...]
    ) -> None:
        layer = make_layer()
        with pytest.raises(TypeError) as from_sync:
            getattr(layer, method)(*arguments)
        with pytest.raises(TypeError) as from_async:
            await getattr(layer, method.removesuffix("_sync"))(*arguments)
        assert str(from_sync.value) == str(from_async.value)
        assert layer.stats().state == "idle"

    @pytest.mark.parametrize("method", ["group_send", "user_send", "all_send", "group_send_many"])
    async def test_exclude_must_not_be_one_name(self, make_layer: Layers, method: str) -> None:
        arguments: dict[str, list[Any]] = {
            "group_send": ["room"],
            "user_send": ["ann"],
            "group_send_many": [["room"]],
        }
        call = getattr(make_layer(), f"{method}_sync")
        with pytest.raises(TypeError, match="exclude must be a collection of names"):
            call(*arguments.get(method, []), MESSAGE, exclude="specific.0-ab!c")
