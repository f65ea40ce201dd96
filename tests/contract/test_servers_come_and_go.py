"""Any course of starts, joins, losses, returns and repeated sends: each message arrives once."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.messages import Message
from tests.support.inspect import server_of
from tests.support.layers import Layers
from tests.support.waiting import wait_until_async

DEADLINE = 30.0
STEPS = 80

# Chances at each step.
NEW_SERVER, NEW_BROWSER, LOSS, RETURN, REPETITION = 0.05, 0.1, 0.02, 0.2, 0.5
# How far back a message lies that is sent again.
REPEATED = 30


class Browser:
    """A client that keeps its position, in the group and of the user of one course.

    Attributes:
        since: The number of the first message that was sent after it joined.
        got: What it got, over all of its connections.
        is_lost: Whether it has no connection now.
    """

    def __init__(self, course: Course) -> None:
        self.since = course.sent
        self.got: list[int] = []
        self.is_lost = True
        self._course = course
        self._position = ""
        self._receiving: asyncio.Task[None] | None = None

    async def connect(self, layer: KafkaChannelLayer) -> None:
        channel = await layer.new_channel()
        layer.track(channel)
        await layer.group_add(self._course.group, channel)
        await layer.user_add(self._course.group, channel)
        if self._position:
            found = await layer.recover(channel, self._position, limit=1000)
            assert found.recovered, found.reason
            for message in found.messages:
                self._take(message)
        else:
            self._position = layer.position(channel)
        self.is_lost = False
        self._receiving = asyncio.create_task(self._receive(layer, channel))

    async def lose(self) -> None:
        self.is_lost = True
        if self._receiving is not None:
            self._receiving.cancel()
            await asyncio.gather(self._receiving, return_exceptions=True)

    async def _receive(self, layer: KafkaChannelLayer, channel: str) -> None:
        while True:
            message = await layer.receive(channel)
            assert isinstance(message, Message)
            self._take(message)

    def _take(self, message: Message) -> None:
        self.got.append(message["n"])
        self._position = message.position


class Course:
    """A course of events, which the seed decides.

    Attributes:
        group: A group, and a user.
        sent: How many messages were sent, each of them once or more often.
    """

    def __init__(self, make_layer: Layers, prefix: str, seed: int) -> None:
        self.group = f"room-{secrets.token_hex(4)}"
        self.sent = 0
        self.browsers: list[Browser] = []
        self._random = random.Random(seed)
        self._make = lambda: make_layer(prefix)
        self._layers = [self._make()]

    async def run(self) -> None:
        await self._join()
        for _ in range(STEPS):
            if self._happens(NEW_SERVER):
                self._layers.append(self._make())
            if self._happens(NEW_BROWSER):
                await self._join()
            for browser in self.browsers:
                if browser.is_lost and self._happens(RETURN):
                    await browser.connect(self._server())
                elif not browser.is_lost and self._happens(LOSS):
                    await browser.lose()
            await self._send()
        for browser in self.browsers:
            if browser.is_lost:
                await browser.connect(self._server())

    async def _join(self) -> None:
        self.browsers.append(Browser(self))
        await self.browsers[-1].connect(self._server())

    async def _send(self) -> None:
        if self.sent and self._happens(REPETITION):
            number = self._random.randrange(max(0, self.sent - REPEATED), self.sent)
        else:
            number, self.sent = self.sent, self.sent + 1
        layer = self._server()
        ways: list[Callable[..., Awaitable[Any]]] = [
            lambda *args, **key: layer.group_send(self.group, *args, **key),
            lambda *args, **key: layer.user_send(self.group, *args, **key),
            layer.all_send,
        ]
        await ways[number % 3]({"n": number}, idempotency_key=f"message-{number}")
        await asyncio.to_thread(server_of(layer).transport.settle, DEADLINE)

    def _happens(self, chance: float) -> bool:
        return self._random.random() < chance

    def _server(self) -> KafkaChannelLayer:
        return self._random.choice(self._layers)


@pytest.mark.parametrize("seed", [1, 2])
async def test_each_message_arrives_once(make_layer: Layers, prefix: str, seed: int) -> None:
    course = Course(make_layer, prefix, seed)
    await course.run()
    for browser in course.browsers:
        # One that was sent by another process just before it joined may come as well.
        due = set(range(browser.since, course.sent))
        await wait_until_async(
            lambda browser=browser, due=due: due <= set(browser.got), "all messages", DEADLINE
        )
    for browser in course.browsers:
        await browser.lose()
        assert [number for number, times in Counter(browser.got).items() if times > 1] == []
