"""Mixins for websocket consumers: their users, and the messages that their browsers missed.

With ``AsyncUserConsumerMixin`` or ``UserConsumerMixin`` ``user_send`` reaches the user of each
connection. With ``AsyncRecoveryConsumerMixin`` or ``RecoveryConsumerMixin`` a browser that comes
back gets the messages that it missed, or is told that it cannot have them. Inherit from them before
the consumer class, in any order::

    class Room(AsyncRecoveryConsumerMixin, AsyncUserConsumerMixin, AsyncJsonWebsocketConsumer):
        async def notify(self, event): ...
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer, SyncConsumer, get_handler_name
from channels.db import database_sync_to_async

from .history.question import require_limit
from .messages import Message, Recovery
from .websocket.frames import GAP, offer_of
from .websocket.session import Receive, Send, Session
from .wire.names import UserId

__all__ = [
    "AsyncRecoveryConsumerMixin",
    "AsyncUserConsumerMixin",
    "RecoveryConsumerMixin",
    "UserConsumerMixin",
]


class _Mixin:
    """Refuses a class in which a mixin would have no effect, or break every connection."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if not issubclass(cls, AsyncConsumer):
            return
        classes = cls.__mro__
        names = [each.__name__ for each in classes if each.__module__ == __name__]
        mixins = [name for name in names if name in __all__]
        if classes.index(AsyncConsumer) < classes.index(_Mixin):
            raise TypeError(
                f"{cls.__name__} has to name {' and '.join(mixins)} before its consumer class: "
                "behind it a mixin has no effect."
            )
        is_sync = issubclass(cls, SyncConsumer)
        for name in mixins:
            if name.startswith("Async") == is_sync:
                other = name.removeprefix("Async") if is_sync else f"Async{name}"
                kind = "a synchronous" if is_sync else "an asynchronous"
                raise TypeError(f"{cls.__name__} is {kind} consumer; take {other}, not {name}.")


if TYPE_CHECKING:
    from asgiref.typing import WebSocketConnectEvent, WebSocketDisconnectEvent
    from channels.consumer import AsyncConsumer as _AnyConsumer
    from channels.generic.websocket import AsyncWebsocketConsumer as _AsyncConsumer
    from channels.generic.websocket import WebsocketConsumer as _Consumer

    from .layer import KafkaChannelLayer

else:
    # A consumer class follows the mixin; only type checkers need its type.
    _AnyConsumer = _AsyncConsumer = _Consumer = _Mixin

# So many messages of a replay are handled before the event loop serves others.
_SLICE = 20


class AsyncUserConsumerMixin(_AsyncConsumer):  # type: ignore[misc, unused-ignore]
    """For ``AsyncWebsocketConsumer`` and its kin: registers the user while connected.

    On another channel layer, which knows no users, it registers nobody.
    """

    channel_layer: KafkaChannelLayer
    # The registered id: by the time of the disconnect the user may have logged out.
    _registered_user: UserId | None = None

    def get_user_id(self) -> UserId | None:
        """Return the id under which this connection is reached; None registers nothing.

        The primary key of ``scope["user"]``, if it is logged in. Override it for other ids.
        """
        return _primary_key(self.scope.get("user"))

    async def websocket_connect(self, message: WebSocketConnectEvent) -> None:
        """Register the user before the consumer's own ``connect``."""
        user_id = self.get_user_id() if hasattr(self.channel_layer, "user_add") else None
        self._registered_user = user_id
        if user_id is not None:
            await self.channel_layer.user_add(user_id, self.channel_name)
        await super().websocket_connect(message)

    async def websocket_disconnect(self, message: WebSocketDisconnectEvent) -> None:
        """Unregister the user, and go on with the consumer's own ``disconnect``."""
        user_id, self._registered_user = self._registered_user, None
        try:
            if user_id is not None:
                await self.channel_layer.user_discard(user_id, self.channel_name)
        finally:
            await super().websocket_disconnect(message)


