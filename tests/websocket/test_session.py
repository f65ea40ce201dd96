"""The states of a session, and what leads from one to the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kafka_layer.websocket.session import Session

from .fake_layer import FakeLayer, message

ACCEPT = {"type": "websocket.accept", "subprotocol": None}


async def connect(session: Session) -> None:
    session.connected()


STEPS: dict[str, Callable[[Session], Awaitable[None]]] = {
    "accept": lambda session: session.send(ACCEPT),
    "accept another": lambda session: session.send({**ACCEPT, "subprotocol": "chat.v2"}),
    "connected": connect,
    "go live": lambda session: session.go_live(),
    "close": lambda session: session.send({"type": "websocket.close"}),
}


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        ([], "connecting"),
        (["connected"], "connecting"),
        (["accept"], "connecting"),
        (["accept", "connected"], "recovering"),
        (["connected", "accept", "connected"], "recovering"),
        (["accept", "connected", "go live"], "live"),
        (["accept another", "connected"], "plain"),
        (["accept another", "connected", "go live"], "plain"),
        (["close", "connected"], "closed"),
        (["accept", "close", "connected"], "closed"),
        (["accept", "connected", "close", "go live"], "closed"),
        (["accept", "connected", "go live", "close", "connected"], "closed"),
        (["accept another", "connected", "close"], "closed"),
    ],
)
async def test_states(steps: list[str], state: str) -> None:
    async def send(event: Any) -> None: ...

    session = Session(send, None)
    for step in steps:
        await STEPS[step](session)
    assert session.state == state
    assert f"*{state}*" in str(Session.__doc__)


async def test_a_membership_that_another_thread_changes_is_told_before_its_first_message() -> None:
    sent: list[str] = []

    async def send(event: Any) -> None:
        sent.append(event.get("text", event["type"]))

    async def dispatch(event: Any) -> None:
        await session.send({"type": "websocket.send", "text": "1"})

    layer = FakeLayer()
    session = Session(send, None)
    session.track(layer, "channel", layer.messages.get)
    for step in ("accept", "connected", "go live"):
        await STEPS[step](session)
    layer.changed()
    await session.handle(message("g4.1", "new"), dispatch)
    session.end()
    assert sent[1:] == [
        '{"t":"POSITION-1","i":25}',
        '{"t":"POSITION-2","i":25}',
        '{"p":"g4.1","d":1}',
    ]


async def test_frames_that_are_sent_at_the_same_time() -> None:
    """An ASGI server may have a sender wait."""
    sent: list[str] = []

    async def send(event: Any) -> None:
        await asyncio.sleep(0)
        sent.append(event.get("text", event["type"]))

    async def act(event: Any) -> None:
        async def say(number: int) -> None:
            await session.send({"type": "websocket.send", "text": str(number)})

        await say(1)
        await asyncio.gather(*map(say, (2, 3, 4)))

    layer = FakeLayer()
    session = Session(send, None)
    session.track(layer, "channel", layer.messages.get)
    for step in ("accept", "connected", "go live"):
        await STEPS[step](session)
    await session.handle(message("g3.1", "new"), act)
    session.end()
    assert sent[2:] == ['{"d":1}', '{"d":2}', '{"d":3}', '{"p":"g3.1","d":4}']
