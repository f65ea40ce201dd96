"""Mixins for websocket consumers: for users, and for recovery.

``AsyncUserConsumerMixin`` and ``UserConsumerMixin`` register the user of each connection for
``user_send``. ``AsyncRecoveryConsumerMixin`` and ``RecoveryConsumerMixin`` give a browser that
comes back the messages that it missed, or a reason why that is not possible. Inherit from them
before the consumer class, in any order::

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
    """Refuses a subclass in which a mixin would have no effect, or would break every connection."""

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

# Messages of a replay that are handled before the event loop runs other tasks.
_SLICE = 20


class AsyncUserConsumerMixin(_AsyncConsumer):  # type: ignore[misc, unused-ignore]
    """For ``AsyncWebsocketConsumer`` and its subclasses: registers the user while connected.

    With a channel layer of another package, which has no users, it registers nobody.
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
    """For ``WebsocketConsumer`` and its subclasses; otherwise as ``AsyncUserConsumerMixin``."""

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
    """The common part of the two recovery mixins: wraps Channels' receiving, dispatch and sending.

    For a browser that does not offer the subprotocol ``kafka-layer.v1`` it changes nothing.
    """

    channel_layer: KafkaChannelLayer

    recovery_limit = 300
    """Most messages that are replayed to a browser; one that missed more is not recovered."""

    # None for a browser that does not know the subprotocol.
    _recovery_session: Session | None = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Check the class's limit now, and not when a browser comes back."""
        super().__init_subclass__(**keywords)
        limit = cls.recovery_limit
        # With a property each connection has its own limit, which cannot be checked here.
        if not hasattr(limit, "__get__"):
            hint = "a browser that missed more loads its state again"
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
        """The position of a browser that comes back; None at its first connection.

        It is not checked yet, and proves nothing about its sender.
        """
        return None if self._recovery_session is None else self._recovery_session.position

    @property
    def channel_receive(self) -> Receive:
        """Receives from the consumer's channel. Channels sets it when it has opened the channel."""
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
            # Later changes of the application are not sent to the browser.
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
        """Do what Channels' dispatch does, without closing old database connections.

        Channels' dispatch does that in a thread before each event, which takes longer than
        everything else. A replay is part of one event, before which it was done.
        """
        dispatch = super().dispatch
        if getattr(dispatch, "__func__", None) is AsyncConsumer.dispatch:
            handler = getattr(self, get_handler_name(message), None)
            if handler is not None:
                await handler(message)
                return
        # The dispatch of a synchronous consumer, or of the application.
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
    """For ``AsyncWebsocketConsumer`` and its subclasses: browsers that come back miss nothing.

    ``connect`` runs as always, and decides who may connect. Groups that are joined there, or by
    ``groups`` of the class, are recovered if the browser was a member before. Handlers get replayed
    and live messages alike, as ``kafka_layer.messages.Message``.
    """

    async def recovered(self, recovery: Recovery) -> None:
        """Do what follows the last replayed message, before the first live one; to be overridden.

        Args:
            recovery: The result; its ``messages`` were handled.
        """

    async def not_recovered(self, recovery: Recovery) -> None:
        """Load the state again, before the first live message; to be overridden.

        The browser has got the reason already.

        Args:
            recovery: The result with its ``reason``.
        """

    async def replay(self, messages: Iterable[Message]) -> None:
        """Call the handlers for messages of a history, as for missed messages.

        With the subprotocol, messages that are among them and come to the channel as well are not
        handled again.

        Args:
            messages: The messages, oldest first.
        """
        await self._recovery_replay(messages)

    async def _recovery_hook(
        self, hook: Callable[[Recovery], Awaitable[None]], recovery: Recovery
    ) -> None:
        await hook(recovery)


class RecoveryConsumerMixin(_Recovering, _Consumer):  # type: ignore[misc, unused-ignore]
    """For ``WebsocketConsumer`` and its subclasses; as ``AsyncRecoveryConsumerMixin``."""

    def recovered(self, recovery: Recovery) -> None:
        """Do what follows the last replayed message; as in ``AsyncRecoveryConsumerMixin``."""

    def not_recovered(self, recovery: Recovery) -> None:
        """Load the state again; as in ``AsyncRecoveryConsumerMixin``."""

    def replay(self, messages: Iterable[Message]) -> None:
        """Call the handlers for messages of a history; as in ``AsyncRecoveryConsumerMixin``."""
        async_to_sync(self._recovery_replay)(messages)

    async def _recovery_hook(self, hook: Callable[[Recovery], None], recovery: Recovery) -> None:
        await database_sync_to_async(hook)(recovery)
