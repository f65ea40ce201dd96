"""The layers of this package in ``CHANNEL_LAYERS``, and their settings; contacts no broker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from channels import layers
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..config.settings import LayerConfig
from ..layer import KafkaChannelLayer

__all__ = [
    "BACKEND",
    "backend_of",
    "channel_layers",
    "config_of",
    "is_kafka_layer",
    "is_on_kafka",
]

BACKEND = "kafka_layer.layer.KafkaChannelLayer"
"""The dotted path of this package's backend."""


def channel_layers() -> Mapping[str, Mapping[str, Any]]:
    """Return the setting ``CHANNEL_LAYERS``.

    Raises:
        ImproperlyConfigured: If it is no dict of dicts.
    """
    configs = layers.channel_layers.configs
    if not isinstance(configs, Mapping) or not all(
        isinstance(each, Mapping) for each in configs.values()
    ):
        raise ImproperlyConfigured(
            "CHANNEL_LAYERS must be a dict of aliases to dicts with BACKEND and CONFIG."
        )
    return configs


def backend_of(alias: str) -> type:
    """Return the backend class of an alias of ``CHANNEL_LAYERS``, of any package.

    Raises:
        ImproperlyConfigured: If BACKEND is missing, or names no class that can be imported.
    """
    path = channel_layers()[alias].get("BACKEND")
    if not isinstance(path, str):
        raise ImproperlyConfigured(f'It has no BACKEND; for Kafka that is "{BACKEND}".')
    try:
        backend = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f'BACKEND "{path}" cannot be imported: {error}.') from None
    if not isinstance(backend, type):
        raise ImproperlyConfigured(f'BACKEND "{path}" is no class.')
    return backend


def config_of(alias: str, backend: type[KafkaChannelLayer]) -> LayerConfig:
    """Return the settings of a layer.

    Args:
        alias: Its alias in ``CHANNEL_LAYERS``.
        backend: Its class.

    Raises:
        ImproperlyConfigured: If CONFIG cannot work.
    """
    keywords = channel_layers()[alias].get("CONFIG", {})
    if not isinstance(keywords, Mapping):
        raise ImproperlyConfigured(
            f"CONFIG is a {type(keywords).__name__}; it must be a dict of keywords."
        )
    try:
        if backend.__init__ is KafkaChannelLayer.__init__:
            return backend.read_config(**keywords)
        # A subclass's constructor may take keywords of its own. It does no I/O.
        return backend(**keywords).config
    except TypeError as error:
        raise ImproperlyConfigured(f"CONFIG does not fit {backend.__name__}: {error}.") from None


def is_kafka_layer(backend: type) -> TypeGuard[type[KafkaChannelLayer]]:
    """Tell whether a backend is this package's layer, or a subclass of it."""
    return issubclass(backend, KafkaChannelLayer)


def is_on_kafka(backend: type) -> TypeGuard[type[KafkaChannelLayer]]:
    """Tell whether a backend keeps its messages in Kafka's topics."""
    # Imported by the first check: a server with the app installed needs nothing of it.
    from ..testing import InMemoryKafkaChannelLayer

    return is_kafka_layer(backend) and not issubclass(backend, InMemoryKafkaChannelLayer)
