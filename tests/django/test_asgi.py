"""``closing``: the lifespan of an application, and the end of the layers behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from channels.routing import ProtocolTypeRouter

from kafka_layer.asgi import closing
from kafka_layer.testing import InMemoryKafkaChannelLayer
from tests.support.waiting import PATIENCE

Application = Callable[[Any, Any, Any], Awaitable[None]]

STARTED, ENDED = "lifespan.startup.complete", "lifespan.shutdown.complete"


class Served:
    """What a server does with the lifespan of an application.

    Attributes:
        layer: A layer that is in use.
        answers: What the application sent, each with whether the layer was still open.
    """

    def __init__(self, application: Application) -> None:
        self.layer = InMemoryKafkaChannelLayer(prefix="asgi")
        self.answers: list[tuple[str, bool]] = []
        self._application = closing(application)
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def run(self) -> list[tuple[str, bool]]:
        await self.layer.group_send("room", {"type": "hello"})
        for event in ("startup", "shutdown"):
            self._events.put_nowait({"type": f"lifespan.{event}"})
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}}
        try:
            await asyncio.wait_for(self._application(scope, self._events.get, self._send), PATIENCE)
        finally:
            await self.layer.close()
        return self.answers

    async def _send(self, event: dict[str, Any]) -> None:
        assert event["type"].startswith("lifespan."), "a server takes nothing else here"
        self.answers.append((event["type"], self.layer.stats().state == "connected"))


async def knows(scope: Any, receive: Any, send: Any) -> None:
    for answer in (STARTED, ENDED):
        await receive()
        await send({"type": answer})


async def does_not_look(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start"})


async def returns_at_once(scope: Any, receive: Any, send: Any) -> None:
    return


async def leaves_after_the_start(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": STARTED})


@pytest.mark.parametrize(
    "application",
    [knows, ProtocolTypeRouter({}), does_not_look, returns_at_once, leaves_after_the_start],
    ids=["knows", "refuses", "does not look", "returns", "leaves"],
)
async def test_the_layers_are_closed_before_the_server_is_told(application: Application) -> None:
    assert await Served(application).run() == [(STARTED, True), (ENDED, False)]


async def test_a_shutdown_that_fails_is_told_after_the_layers_are_closed() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": STARTED})
        await receive()
        await send({"type": "lifespan.shutdown.failed"})

    assert await Served(application).run() == [(STARTED, True), ("lifespan.shutdown.failed", False)]


async def test_a_start_that_fails_is_the_applications_own() -> None:
    async def refuses(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed"})

    async def raises(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise RuntimeError("no database")

    assert await Served(refuses).run() == [("lifespan.startup.failed", True)]
    with pytest.raises(RuntimeError, match="no database"):
        await Served(raises).run()


@pytest.mark.parametrize("before", [0, 1], ids=["after the start", "at the end"])
async def test_an_application_that_fails_later_has_its_layers_closed(before: int) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": STARTED})
        for _ in range(before):
            await receive()
        states.append(served.layer.stats().state)
        raise RuntimeError("broken")

    states: list[str] = []
    served = Served(application)
    closed: list[str] = []
    close = served.layer.close

    async def note_and_close() -> None:
        closed.append(served.layer.stats().state)
        await close()

    served.layer.close = note_and_close  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="broken"):
        await served.run()
    assert (states, closed) == (["connected"], ["idle"])


async def test_what_is_no_lifespan_is_passed_on() -> None:
    calls: list[Any] = []

    async def application(*arguments: Any) -> None:
        calls.append(arguments)

    scope = {"type": "http"}
    await closing(application)(scope, "receive", "send")
    assert calls == [(scope, "receive", "send")]
