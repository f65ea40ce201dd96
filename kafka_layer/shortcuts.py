"""Sending with the database: after the transaction commits, and not at all after a rollback.

Outside a transaction the message goes out at once. Names and messages are checked and copied when
a shortcut is called; what can go wrong later (``ChannelFull``, or the broker's refusal with
``await_produce``) comes out of the ``atomic`` block that commits. Any thread may call them.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from functools import partial
from typing import Any

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import get_channel_layer
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from .layer import KafkaChannelLayer
from .wire.names import user_key

__all__ = [
    "all_send_on_commit",
    "group_send_on_commit",
    "send_on_commit",
    "user_send_on_commit",
]


def send_on_commit(
    channel: str,
    message: dict[str, Any],
    *,
    using: str | None = None,
    layer: str = DEFAULT_CHANNEL_LAYER,
) -> None:
    """Send a message to one channel when the transaction commits.

    Args:
        channel: A channel's name.
        message: As for ``KafkaChannelLayer.send``; it is copied now.
        using: Alias of the database; None for the default one.
        layer: Alias of the channel layer.

    Raises:
        TypeError: If the name or the message is not legal.
        ImproperlyConfigured: If there is no such layer, or it is not a KafkaChannelLayer.
    """
    backend = _layer(layer)
    backend.require_valid_channel_name(channel)
    transaction.on_commit(partial(backend.send_sync, channel, _copy(backend, message)), using=using)


def group_send_on_commit(
    group: str,
    message: dict[str, Any],
    *,
    exclude: Collection[str] = (),
    using: str | None = None,
    layer: str = DEFAULT_CHANNEL_LAYER,
) -> None:
    """Send a message to a group when the transaction commits.

    Args:
        group: The group's name.
        message: As for ``KafkaChannelLayer.group_send``; it is copied now.
        exclude: Names of channels that do not get it.
        using: Alias of the database; None for the default one.
        layer: Alias of the channel layer.

    Errors as for ``send_on_commit``.
    """
    backend = _layer(layer)
    backend.require_valid_group_name(group)
    transaction.on_commit(
        partial(backend.group_send_sync, group, _copy(backend, message), exclude=_names(exclude)),
        using=using,
    )


def user_send_on_commit(
    user_id: str | int,
    message: dict[str, Any],
    *,
    exclude: Collection[str] = (),
    using: str | None = None,
    layer: str = DEFAULT_CHANNEL_LAYER,
) -> None:
    """Send a message to a user when the transaction commits.

    Args:
        user_id: A non-empty str or an int.
        message: As for ``KafkaChannelLayer.user_send``; it is copied now.
        exclude: Names of channels that do not get it.
        using: Alias of the database; None for the default one.
        layer: Alias of the channel layer.

    Errors as for ``send_on_commit``.
    """
    backend = _layer(layer)
    user_key(user_id)
    transaction.on_commit(
        partial(backend.user_send_sync, user_id, _copy(backend, message), exclude=_names(exclude)),
        using=using,
    )


def all_send_on_commit(
    message: dict[str, Any],
    *,
    exclude: Collection[str] = (),
    using: str | None = None,
    layer: str = DEFAULT_CHANNEL_LAYER,
) -> None:
    """Send a message to every open channel when the transaction commits.

    Args:
        message: As for ``KafkaChannelLayer.all_send``; it is copied now.
        exclude: Names of channels that do not get it.
        using: Alias of the database; None for the default one.
        layer: Alias of the channel layer.

    Errors as for ``send_on_commit``.
    """
    backend = _layer(layer)
    transaction.on_commit(
        partial(backend.all_send_sync, _copy(backend, message), exclude=_names(exclude)),
        using=using,
    )


def _layer(alias: str) -> KafkaChannelLayer:
    layer = get_channel_layer(alias)
    if not isinstance(layer, KafkaChannelLayer):
        raise ImproperlyConfigured(
            f"CHANNEL_LAYERS[{alias!r}] is {layer!r}; the shortcuts need a KafkaChannelLayer "
            "(in tests: kafka_layer.testing.InMemoryKafkaChannelLayer)."
        )
    return layer


def _copy(layer: KafkaChannelLayer, message: dict[str, Any]) -> dict[str, Any]:
    layer.require_valid_message(message)
    return copy.deepcopy(message)


def _names(exclude: Collection[str]) -> tuple[str, ...]:
    if isinstance(exclude, (str, bytes)):
        raise TypeError(f"exclude must be a collection of names, not {exclude!r}.")
    return tuple(exclude)
