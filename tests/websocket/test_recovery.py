"""The recovery mixins on a layer: browsers that break off and come back to another server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from channels.layers import channel_layers
from channels.testing import WebsocketCommunicator

from kafka_layer.consumers import (
    AsyncRecoveryConsumerMixin,
    AsyncUserConsumerMixin,
    RecoveryConsumerMixin,
    UserConsumerMixin,
)
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.messages import Recovery
from tests.support.layers import Backend, Layers, backend_named, backends, next_message, unhurried
from tests.support.waiting import PATIENCE

# These tests do use a Kafka.
pytestmark = pytest.mark.filterwarnings("ignore:The tests use the Kafka")


class AsyncRoom(AsyncUserConsumerMixin, AsyncRecoveryConsumerMixin, AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    groups: tuple[str, ...] = ("of-class",)

    def get_user_id(self) -> str:
        return "ada"

    async def connect(self) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        await self.accept()

    async def chat(self, message: dict[str, Any]) -> None:
        await self.send_json(message["text"])

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.channel_layer.group_add(content, self.channel_name)

    async def not_recovered(self, recovery: Recovery) -> None:
        history = await self.channel_layer.group_history("room", limit=2)
        await self.replay(history.messages)


class SyncRoom(RecoveryConsumerMixin, UserConsumerMixin, JsonWebsocketConsumer):  # type: ignore[misc]
    groups: tuple[str, ...] = ("of-class",)
    get_user_id = AsyncRoom.get_user_id

    def connect(self) -> None:
        self.channel_layer.group_add_sync("room", self.channel_name)
        self.accept()

    def chat(self, message: dict[str, Any]) -> None:
        self.send_json(message["text"])

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        self.channel_layer.group_add_sync(content, self.channel_name)

    def not_recovered(self, recovery: Recovery) -> None:
        self.replay(self.channel_layer.group_history_sync("room", limit=2).messages)


class AsyncRefused(AsyncRoom):
    async def connect(self) -> None:
        await self.accept()
        await self.close(4403)


class SyncRefused(SyncRoom):
    def connect(self) -> None:
        self.accept()
        self.close(4403)


class AsyncOutside(AsyncRoom):
    groups = ()

    async def connect(self) -> None:
        await self.accept()


class SyncOutside(SyncRoom):
    groups = ()

    def connect(self) -> None:
        self.accept()


class Browser:
    """A client as docs/recovery.md describes one; connects to the layer that is the default.

    Attributes:
        data: What the application sent.
        verdicts: A reason for each time that it came back; None where it was recovered.
    """

    def __init__(self) -> None:
        self.data: list[Any] = []
        self.verdicts: list[str | None] = []
        self._token = ""
        self._places: dict[str, int] = {}
        self._socket: WebsocketCommunicator | None = None
        self._closed: int | None = None

    @property
    def position(self) -> str:
        if not self._token:
            return "" if self._socket is None else "lost"
        places = (f"{lane}.{offset}" for lane, offset in self._places.items())
        return "~".join([self._token, *places])

    async def connect(self, consumer: Any, position: str | None = None) -> None:
        position = self.position if position is None else position
        offers = ["kafka-layer.v1"] + [f"kafka-layer.position.{position}"] * bool(position)
        self._socket = WebsocketCommunicator(consumer.as_asgi(), "/", subprotocols=offers)
        assert await self._socket.connect(PATIENCE) == (True, "kafka-layer.v1")

    async def hear(self, count: int) -> list[Any]:
        """Return what came so far, when it is so much."""
        while len(self.data) < count:
            await self._receive()
        return self.data

    async def hear_position(self) -> None:
        """Wait for the next position."""
        before, self._token = self._token, ""
        while not self._token:
            await self._receive()
        assert self._token != before

    async def hear_verdict(self) -> str | None:
        """Return the reason of the last verdict, when there is one."""
        while not self.verdicts:
            await self._receive()
        return self.verdicts[-1]

    async def hear_close(self) -> int:
        """Return the code of the close, when the connection is closed."""
        while self._closed is None:
            await self._receive()
        return self._closed

    async def say(self, content: Any) -> None:
        assert self._socket is not None
        await self._socket.send_json_to(content)

    async def break_off(self) -> None:
        """Hear the verdict, after which the application fails."""
        assert self._socket is not None
        await self.hear_verdict()
        with pytest.raises(LookupError):
            await asyncio.wait_for(self._socket.future, PATIENCE)
        assert self._socket.output_queue.empty()

    async def leave(self) -> None:
        assert self._socket is not None
        await self._socket.disconnect(timeout=PATIENCE)

    async def _receive(self) -> None:
        assert self._socket is not None
        event = await self._socket.receive_output(PATIENCE)
        if event["type"] == "websocket.close":
            self._closed = event["code"]
            return
        frame = json.loads(event["text"])
        if "p" in frame:
            lane, offset = frame["p"].rsplit(".", 1)
            if int(offset) <= self._places.get(lane, -1):
                return
        if "d" in frame:
            self.data.append(frame["d"])
        if "p" in frame:
            self._places[lane] = int(offset)
        if "r" in frame:
            self.verdicts.append(frame["r"]["reason"])
            if not frame["r"]["recovered"]:
                self._token = ""
                self._places.clear()
        self._token = frame.get("t", self._token)


@pytest.fixture(params=backends("memory", "kafka"))
def backend(request: pytest.FixtureRequest) -> Backend:
    return unhurried(backend_named(request.param, request))


@pytest.fixture(params=[AsyncRoom, SyncRoom], ids=["async", "sync"])
def room(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def sender(make_layer: Layers) -> KafkaChannelLayer:
    """Another server. What it has sent is in the log."""
    return make_layer(await_produce=True)


@pytest.fixture
def server(make_layer: Layers) -> Iterator[KafkaChannelLayer]:
    channel_layers.set("default", make_layer())
    yield channel_layers["default"]
    del channel_layers.backends["default"]


async def say(layer: KafkaChannelLayer, *texts: str) -> None:
    """Send to the room, to a group of the class, to the user and to everybody."""
    for text in texts:
        message = {"type": "chat", "text": text}
        match text.split()[0]:
            case "user":
                await layer.user_send("ada", message)
            case "all":
                await layer.all_send(message)
            case group:
                await layer.group_send(group, message)


async def test_a_browser_goes_on_at_another_server(
    room: Any, server: KafkaChannelLayer, sender: KafkaChannelLayer, make_layer: Layers
) -> None:
    browser = Browser()
    await browser.connect(room)
    await browser.hear_position()
    await say(sender, "room 1", "of-class 2", "user 3", "all 4")
    assert sorted(await browser.hear(4)) == ["all 4", "of-class 2", "room 1", "user 3"]
    await browser.leave()
    await say(sender, "room 5", "user 6", "all 7", "of-class 8", "room 9")
    browser.data.clear()

    channel_layers.set("default", make_layer())
    await browser.connect(room)
    heard = await browser.hear(5)
    assert sorted(heard) == ["all 7", "of-class 8", "room 5", "room 9", "user 6"]
    assert heard.index("room 5") < heard.index("room 9")
    await say(sender, "room 10")
    assert (await browser.hear(6))[5] == "room 10"
    assert browser.verdicts == [None]
    await browser.leave()


async def test_a_browser_that_never_got_a_message(
    room: Any, server: KafkaChannelLayer, sender: KafkaChannelLayer
) -> None:
    browser = Browser()
    await browser.connect(room)
    await browser.hear_position()
    await browser.leave()
    await say(sender, "room 1")
    await browser.connect(room)
    assert await browser.hear(1) == ["room 1"]
    assert await browser.hear_verdict() is None
    await browser.leave()


async def test_a_group_that_is_joined_later_is_in_the_position(
    room: Any, server: KafkaChannelLayer, sender: KafkaChannelLayer
) -> None:
    class Returning(room):  # type: ignore[misc]
        groups = ("of-class", "late")

    browser = Browser()
    await browser.connect(room)
    await browser.hear_position()
    await browser.say("late")
    await browser.hear_position()
    await browser.leave()
    await say(sender, "late 1")
    await browser.connect(Returning)
    assert await browser.hear(1) == ["late 1"]
    await browser.leave()


async def test_state_that_is_loaded_anew_and_live_messages_fit_together(
    room: Any, server: KafkaChannelLayer, sender: KafkaChannelLayer
) -> None:
    """What comes after the membership is in the history and in the mailbox."""

    class Slow(room):  # type: ignore[misc]
        async def _recovery_hook(self, hook: Any, recovery: Recovery) -> None:
            await say(sender, "room 4")
            await super()._recovery_hook(hook, recovery)
            await say(sender, "room 5")

    await say(sender, "room 1", "room 2", "room 3")
    browser = Browser()
    await browser.connect(Slow, "forged")
    assert await browser.hear(3) == ["room 3", "room 4", "room 5"]
    await say(sender, "room 6")
    assert (await browser.hear(4))[3] == "room 6"
    assert browser.verdicts == ["invalid"]
    await browser.leave()


@pytest.mark.parametrize("backend", ["memory"], indirect=True)
async def test_state_that_cannot_be_loaded_is_loaded_when_the_browser_comes_back(
    room: Any, server: KafkaChannelLayer, sender: KafkaChannelLayer
) -> None:
    """Such as where no broker answers when the history is asked for."""

    class Failing(room):  # type: ignore[misc]
        async def _recovery_hook(self, hook: Any, recovery: Recovery) -> None:
            raise LookupError("a fault of the application's")

    await say(sender, "room 1", "room 2")
    browser = Browser()
    await browser.connect(Failing, "forged")
    await browser.break_off()
    assert (browser.data, browser.verdicts) == ([], ["invalid"])
    await browser.connect(room)
    assert await browser.hear(2) == ["room 1", "room 2"]
    await browser.leave()


@pytest.mark.parametrize("backend", ["memory"], indirect=True)
@pytest.mark.parametrize(
    ("room", "refused", "outside"),
    [(AsyncRoom, AsyncRefused, AsyncOutside), (SyncRoom, SyncRefused, SyncOutside)],
    ids=["async", "sync"],
)
async def test_one_who_is_not_let_in_any_more(
    room: Any, refused: Any, outside: Any, server: KafkaChannelLayer, sender: KafkaChannelLayer
) -> None:
    """Neither the browser's position nor that of a page reveals what was said since."""
    page = await sender.group_position("room")
    browser = Browser()
    await browser.connect(room)
    await browser.hear_position()
    await browser.leave()
    await say(sender, "room 1", "of-class 2")
    for position in (browser.position, page):
        again = Browser()
        await again.connect(refused, position)
        assert await again.hear_close() == 4403
        assert (again.data, again.verdicts) == ([], [])
        again = Browser()
        await again.connect(outside, position)
        assert await again.hear_verdict() is None
        await say(sender, "user 3")
        assert await again.hear(1) == ["user 3"]
        await again.leave()


