"""The recovery mixins with Channels' four websocket consumers, on a layer that only notes calls."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import channels.consumer
import pytest
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from channels.layers import InMemoryChannelLayer, channel_layers
from channels.testing import WebsocketCommunicator

from kafka_layer.consumers import (
    AsyncRecoveryConsumerMixin,
    AsyncUserConsumerMixin,
    RecoveryConsumerMixin,
    UserConsumerMixin,
)
from kafka_layer.messages import Message, Recovery
from kafka_layer.testing import InMemoryKafkaChannelLayer
from tests.support.inspect import server_of
from tests.support.layers import is_empty_after_sweep
from tests.support.waiting import PATIENCE, wait_until_async

from .fake_layer import FakeLayer, default_layer, message

V1 = "kafka-layer.v1"
BACK = [V1, "kafka-layer.position.TOKEN.x~g3.7"]


class AsyncJson(AsyncRecoveryConsumerMixin, AsyncUserConsumerMixin, AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    groups = ("of-class",)

    async def connect(self) -> None:
        self.scope["log"].append("connect")
        await self.channel_layer.group_add("room", self.channel_name)
        await self.accept()

    async def chat_message(self, event: dict[str, Any]) -> None:
        self.scope["log"].append(event["text"])
        await self.send_json({"text": event["text"]})

    async def recovered(self, recovery: Recovery) -> None:
        self.scope["log"].append("recovered")

    async def not_recovered(self, recovery: Recovery) -> None:
        self.scope["log"].append(recovery.reason)


class AsyncText(AsyncRecoveryConsumerMixin, AsyncWebsocketConsumer):  # type: ignore[misc]
    groups = ("of-class",)
    connect = AsyncJson.connect
    recovered = AsyncJson.recovered
    not_recovered = AsyncJson.not_recovered

    async def chat_message(self, event: dict[str, Any]) -> None:
        self.scope["log"].append(event["text"])
        await self.send(json.dumps({"text": event["text"]}))


class SyncJson(UserConsumerMixin, RecoveryConsumerMixin, JsonWebsocketConsumer):  # type: ignore[misc]
    groups = ("of-class",)

    def connect(self) -> None:
        self.scope["log"].append("connect")
        self.accept()

    def chat_message(self, event: dict[str, Any]) -> None:
        self.scope["log"].append(event["text"])
        self.send_json({"text": event["text"]})

    def recovered(self, recovery: Recovery) -> None:
        self.scope["log"].append("recovered")

    def not_recovered(self, recovery: Recovery) -> None:
        self.scope["log"].append(recovery.reason)


class SyncText(RecoveryConsumerMixin, WebsocketConsumer):  # type: ignore[misc]
    groups = ("of-class",)
    connect = SyncJson.connect
    recovered = SyncJson.recovered
    not_recovered = SyncJson.not_recovered

    def chat_message(self, event: dict[str, Any]) -> None:
        self.scope["log"].append(event["text"])
        self.send(json.dumps({"text": event["text"]}))


KINDS = {"async json": AsyncJson, "async": AsyncText, "sync json": SyncJson, "sync": SyncText}


@pytest.fixture
async def layer() -> AsyncIterator[FakeLayer]:
    with default_layer() as layer:
        yield layer


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def browser(
    consumer: Any, layer: Any, subprotocols: list[str] | None = None, path: str = "/"
) -> WebsocketCommunicator:
    websocket = WebsocketCommunicator(consumer.as_asgi(), path, subprotocols=subprotocols or [V1])
    user = SimpleNamespace(pk=7, is_authenticated=True)
    websocket.scope.update(log=getattr(layer, "log", []), user=user)
    return websocket


@asynccontextmanager
async def connected(*arguments: Any, **keywords: Any) -> AsyncIterator[WebsocketCommunicator]:
    websocket = browser(*arguments, **keywords)
    assert await websocket.connect(PATIENCE) == (True, V1)
    yield websocket
    await websocket.disconnect(timeout=PATIENCE)


async def text_of(websocket: WebsocketCommunicator) -> str:
    text = await websocket.receive_from(PATIENCE)
    assert isinstance(text, str)
    return text


async def texts(websocket: WebsocketCommunicator, count: int) -> list[str]:
    return [await text_of(websocket) for _ in range(count)]


POSITION = '{"t":"POSITION-1","i":25}'


class TestOrder:
    async def test_what_was_missed_comes_between_connect_and_the_first_receive(
        self, kind: Any, layer: FakeLayer
    ) -> None:
        layer.messages.put_nowait(message("g3.10", "live"))
        layer.recovery = Recovery(True, None, [message("g3.8", "a"), message("a0.9", "b")], 2.5)
        async with connected(kind, layer, BACK) as websocket:
            assert await texts(websocket, 5) == [
                '{"p":"g3.8","d":{"text": "a"}}',
                '{"p":"a0.9","d":{"text": "b"}}',
                '{"r":{"recovered":true,"reason":null,"count":2}}',
                POSITION,
                '{"p":"g3.10","d":{"text": "live"}}',
            ]
        added = [each for each in layer.log if each.startswith(("add", "user"))]
        assert layer.log[0] == "track"
        assert set(added) <= {"user 7", "add of-class", "add room"}
        assert "add of-class" in added
        assert [each for each in layer.log if each not in added and "discard" not in each] == [
            *("track", "connect", "recover TOKEN.x~g3.7 300"),
            *("a", "b", "recovered", "receive", "live", "receive"),
        ]

    async def test_a_handler_that_closes_ends_the_replay(self, layer: FakeLayer) -> None:
        class Closing(AsyncText):
            async def chat_message(self, event: dict[str, Any]) -> None:
                await super().chat_message(event)
                await self.close(4410)

        layer.recovery = Recovery(True, None, [message("g3.8", "a"), message("g3.9", "b")], 1.0)
        async with connected(Closing, layer, BACK) as websocket:
            assert await text_of(websocket) == '{"p":"g3.8","d":{"text": "a"}}'
            assert (await websocket.receive_output(PATIENCE))["type"] == "websocket.close"
            assert await websocket.receive_nothing()
        assert "b" not in layer.log
        assert "recovered" not in layer.log

    @pytest.mark.parametrize("has_own_dispatch", [False, True])
    async def test_a_replay_has_the_database_looked_after_once(
        self, layer: FakeLayer, monkeypatch: pytest.MonkeyPatch, has_own_dispatch: bool
    ) -> None:
        """Channels does so before each event, in a thread; a dispatch of the application counts."""

        class Noting(AsyncWebsocketConsumer):  # type: ignore[misc]
            async def dispatch(self, message: Any) -> None:
                layer.log.append("dispatch")
                await super().dispatch(message)

        base: Any = Noting if has_own_dispatch else AsyncWebsocketConsumer

        class Room(AsyncRecoveryConsumerMixin, base):  # type: ignore[misc]
            chat_message = AsyncText.chat_message

        async def look_after() -> None:
            layer.log.append("look after")

        monkeypatch.setattr(channels.consumer, "aclose_old_connections", look_after)
        missed = [message(f"g3.{number}", "a", replayed=True) for number in (8, 9)]
        layer.recovery = Recovery(True, None, missed, 1.0)
        async with connected(Room, layer, BACK) as websocket:
            assert await texts(websocket, 3) == [
                '{"p":"g3.8","d":{"text": "a"}}',
                '{"p":"g3.9","d":{"text": "a"}}',
                '{"r":{"recovered":true,"reason":null,"count":2}}',
            ]
            counted = layer.log.count("look after"), layer.log.count("dispatch")
        assert counted == ((3, 3) if has_own_dispatch else (1, 0))

    async def test_a_long_replay_lets_others_run(self, layer: FakeLayer) -> None:
        missed = [message(f"g3.{number}", "a", replayed=True) for number in range(100)]
        layer.recovery = Recovery(True, None, missed, 1.0)
        handled = []

        async def others() -> None:
            while layer.log.count("a") < len(missed):
                handled.append(layer.log.count("a"))
                await asyncio.sleep(0)

        running = asyncio.create_task(others())
        async with connected(AsyncText, layer, BACK) as websocket:
            await texts(websocket, len(missed))
        await running
        slices = [later - earlier for earlier, later in pairwise([*handled, len(missed)])]
        assert max(slices) <= 20

    async def test_what_cannot_be_replayed_has_a_reason(self, kind: Any, layer: FakeLayer) -> None:
        layer.recovery = Recovery(False, "expired", [], 600.0)
        async with connected(kind, layer, BACK) as websocket:
            assert await texts(websocket, 2) == [
                '{"r":{"recovered":false,"reason":"expired","count":0}}',
                POSITION,
            ]
        assert "expired" in layer.log

    async def test_a_browser_without_a_position_has_missed_nothing(
        self, kind: Any, layer: FakeLayer
    ) -> None:
        async with connected(kind, layer) as websocket:
            assert await text_of(websocket) == POSITION
        assert not [each for each in layer.log if each.startswith("recover")]

    async def test_the_limit_of_the_class(self, layer: FakeLayer) -> None:
        class Limited(AsyncText):
            recovery_limit = 20

        class ByPath(AsyncText):
            @property
            def recovery_limit(self) -> int:
                return len(self.scope["path"])

        for consumer, limit in ((Limited, 20), (ByPath, 1)):
            async with connected(consumer, layer, BACK) as websocket:
                await texts(websocket, 2)
            assert f"recover TOKEN.x~g3.7 {limit}" in layer.log

    @pytest.mark.parametrize(
        ("limit", "error"), [(1001, ValueError), (-1, ValueError), ("20", TypeError)]
    )
    def test_a_limit_that_no_recovery_takes(self, limit: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match=r"Room\.recovery_limit"):
            type("Room", (AsyncText,), {"recovery_limit": limit})


class TestOffer:
    async def test_the_address_may_have_the_position(self, layer: FakeLayer) -> None:
        path = "/?room=7&position=TOKEN.y~g3.7"
        async with connected(AsyncText, layer, [V1], path) as websocket:
            await texts(websocket, 2)
        assert "recover TOKEN.y~g3.7 300" in layer.log

    @pytest.mark.parametrize("subprotocols", [["chat.v2"], []])
    async def test_another_browser_gets_the_bytes_of_before(
        self, kind: Any, layer: FakeLayer, subprotocols: list[str]
    ) -> None:
        websocket = browser(kind, layer, ["none"], "/?position=TOKEN")
        websocket.scope["subprotocols"] = subprotocols
        assert await websocket.connect(PATIENCE) == (True, None)
        layer.messages.put_nowait({"type": "chat.message", "text": "hi"})
        assert await text_of(websocket) == '{"text": "hi"}'
        await websocket.disconnect(timeout=PATIENCE)
        assert "track" not in layer.log

    async def test_the_application_may_choose_another_subprotocol(self, layer: FakeLayer) -> None:
        class Chooses(AsyncText):
            async def connect(self) -> None:
                self.scope["log"].append(self.scope["subprotocols"])
                await self.accept("chat.v2")

            async def fail(self, event: object) -> None:
                raise LookupError("a fault of the application")

        websocket = browser(Chooses, layer, [*BACK, "chat.v2"])
        assert await websocket.connect(PATIENCE) == (True, "chat.v2")
        layer.messages.put_nowait(message("g3.1", "hi"))
        assert await text_of(websocket) == '{"text": "hi"}'
        layer.messages.put_nowait(message("g3.2", "", "fail"))
        with pytest.raises(LookupError):
            await websocket.wait(PATIENCE)
        assert websocket.output_queue.empty()
        assert [V1, "chat.v2"] in layer.log
        assert not [each for each in layer.log if str(each).startswith("recover")]

    @pytest.mark.parametrize("accepts", [True, False])
    async def test_a_browser_that_is_not_let_in_gets_nothing(
        self, layer: FakeLayer, accepts: bool
    ) -> None:
        class Refuses(AsyncText):
            async def connect(self) -> None:
                if accepts:
                    await self.accept()
                await self.close(4401)

        websocket = browser(Refuses, layer, BACK)
        await websocket.connect(PATIENCE)
        layer.messages.put_nowait(message("g3.1", "secret"))
        if accepts:
            assert (await websocket.receive_output(PATIENCE))["type"] == "websocket.close"
        assert await websocket.receive_nothing()
        await websocket.disconnect(timeout=PATIENCE)
        assert layer.log == ["track", "add of-class", "discard of-class"]

    async def test_an_application_that_accepts_later(self, layer: FakeLayer) -> None:
        class Later(AsyncText):
            async def connect(self) -> None: ...

            async def chat_message(self, event: dict[str, Any]) -> None:
                await self.accept()

        websocket = browser(Later, layer, BACK)
        layer.messages.put_nowait({"type": "chat.message"})
        assert await websocket.connect(PATIENCE) == (True, V1)
        assert await texts(websocket, 2) == [
            '{"r":{"recovered":false,"reason":"unavailable","count":0}}',
            POSITION,
        ]
        await websocket.disconnect(timeout=PATIENCE)


@pytest.fixture
def other_layer() -> Iterator[InMemoryChannelLayer]:
    layer = InMemoryChannelLayer()
    channel_layers.set("default", layer)
    yield layer
    del channel_layers.backends["default"]


@pytest.mark.parametrize("offers", [BACK, ["chat.v2"]])
async def test_another_layer(kind: Any, offers: list[str], other_layer: Any) -> None:
    """A browser that knows the subprotocol would not connect if it were not spoken."""
    websocket = browser(kind, other_layer, offers)
    assert await websocket.connect(PATIENCE) == (True, V1 if V1 in offers else None)
    await other_layer.group_send("of-class", {"type": "chat.message", "text": "hi"})
    if V1 in offers:
        assert await texts(websocket, 2) == [
            '{"r":{"recovered":false,"reason":"unavailable","count":0}}',
            '{"d":{"text": "hi"}}',
        ]
    else:
        assert await text_of(websocket) == '{"text": "hi"}'
    await websocket.disconnect(timeout=PATIENCE)


class Script(AsyncRecoveryConsumerMixin, AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """Does what a message holds."""

    async def run(self, event: Any) -> None:
        await event["act"](self)

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json(f"echo {content}")


class Plain(AsyncRecoveryConsumerMixin, AsyncWebsocketConsumer):  # type: ignore[misc]
    run = Script.run


def script(place: str, act: Callable[[Any], Any]) -> Message:
    return Message({"type": "run", "act": act}, "unused", 0.0, False, place)


class TestFrames:
    @asynccontextmanager
    async def running(
        self, layer: FakeLayer, *messages: Message, consumer: Any = Script
    ) -> AsyncIterator[WebsocketCommunicator]:
        async with connected(consumer, layer) as websocket:
            assert json.loads(await text_of(websocket))["t"] == "POSITION-1"
            for each in messages:
                layer.messages.put_nowait(each)
            yield websocket

    async def test_only_the_last_frame_of_a_message_has_its_place(self, layer: FakeLayer) -> None:
        async def act(consumer: Any) -> None:
            for number in range(3):
                await consumer.send_json(number)

        async with self.running(layer, script("g3.1", act)) as websocket:
            assert await texts(websocket, 3) == ['{"d":0}', '{"d":1}', '{"p":"g3.1","d":2}']

    async def test_binary_frames_stay_as_they_are(self, layer: FakeLayer) -> None:
        async def act(consumer: Any) -> None:
            await consumer.send("text")
            await consumer.send(bytes_data=b"\x01")

        async with self.running(layer, script("g3.1", act), consumer=Plain) as websocket:
            assert await text_of(websocket) == '{"d":"text"}'
            assert await websocket.receive_from(PATIENCE) == b"\x01"
            assert await text_of(websocket) == '{"p":"g3.1"}'

    @pytest.mark.parametrize(
        ("text", "data"),
        [
            *(('{"a": [1, "é"]}', '{"a": [1, "é"]}'), ("7", "7"), ("", '""')),
            *(("hello", '"hello"'), ("NaN", '"NaN"'), ('{"a":', '"{\\"a\\":"')),
        ],
    )
    async def test_text_that_is_no_json_becomes_a_string(
        self, layer: FakeLayer, text: str, data: str
    ) -> None:
        async def act(consumer: Any) -> None:
            await consumer.send(text)

        async with self.running(layer, script("g3.1", act), consumer=Plain) as websocket:
            assert await text_of(websocket) == f'{{"p":"g3.1","d":{data}}}'

    async def test_a_json_consumer_may_send_any_text(self, layer: FakeLayer) -> None:
        async def act(consumer: Any) -> None:
            await consumer.send("12 apples")
            await consumer.send_json({"n": float("nan")})

        async with self.running(layer, script("g3.1", act)) as websocket:
            told = [json.loads(each) for each in await texts(websocket, 2)]
            assert told == [{"d": "12 apples"}, {"p": "g3.1", "d": '{"n": NaN}'}]

    async def test_what_is_sent_without_a_message_has_no_place(self, layer: FakeLayer) -> None:
        async with self.running(layer) as websocket:
            await websocket.send_json_to("hi")
            assert await text_of(websocket) == '{"d":"echo hi"}'
            layer.messages.put_nowait(script("", lambda consumer: consumer.send_json("direct")))
            assert await text_of(websocket) == '{"d":"direct"}'

    async def test_a_message_for_which_nothing_is_sent_has_no_frame(self, layer: FakeLayer) -> None:
        async def act(consumer: Any) -> None: ...

        next_one = script("g3.2", lambda consumer: consumer.send_json(2))
        async with self.running(layer, script("g3.1", act), next_one) as websocket:
            assert await text_of(websocket) == '{"p":"g3.2","d":2}'

    async def test_a_handler_that_goes_on_holds_back_no_frame(self, layer: FakeLayer) -> None:
        layer.timings = replace(layer.timings, held_frame=0.01)
        goes_on = asyncio.Event()

        async def act(consumer: Any) -> None:
            await consumer.send_json("at once")
            await goes_on.wait()

        async with self.running(layer, script("g3.1", act)) as websocket:
            assert await text_of(websocket) == '{"d":"at once"}'
            goes_on.set()
            assert await text_of(websocket) == '{"p":"g3.1"}'

    async def test_messages_of_a_history_say_nothing_of_what_lies_before_them(
        self, layer: FakeLayer
    ) -> None:
        """In their partition there may be messages of other groups, which are still to come."""

        async def say_nothing(consumer: Any) -> None: ...

        async def act(consumer: Any) -> None:
            await consumer.send_json("before")
            told = script("g3.2", lambda consumer: consumer.send_json("old"))
            await consumer.replay([script("g3.0", say_nothing), told])
            await consumer.send_json("after")

        async with self.running(layer, script("g3.1", act)) as websocket:
            assert await texts(websocket, 3) == [
                '{"d":"before"}',
                '{"d":"old"}',
                '{"p":"g3.1","d":"after"}',
            ]

    async def test_a_message_of_a_history_is_not_handled_once_more(self, layer: FakeLayer) -> None:
        async def act(consumer: Any) -> None:
            await consumer.replay([script(f"g3.{each}", speak(each)) for each in (2, 4, 6)])

        def speak(number: int) -> Callable[[Any], Any]:
            return lambda consumer: consumer.send_json(number)

        async with self.running(layer, script("g3.1", act)) as websocket:
            assert await texts(websocket, 3) == ['{"d":2}', '{"d":4}', '{"d":6}']
            for place in (3, 4, 5):
                layer.messages.put_nowait(script(f"g3.{place}", speak(place)))
            assert await texts(websocket, 3) == [
                '{"p":"g3.3","d":3}',
                '{"p":"g3.4"}',
                '{"p":"g3.5","d":5}',
            ]

    async def test_a_message_whose_handler_fails_does_not_come_again(
        self, layer: FakeLayer
    ) -> None:
        async def act(consumer: Any) -> None:
            raise LookupError("a fault of the application")

        websocket = browser(Script, layer)
        await websocket.connect(PATIENCE)
        layer.messages.put_nowait(script("g3.1", act))
        assert await texts(websocket, 2) == [POSITION, '{"p":"g3.1"}']
        with pytest.raises(LookupError):
            await websocket.wait(PATIENCE)

    async def test_a_message_without_a_type(self, layer: FakeLayer) -> None:
        """Channels' own error."""
        websocket = browser(Script, layer)
        await websocket.connect(PATIENCE)
        layer.messages.put_nowait({"text": "hi"})
        with pytest.raises(ValueError, match="no 'type'"):
            await websocket.wait(PATIENCE)

    async def test_nothing_follows_a_close(self, layer: FakeLayer) -> None:
        async def act(consumer: Any) -> None:
            await consumer.close()
            raise LookupError("a fault of the application")

        websocket = browser(Script, layer)
        await websocket.connect(PATIENCE)
        assert await texts(websocket, 1) == [POSITION]
        layer.messages.put_nowait(script("g3.1", act))
        assert (await websocket.receive_output(PATIENCE))["type"] == "websocket.close"
        with pytest.raises(LookupError):
            await websocket.wait(PATIENCE)
        assert websocket.output_queue.empty()

    async def test_nothing_follows_a_disconnect(self, layer: FakeLayer) -> None:
        class Leaves(AsyncJson):
            async def disconnect(self, code: int) -> None:
                # As group_discard does.
                layer.changed()
                for _ in range(5):
                    await asyncio.sleep(0)

        websocket = browser(Leaves, layer)
        await websocket.connect(PATIENCE)
        assert await texts(websocket, 1) == [POSITION]
        await websocket.disconnect(timeout=PATIENCE)
        assert websocket.output_queue.empty()

    async def test_what_is_sent_before_a_close_has_the_place(self, layer: FakeLayer) -> None:
        async def act(consumer: Any) -> None:
            await consumer.send_json("the room is closed", close=4410)

        async with self.running(layer, script("g3.1", act)) as websocket:
            assert await text_of(websocket) == '{"p":"g3.1","d":"the room is closed"}'
            assert (await websocket.receive_output(PATIENCE))["code"] == 4410

    async def test_a_gap_closes_the_connection(self, layer: FakeLayer) -> None:
        async with self.running(layer) as websocket:
            layer.messages.put_nowait({"type": "kafka.gap", "reason": "expired"})
            closed = {"type": "websocket.close", "code": 4008, "reason": "expired"}
            assert await websocket.receive_output(PATIENCE) == closed
            layer.messages.put_nowait(script("g3.1", lambda consumer: consumer.send_json("late")))
            assert await websocket.receive_nothing()


