"""The mixins that register a consumer's user, through Channels' own test client."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from channels.layers import channel_layers
from channels.testing import WebsocketCommunicator

from kafka_layer.consumers import AsyncUserConsumerMixin, UserConsumerMixin
from kafka_layer.layer import KafkaChannelLayer
from tests.support.inspect import server_of
from tests.support.layers import (
    Backend,
    Layers,
    backend_named,
    backends,
    is_empty_after_sweep,
    memory_backend,
)
from tests.support.waiting import PATIENCE, wait_until_async

TIMEOUT = PATIENCE
END = {"type": "notify", "text": "the end"}


@dataclass
class User:
    """As much of Django's user as the mixins look at."""

    pk: Any
    is_authenticated: bool = True


ANONYMOUS = User(None, is_authenticated=False)


class AsyncNotifications(AsyncUserConsumerMixin, AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    async def notify(self, event: dict[str, Any]) -> None:
        await self.send_json(event["text"])


class Notifications(UserConsumerMixin, JsonWebsocketConsumer):  # type: ignore[misc]
    def notify(self, event: dict[str, Any]) -> None:
        self.send_json(event["text"])


class AsyncByName(AsyncNotifications):
    def get_user_id(self) -> str | None:
        name: str | None = self.scope["url_route"]["kwargs"].get("name")
        return name


class ByName(Notifications):
    def get_user_id(self) -> str | None:
        name: str | None = self.scope["url_route"]["kwargs"].get("name")
        return name


class AsyncRefusing(AsyncNotifications):
    async def connect(self) -> None:
        await self.close()


class Refusing(Notifications):
    def connect(self) -> None:
        self.close()


class AsyncGreeting(AsyncUserConsumerMixin, AsyncWebsocketConsumer):  # type: ignore[misc]
    """Uses what the mixin did in its own connect and disconnect."""

    async def connect(self) -> None:
        self.scope["seen"].append(("connect", users_of(self.channel_layer)))
        await self.accept()
        await self.channel_layer.user_send(self.scope["user"].pk, {"type": "greet"})

    async def greet(self, event: dict[str, Any]) -> None:
        await self.send("hello")

    async def disconnect(self, code: int) -> None:
        self.scope["seen"].append((code, users_of(self.channel_layer)))


class Greeting(UserConsumerMixin, WebsocketConsumer):  # type: ignore[misc]
    def connect(self) -> None:
        self.scope["seen"].append(("connect", users_of(self.channel_layer)))
        self.accept()
        self.channel_layer.user_send_sync(self.scope["user"].pk, {"type": "greet"})

    def greet(self, event: dict[str, Any]) -> None:
        self.send("hello")

    def disconnect(self, code: int) -> None:
        self.scope["seen"].append((code, users_of(self.channel_layer)))


@dataclass
class Kit:
    """The consumers of one kind."""

    notifications: Any
    by_name: Any
    refusing: Any
    greeting: Any


KITS = {
    "async": Kit(AsyncNotifications, AsyncByName, AsyncRefusing, AsyncGreeting),
    "sync": Kit(Notifications, ByName, Refusing, Greeting),
}


@pytest.fixture(params=list(KITS))
def kit(request: pytest.FixtureRequest) -> Kit:
    return KITS[request.param]


@pytest.fixture(scope="module")
def backend() -> Backend:
    return memory_backend()


@pytest.fixture
def server(make_layer: Layers) -> Iterator[KafkaChannelLayer]:
    """The layer of the consumers: CHANNEL_LAYERS calls it ``default``."""
    channel_layers.set("default", make_layer())
    yield channel_layers["default"]
    del channel_layers.backends["default"]


@pytest.fixture
def other(make_layer: Layers) -> KafkaChannelLayer:
    """Another server, which only sends."""
    return make_layer()


Connect = Callable[..., contextlib.AbstractAsyncContextManager[WebsocketCommunicator]]


@contextlib.asynccontextmanager
async def connected(consumer: Any, user: Any, **scope: Any) -> AsyncIterator[WebsocketCommunicator]:
    """A websocket that is accepted, and closed at the end."""
    websocket = communicator(consumer, user, **scope)
    assert await websocket.connect(TIMEOUT) == (True, None)
    yield websocket
    await websocket.disconnect(timeout=TIMEOUT)


def communicator(consumer: Any, user: Any, **scope: Any) -> WebsocketCommunicator:
    websocket = WebsocketCommunicator(consumer.as_asgi(), "/")
    websocket.scope.update({"user": user} if user is not None else {}, **scope)
    return websocket


def users_of(server: KafkaChannelLayer) -> int:
    """How many users are registered at a server."""
    return server.stats().users


class TestRegistration:
    @pytest.fixture(params=backends("memory", "kafka"))
    def backend(self, request: pytest.FixtureRequest) -> Backend:
        return backend_named(request.param, request)

    async def test_a_connected_user_is_reached_from_another_server(
        self, kit: Kit, server: KafkaChannelLayer, other: KafkaChannelLayer
    ) -> None:
        async with (
            connected(kit.notifications, User(7)) as mine,
            connected(kit.notifications, User(8)) as yours,
        ):
            await other.user_send(7, {"type": "notify", "text": "for 7"})
            await other.user_send(8, {"type": "notify", "text": "for 8"})
            assert await mine.receive_json_from(TIMEOUT) == "for 7"
            assert await yours.receive_json_from(TIMEOUT) == "for 8"

    async def test_a_disconnect_unregisters(
        self, kit: Kit, server: KafkaChannelLayer, other: KafkaChannelLayer
    ) -> None:
        async with connected(kit.notifications, User(7)):
            assert users_of(server) == 1
        assert users_of(server) == 0

    async def test_two_tabs_of_one_user(
        self, kit: Kit, server: KafkaChannelLayer, other: KafkaChannelLayer
    ) -> None:
        async with connected(kit.notifications, User(7)) as stays:
            async with connected(kit.notifications, User(7)) as leaves:
                assert users_of(server) == 1
                await other.user_send(7, {"type": "notify", "text": "to both"})
                assert await stays.receive_json_from(TIMEOUT) == "to both"
                assert await leaves.receive_json_from(TIMEOUT) == "to both"
            assert users_of(server) == 1
            await other.user_send(7, {"type": "notify", "text": "to one"})
            assert await stays.receive_json_from(TIMEOUT) == "to one"
        assert users_of(server) == 0

    async def test_two_tabs_on_two_servers(
        self, kit: Kit, server: KafkaChannelLayer, other: KafkaChannelLayer
    ) -> None:
        async with connected(kit.notifications, User(7)) as here:
            channel_layers.set("default", other)
            async with connected(kit.notifications, User(7)) as there:
                assert (users_of(server), users_of(other)) == (1, 1)
                for sender in (server, other):
                    await sender.user_send(7, {"type": "notify", "text": "to both"})
                    assert await here.receive_json_from(TIMEOUT) == "to both"
                    assert await there.receive_json_from(TIMEOUT) == "to both"
            assert (users_of(server), users_of(other)) == (1, 0)

    async def test_connect_finds_it_done_and_disconnect_undone(
        self, kit: Kit, server: KafkaChannelLayer
    ) -> None:
        seen: list[tuple[object, int]] = []
        async with connected(kit.greeting, User(7), seen=seen) as websocket:
            assert await websocket.receive_from(TIMEOUT) == "hello"
        assert seen == [("connect", 1), (1000, 0)]

    async def test_other_consumers_do_not_get_the_users_messages(
        self, kit: Kit, server: KafkaChannelLayer, other: KafkaChannelLayer
    ) -> None:
        async with (
            connected(kit.notifications, User(7)) as mine,
            connected(kit.notifications, ANONYMOUS) as nobody,
        ):
            await other.user_send(7, {"type": "notify", "text": "secret"})
            assert await mine.receive_json_from(TIMEOUT) == "secret"
            await other.all_send(END)
            assert await nobody.receive_json_from(TIMEOUT) == END["text"]


class TestWhoIsRegistered:
    @pytest.mark.parametrize("user", [ANONYMOUS, None], ids=["anonymous", "no-user-in-scope"])
    async def test_nobody(self, kit: Kit, server: KafkaChannelLayer, user: User | None) -> None:
        async with connected(kit.notifications, user):
            assert users_of(server) == 0

    @pytest.mark.parametrize("key", [7, "ann", uuid.UUID(int=7)], ids=["int", "str", "uuid"])
    async def test_any_primary_key(
        self, kit: Kit, server: KafkaChannelLayer, other: KafkaChannelLayer, key: Any
    ) -> None:
        async with connected(kit.notifications, User(key)) as websocket:
            await other.user_send(str(key), {"type": "notify", "text": "hello"})
            assert await websocket.receive_json_from(TIMEOUT) == "hello"

    async def test_a_custom_get_user_id(
        self, kit: Kit, server: KafkaChannelLayer, other: KafkaChannelLayer
    ) -> None:
        route = {"kwargs": {"name": "guest-1"}}
        async with connected(kit.by_name, ANONYMOUS, url_route=route) as websocket:
            await other.user_send("guest-1", {"type": "notify", "text": "welcome"})
            assert await websocket.receive_json_from(TIMEOUT) == "welcome"
        assert users_of(server) == 0
        async with connected(kit.by_name, User(7), url_route={"kwargs": {}}):
            assert users_of(server) == 0

    async def test_a_user_who_logs_out_while_connected(
        self, kit: Kit, server: KafkaChannelLayer
    ) -> None:
        """The disconnect unregisters whom the connect registered, whoever it is by then."""
        user = User(7)
        async with connected(kit.notifications, user):
            assert users_of(server) == 1
            user.pk, user.is_authenticated = None, False
        assert users_of(server) == 0


class TestRefused:
    async def test_the_disconnect_that_follows_unregisters(
        self, kit: Kit, server: KafkaChannelLayer
    ) -> None:
        websocket = communicator(kit.refusing, User(7))
        assert await websocket.connect(TIMEOUT) == (False, 1000)
        await websocket.disconnect(timeout=TIMEOUT)  # as daphne and uvicorn tell it
        assert users_of(server) == 0

    async def test_without_one_it_is_forgotten(self, kit: Kit, make_layer: Layers) -> None:
        """A consumer whose task was ended from outside unregisters nobody."""
        server = make_layer(expiry=0.2)
        channel_layers.set("default", server)
        try:
            websocket = communicator(kit.refusing, User(7))
            assert await websocket.connect(TIMEOUT) == (False, 1000)
            assert await websocket.receive_nothing()
            websocket.future.cancel()
            await asyncio.wait([websocket.future])
            del websocket
            registry = server_of(server).registry
            gc.collect()  # Python 3.10 leaves the ended task in a cycle
            await wait_until_async(
                lambda: is_empty_after_sweep(registry), "the channel to be forgotten"
            )
            assert users_of(server) == 0
        finally:
            del channel_layers.backends["default"]

    async def test_a_refused_user_gets_nothing_and_disturbs_nobody(
        self, kit: Kit, server: KafkaChannelLayer, other: KafkaChannelLayer
    ) -> None:
        refused = communicator(kit.refusing, User(7))
        assert await refused.connect(TIMEOUT) == (False, 1000)
        await refused.disconnect(timeout=TIMEOUT)
        async with connected(kit.notifications, User(7)) as accepted:
            await other.user_send(7, END)
            assert await accepted.receive_json_from(TIMEOUT) == END["text"]
        assert await refused.receive_nothing()


async def test_a_view_reaches_a_user(server: KafkaChannelLayer, other: KafkaChannelLayer) -> None:
    """Without a loop, as in a synchronous Django view."""
    async with connected(AsyncNotifications, User(7)) as websocket:
        await sync_to_async(other.user_send_sync)(7, END)
        assert await websocket.receive_json_from(TIMEOUT) == END["text"]