@pytest.mark.parametrize("backend", ["memory"], indirect=True)
async def test_a_browser_that_is_too_slow_is_sent_away_and_told_why(make_layer: Layers) -> None:
    layer = make_layer(capacity=10, recent_bytes=1024 * 1024)
    goes_on = asyncio.Event()

    class Stalling(AsyncRoom):
        async def connect(self) -> None:
            await self.channel_layer.group_add("slow", self.channel_name)
            await self.accept()

        async def chat(self, message: dict[str, Any]) -> None:
            await goes_on.wait()
            await super().chat(message)

    channel_layers.set("default", layer)
    try:
        browser = Browser()
        await browser.connect(Stalling)
        await browser.hear_position()
        for number in range(60):
            await layer.group_send("slow", {"type": "chat", "text": [number, "x" * 100_000]})
        seen = await layer.new_channel()
        await layer.user_add("watcher", seen)
        await layer.user_send("watcher", {"type": "the end"})
        await next_message(layer, seen)
        goes_on.set()
        assert await browser.hear_close() == 4008
        heard = [number for number, _ in browser.data]
        assert heard == list(range(len(heard)))
        assert len(heard) < 60
        await browser.leave()
        await browser.connect(Stalling)
        assert await browser.hear_verdict() == "limit"
        await browser.leave()
    finally:
        del channel_layers.backends["default"]