class UserConsumerMixin(_Consumer):  # type: ignore[misc, unused-ignore]
    """For ``WebsocketConsumer`` and its kin; otherwise as ``AsyncUserConsumerMixin``."""

    channel_layer: KafkaChannelLayer
    # The registered id: by the time of the disconnect the user may have logged out.
    _registered_user: UserId | None = None

    def get_user_id(self) -> UserId | None:
        """Return the id under which this connection is reached; None registers nothing.

        The primary key of ``scope["user"]``, if it is logged in. Override it for other ids.
        """
        return _primary_key(self.scope.get("user"))

    def websocket_connect(self, message: WebSocketConnectEvent) -> None:
        """Register the user before the consumer's own ``connect``."""
        user_id = self.get_user_id() if hasattr(self.channel_layer, "user_add") else None
        self._registered_user = user_id
        if user_id is not None:
            self.channel_layer.user_add_sync(user_id, self.channel_name)
        super().websocket_connect(message)

    def websocket_disconnect(self, message: WebSocketDisconnectEvent) -> None:
        """Unregister the user, and go on with the consumer's own ``disconnect``."""
        user_id, self._registered_user = self._registered_user, None
        try:
            if user_id is not None:
                self.channel_layer.user_discard_sync(user_id, self.channel_name)
        finally:
            super().websocket_disconnect(message)


def _primary_key(user: Any) -> UserId | None:
    if user is None or not user.is_authenticated:
        return None
    key: UserId = user.pk
    return key


class _Recovering(_AnyConsumer):  # type: ignore[misc, unused-ignore]
    """What the two recovery mixins share: takes over where Channels receives, dispatches and sends.

    A browser that does not offer the subprotocol ``kafka-layer.v1`` is served as without the mixin.
    """

    channel_layer: KafkaChannelLayer

    recovery_limit = 300
    """How many messages a browser gets replayed; for one that missed more it is not recovered."""

    # None for a browser that does not know the subprotocol.
    _recovery_session: Session | None = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Check the class's limit now, and not when a browser comes back."""
        super().__init_subclass__(**keywords)
        limit = cls.recovery_limit
        # A property tells it for each connection.
        if not hasattr(limit, "__get__"):
            hint = "browsers that missed more load their state anew"
            require_limit(limit, hint, f"{cls.__name__}.recovery_limit")

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        """Serve one connection: the ASGI application."""
        offer = offer_of(scope)
        if offer is None:
            await super().__call__(scope, receive, send)
            return
        self._recovery_session = Session(send, offer.position)
        try:
            await super().__call__(offer.scope, receive, self._recovery_session.send)
        finally:
            self._recovery_session.end()

    @property
    def offered_position(self) -> str | None:
        """The position of a browser that comes back; None for one that comes for the first time.

        Not checked yet: it proves nothing about who sends it.
        """
        return None if self._recovery_session is None else self._recovery_session.position

    @property
    def channel_receive(self) -> Receive:
        """Receives from the consumer's channel. Channels sets it when the channel is there."""
        return self._recovery_receive

    @channel_receive.setter
    def channel_receive(self, receive: Receive) -> None:
        if self._recovery_session is not None:
            receive = self._recovery_session.track(self.channel_layer, self.channel_name, receive)
        self._recovery_receive = receive

    async def dispatch(self, message: Any) -> None:
        """Call the handler of an event; before the first message, replay what was missed."""
        session = self._recovery_session
        if session is None:
            await super().dispatch(message)
            return
        kind = message.get("type")
        if kind == "kafka.gap":
            reason = message.get("reason", "")
            await session.close({"type": "websocket.close", "code": GAP, "reason": reason})
            return
        if kind == "websocket.disconnect":
            # What the application changes from here on is not to be told.
            session.end()
        if isinstance(message, Message):
            dispatch = self._recovery_handle if message.replayed else super().dispatch
            await session.handle(message, dispatch)
        else:
            await super().dispatch(message)
        if session.connected():
            await self._recovery_begin(session)
        await session.handled()

    async def _recovery_handle(self, message: Message) -> None:
        """Do what Channels' dispatch does, but leave old connections of the database alone.

        To close these, a thread is asked before each event, which takes longer than all else. A
        replay is part of one event, before which that was done.
        """
        dispatch = super().dispatch
        if getattr(dispatch, "__func__", None) is AsyncConsumer.dispatch:
            handler = getattr(self, get_handler_name(message), None)
            if handler is not None:
                await handler(message)
                return
        # A synchronous consumer's, or the application's.
        await dispatch(message)

    async def _recovery_begin(self, session: Session) -> None:
        recovery = await session.recover(self.recovery_limit)
        if recovery is not None:
            await self._recovery_replay(recovery.messages, of_history=False)
            await session.tell_verdict(recovery)
            if session.state == "recovering":
                await self._recovery_hook(
                    self.recovered if recovery.recovered else self.not_recovered, recovery
                )
        await session.go_live()

    async def _recovery_replay(self, messages: Iterable[Message], of_history: bool = True) -> None:
        session = self._recovery_session
        for number, message in enumerate(messages):
            if number and not number % _SLICE:
                await asyncio.sleep(0)
            if session is not None:
                # A handler may have closed the connection.
                if session.state == "closed":
                    return
                if of_history:
                    session.show(message)
            await self.dispatch(message)

    # Of the two mixins

    recovered: Callable[[Recovery], Any]
    not_recovered: Callable[[Recovery], Any]

    async def _recovery_hook(self, hook: Callable[[Recovery], Any], recovery: Recovery) -> None:
        raise NotImplementedError