class TestPositions:
    async def test_they_are_told_again_and_again(self, layer: FakeLayer) -> None:
        layer.timings = replace(layer.timings, position_frame=0.02)
        async with connected(Script, layer) as websocket:
            assert await texts(websocket, 3) == [
                f'{{"t":"POSITION-{number}","i":0.02}}' for number in (1, 2, 3)
            ]

    async def test_a_membership_that_changes_moves_them_at_once(self, layer: FakeLayer) -> None:
        async def join(consumer: Any) -> None:
            await consumer.channel_layer.group_add("another", "channel")
            await consumer.send_json("joined")

        async with connected(Script, layer) as websocket:
            assert await text_of(websocket) == POSITION
            # By another process.
            await asyncio.to_thread(layer.changed)
            assert await text_of(websocket) == '{"t":"POSITION-2","i":25}'
            # By a handler, and before the first message of the new group.
            layer.messages.put_nowait(script("g3.1", join))
            layer.messages.put_nowait(script("g4.1", lambda consumer: consumer.send_json("new")))
            assert await texts(websocket, 3) == [
                '{"p":"g3.1","d":"joined"}',
                '{"t":"POSITION-3","i":25}',
                '{"p":"g4.1","d":"new"}',
            ]

    async def test_none_is_told_while_messages_are_replayed(self, layer: FakeLayer) -> None:
        """It would be ahead of those that the browser has not got yet."""
        layer.timings = replace(layer.timings, position_frame=0.01)

        async def act(consumer: Any) -> None:
            await consumer.channel_layer.group_add("another", "channel")
            await asyncio.sleep(0.05)
            await consumer.send_json("replayed")

        layer.recovery = Recovery(True, None, [script("g3.8", act)], 1.0)
        async with connected(Script, layer, BACK) as websocket:
            assert (await texts(websocket, 3))[:2] == [
                '{"p":"g3.8","d":"replayed"}',
                '{"r":{"recovered":true,"reason":null,"count":1}}',
            ]


