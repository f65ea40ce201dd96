"""The page on recovery: its protocol is what the mixins speak (tests/e2e has its tutorial)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.testing import WebsocketCommunicator

from kafka_layer.consumers import AsyncRecoveryConsumerMixin
from kafka_layer.messages import Message, Recovery
from kafka_layer.recovery.replay import Reason
from tests.support.pages import files_of
from tests.support.waiting import PATIENCE
from tests.websocket.fake_layer import FakeLayer, default_layer, message

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "recovery.md").read_text()


def test_it_names_every_reason() -> None:
    table = PAGE.partition("## Reasons")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(get_args(Reason))


class Room(AsyncRecoveryConsumerMixin, AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    async def text(self, event: Message) -> None:
        await self.send_json({"text": event["text"]})

    async def parts(self, event: Message) -> None:
        for number in range(1, event["text"] + 1):
            await self.send_json({"part": number})


@pytest.fixture
async def layer() -> AsyncIterator[FakeLayer]:
    with default_layer() as layer:
        yield layer


async def test_the_session_of_the_page(layer: FakeLayer) -> None:
    """Each line is offered, or is the frame that the server sends, to the letter."""
    recoveries = iter(
        [
            Recovery(True, None, [message("g3.1043", "two", "text")], 1.0),
            Recovery(False, "expired", [], 3600.0),
        ]
    )
    parts = Message({"type": "parts", "text": 2}, "", 0.0, False, "a0.77")
    first = [message("g3.1042", "one", "text"), parts]
    live = iter([first, [message("g3.1044", "three", "text")], []])
    socket: Any = None
    lines = files_of(PAGE)["session"].splitlines()
    assert lines
    for line in lines:
        who, text = line.split(" ", 1)
        if who == "-":
            await socket.disconnect(timeout=PATIENCE)
        elif who == "C":
            offers = text.removeprefix("offers ").split(", ")
            if len(offers) > 1:
                layer.recovery = next(recoveries)
            socket = WebsocketCommunicator(Room.as_asgi(), "/", subprotocols=offers)
            assert await socket.connect(PATIENCE) == (True, offers[0])
            for each in next(live):
                layer.messages.put_nowait(each)
        else:
            assert await socket.receive_from(PATIENCE) == text
    assert await socket.receive_nothing()
    await socket.disconnect(timeout=PATIENCE)
    asked = [each for each in layer.log if each.startswith("recover")]
    assert asked == [
        "recover POSITION-1~g3.1042~a0.77 300",
        "recover POSITION-2~g3.1044~a0.77 300",
    ]
