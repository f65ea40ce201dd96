"""A Django Channels channel layer backed by Apache Kafka topics."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .layer import KafkaChannelLayer

__all__ = ["get_layer"]

__version__ = "0.1.0"


def get_layer(alias: str = "default") -> KafkaChannelLayer:
    """Return a layer of ``CHANNEL_LAYERS``, as ``channels.layers.get_channel_layer`` does.

    Type checkers know its type, and so the methods that only this package's layers have.

    Args:
        alias: The layer's alias.

    Raises:
        ImproperlyConfigured: If there is no such layer, or it is not a KafkaChannelLayer.
    """
    # Not at the top: Django imports this package before there are settings.
    from channels.layers import get_channel_layer
    from django.core.exceptions import ImproperlyConfigured

    from .layer import KafkaChannelLayer

    layer = get_channel_layer(alias)
    if not isinstance(layer, KafkaChannelLayer):
        raise ImproperlyConfigured(
            f"CHANNEL_LAYERS[{alias!r}] is {layer!r}, and no KafkaChannelLayer "
            "(in tests: kafka_layer.testing.InMemoryKafkaChannelLayer)."
        )
    return layer