@pytest.mark.parametrize(
    ("bases", "told"),
    [
        ((AsyncWebsocketConsumer, AsyncRecoveryConsumerMixin), "AsyncRecoveryConsumerMixin before"),
        ((WebsocketConsumer, UserConsumerMixin), "UserConsumerMixin before"),
        ((AsyncRecoveryConsumerMixin, WebsocketConsumer), "take RecoveryConsumerMixin, not"),
        ((UserConsumerMixin, AsyncWebsocketConsumer), "take AsyncUserConsumerMixin, not"),
    ],
)
def test_a_class_in_which_a_mixin_has_no_effect(bases: tuple[type, ...], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        type("Room", bases, {})


@pytest.mark.parametrize("mixin", [AsyncRecoveryConsumerMixin, RecoveryConsumerMixin])
def test_applications_have_private_names_of_their_own(mixin: type) -> None:
    """A consumer may well have a ``_session``."""
    ours = {
        name
        for each in mixin.__mro__
        if each.__module__ == mixin.__module__
        for name in vars(each)
        if name.startswith("_") and not name.startswith("__")
    }
    assert ours
    assert {name for name in ours if not name.startswith("_recovery_")} == set()


@pytest.mark.parametrize("consumer", [AsyncJson, SyncText])
async def test_the_layer_forgets_the_channel_of_a_closed_connection(consumer: Any) -> None:
    layer = InMemoryKafkaChannelLayer()
    channel_layers.set("default", layer)
    try:
        websocket = browser(consumer, layer)
        await websocket.connect(PATIENCE)
        await websocket.disconnect(timeout=PATIENCE)
        del websocket

        def is_forgotten() -> bool:
            gc.collect()
            return is_empty_after_sweep(server_of(layer).registry)

        # The thread of a synchronous handler lets go of it a moment later.
        await wait_until_async(is_forgotten, "the channel to be forgotten")
    finally:
        del channel_layers.backends["default"]
        await layer.close()
