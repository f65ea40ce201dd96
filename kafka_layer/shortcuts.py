"""Sending with the database: after the transaction commits, and not at all after a rollback.

Outside a transaction the message goes out at once. A shortcut checks and copies names and messages
when it is called. A later failure of the send (``ChannelFull``, ``MessageTooLarge``, or the
broker's refusal with ``await_produce``) is logged and counted as ``on_commit`` in
``layer.stats().errors``: the transaction is committed by then, and an error would only keep the
later hooks from running. With ``robust=False`` the ``atomic`` block that commits raises it. Any
thread may call the shortcuts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from channels import DEFAULT_CHANNEL_LAYER
from django.db import transaction

from . import get_layer
from .delivery.tickets import run_blocking
from .layer import KafkaChannelLayer
from .wire.headers import exclude_header
from .wire.idempotency import require_key
from .wire.names import UserId, require_names, user_key

if TYPE_CHECKING:
    from .streams.producing import StreamHeaders

__all__ = [
    "all_send_on_commit",
    "group_send_on_commit",
    "produce_on_commit",
    "send_on_commit",
    "user_send_on_commit",
]


logger = logging.getLogger("kafka_layer")


def send_on_commit(
    channel: str,
    message: dict[str, Any],
    *,
    using: str | None = None,
    robust: bool = True,
    layer: str = DEFAULT_CHANNEL_LAYER,
) -> None:
    """Send a message to one channel when the transaction commits.

    Args:
        channel: A channel's name.
        message: As for ``KafkaChannelLayer.send``; it is copied now.
        using: Alias of the database; None for the default one.
        robust: Whether a send that fails is logged and counted; it raises otherwise.
        layer: Alias of the channel layer.

    Raises:
        TypeError: If the name or the message is not legal.
        ImproperlyConfigured: If there is no such layer, or it is not a KafkaChannelLayer.
    """
    backend = get_layer(layer)
    backend.require_valid_channel_name(channel)
    _on_commit(backend, using, robust, backend.send_sync, channel, _copy(backend, message))


def group_send_on_commit(
    group: str,
    message: dict[str, Any],
    *,
    exclude: Collection[str] = (),
    idempotency_key: str | None = None,
    using: str | None = None,
    robust: bool = True,
    layer: str = DEFAULT_CHANNEL_LAYER,
) -> None:
    """Send a message to a group when the transaction commits.

    Args:
        group: The group's name.
        message: As for ``KafkaChannelLayer.group_send``; it is copied now.
        exclude: Names of channels that do not get it.
        idempotency_key: As for ``KafkaChannelLayer.group_send``.
        using: Alias of the database; None for the default one.
        robust: Whether a send that fails is logged and counted; it raises otherwise.
        layer: Alias of the channel layer.

    Errors as for ``send_on_commit``.
    """
    backend = get_layer(layer)
    backend.require_valid_group_name(group)
    send = partial(backend.group_send_sync, **_options(exclude, idempotency_key))
    _on_commit(backend, using, robust, send, group, _copy(backend, message))


def user_send_on_commit(
    user_id: UserId,
    message: dict[str, Any],
    *,
    exclude: Collection[str] = (),
    idempotency_key: str | None = None,
    using: str | None = None,
    robust: bool = True,
    layer: str = DEFAULT_CHANNEL_LAYER,
) -> None:
    """Send a message to a user when the transaction commits.

    Args:
        user_id: A non-empty str, an int or a UUID.
        message: As for ``KafkaChannelLayer.user_send``; it is copied now.
        exclude: Names of channels that do not get it.
        idempotency_key: As for ``KafkaChannelLayer.group_send``.
        using: Alias of the database; None for the default one.
        robust: Whether a send that fails is logged and counted; it raises otherwise.
        layer: Alias of the channel layer.

    Errors as for ``send_on_commit``.
    """
    backend = get_layer(layer)
    user_key(user_id)
    send = partial(backend.user_send_sync, **_options(exclude, idempotency_key))
    _on_commit(backend, using, robust, send, user_id, _copy(backend, message))


def all_send_on_commit(
    message: dict[str, Any],
    *,
    exclude: Collection[str] = (),
    idempotency_key: str | None = None,
    using: str | None = None,
    robust: bool = True,
    layer: str = DEFAULT_CHANNEL_LAYER,
) -> None:
    """Send a message to every open channel when the transaction commits.

    Args:
        message: As for ``KafkaChannelLayer.all_send``; it is copied now.
        exclude: Names of channels that do not get it.
        idempotency_key: As for ``KafkaChannelLayer.group_send``.
        using: Alias of the database; None for the default one.
        robust: Whether a send that fails is logged and counted; it raises otherwise.
        layer: Alias of the channel layer.

    Errors as for ``send_on_commit``.
    """
    backend = get_layer(layer)
    send = partial(backend.all_send_sync, **_options(exclude, idempotency_key))
    _on_commit(backend, using, robust, send, _copy(backend, message))


def produce_on_commit(
    stream: str,
    value: Any,
    *,
    key: Any = None,
    headers: StreamHeaders | None = None,
    partition: int | None = None,
    using: str | None = None,
    robust: bool = True,
    layer: str = DEFAULT_CHANNEL_LAYER,
) -> None:
    """Write a record to the topic of a stream when the transaction commits.

    With a schema registry it is validated after the commit.

    Args:
        stream: The stream's name in the setting ``streams``.
        value: As for ``KafkaChannelLayer.produce``; it is copied now.
        key: As for ``KafkaChannelLayer.produce``; it is copied now.
        headers: As for ``KafkaChannelLayer.produce``.
        partition: As for ``KafkaChannelLayer.produce``.
        using: Alias of the database; None for the default one.
        robust: Whether a call that fails is logged and counted; it raises otherwise.
        layer: Alias of the channel layer.

    Raises:
        TopicError: If the settings have no such stream, or it is a pattern of topics.
        TypeError: If a codec without a registry cannot encode the value or the key, if a value or a
            key for a codec with a registry cannot be copied, or if a header has a wrong type.
        ValueError: If the partition is negative, or a header's name has a NUL.
        ImproperlyConfigured: If there is no such layer, or it is not a KafkaChannelLayer.
    """
    # Imported by the first call: most processes produce nothing.
    from .streams.producing import outgoing

    backend = get_layer(layer)
    record = outgoing(backend.config, stream, value, key, headers, partition).fixed()

    def write() -> None:
        run_blocking(backend._write(record))

    _on_commit(backend, using, robust, write)


def _on_commit(
    layer: KafkaChannelLayer,
    using: str | None,
    robust: bool,
    send: Callable[..., object],
    *arguments: object,
) -> None:
    def send_robustly() -> None:
        try:
            send(*arguments)
        except Exception:
            layer._server.stats.count("errors.on_commit")
            logger.exception("A message was not sent after the commit of its transaction")

    transaction.on_commit(send_robustly if robust else partial(send, *arguments), using=using)


def _copy(layer: KafkaChannelLayer, message: dict[str, Any]) -> dict[str, Any]:
    # Not by deepcopy(), which cannot copy a memoryview, the type of PostgreSQL's binary fields.
    return layer._codec.decode(layer._codec.encode(message))


def _options(exclude: Collection[str], idempotency_key: str | None) -> dict[str, Any]:
    require_names("exclude", exclude)
    require_key(idempotency_key)
    left_out = tuple(exclude or ())
    exclude_header(left_out)
    return {"exclude": left_out, "idempotency_key": idempotency_key}
