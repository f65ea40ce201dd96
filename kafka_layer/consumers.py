"""Mixins for websocket consumers that let ``user_send`` reach the user of each connection.

Inherit from one before the consumer class::

    class Notifications(AsyncUserConsumerMixin, AsyncJsonWebsocketConsumer):
        async def notify(self, event): ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .wire.names import UserId

__all__ = ["AsyncUserConsumerMixin", "UserConsumerMixin"]

if TYPE_CHECKING:
    from asgiref.typing import WebSocketConnectEvent, WebSocketDisconnectEvent
    from channels.generic.websocket import AsyncWebsocketConsumer as _AsyncConsumer
    from channels.generic.websocket import WebsocketConsumer as _Consumer

    from .layer import KafkaChannelLayer

else:
    # A consumer class follows the mixin; only type checkers need its type.
    _AsyncConsumer = _Consumer = object


class AsyncUserConsumerMixin(_AsyncConsumer):  # type: ignore[misc, unused-ignore]
    """For ``AsyncWebsocketConsumer`` and its kin: registers the user while connected."""

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
        self._registered_user = user_id = self.get_user_id()
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
    """For ``WebsocketConsumer`` and its kin: registers the user while connected."""

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
        self._registered_user = user_id = self.get_user_id()
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