class AsyncRecoveryConsumerMixin(_Recovering, _AsyncConsumer):  # type: ignore[misc, unused-ignore]
    """For ``AsyncWebsocketConsumer`` and its kin: a browser that comes back misses nothing.

    ``connect`` runs as always and decides who may come in; memberships made there or by ``groups``
    of the class are recovered if the browser had them before. Handlers get replayed messages as
    they get live ones, as ``kafka_layer.messages.Message``.
    """

    async def recovered(self, recovery: Recovery) -> None:
        """Go on after the last replayed message and before the first live one; nothing by default.

        Args:
            recovery: The verdict; ``messages`` were handled.
        """

    async def not_recovered(self, recovery: Recovery) -> None:
        """Load the state anew, before the first live message; nothing by default.

        The browser has been told the reason.

        Args:
            recovery: The verdict with its ``reason``.
        """

    async def replay(self, messages: Iterable[Message]) -> None:
        """Hand messages of a history to their handlers, as if they were missed.

        For a browser that knows the subprotocol, later ones that were among them are not handled
        again.

        Args:
            messages: The messages, oldest first.
        """
        await self._recovery_replay(messages)

    async def _recovery_hook(
        self, hook: Callable[[Recovery], Awaitable[None]], recovery: Recovery
    ) -> None:
        await hook(recovery)


class RecoveryConsumerMixin(_Recovering, _Consumer):  # type: ignore[misc, unused-ignore]
    """For ``WebsocketConsumer`` and its kin; otherwise as ``AsyncRecoveryConsumerMixin``."""

    def recovered(self, recovery: Recovery) -> None:
        """Go on after the last replayed message; as in ``AsyncRecoveryConsumerMixin``."""

    def not_recovered(self, recovery: Recovery) -> None:
        """Load the state anew; as in ``AsyncRecoveryConsumerMixin``."""

    def replay(self, messages: Iterable[Message]) -> None:
        """Hand messages of a history to their handlers; as in ``AsyncRecoveryConsumerMixin``."""
        async_to_sync(self._recovery_replay)(messages)

    async def _recovery_hook(self, hook: Callable[[Recovery], None], recovery: Recovery) -> None:
        await database_sync_to_async(hook)(recovery)
