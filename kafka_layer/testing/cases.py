"""Django's test cases with channel layers of their own."""

from __future__ import annotations

import secrets
import unittest
from unittest import mock

from channels.layers import channel_layers
from django.utils.module_loading import import_string

from ..layer import KafkaChannelLayer
from .memory import InMemoryKafkaChannelLayer

__all__ = ["FreshChannelLayers"]


class FreshChannelLayers(unittest.TestCase):
    """Gives every test channel layers of its own, in memory; a mixin for Django's test cases.

    It replaces this package's layers in ``CHANNEL_LAYERS``, also those on Kafka; they keep their
    settings except the prefix. So no message or job of one test reaches the next, or a broker::

        class ChatTests(FreshChannelLayers, TestCase): ...
    """

    def setUp(self) -> None:
        """Replace the layers until the test's cleanup."""
        super().setUp()
        layers = {
            alias: InMemoryKafkaChannelLayer(
                **{**config.get("CONFIG", {}), "prefix": f"test-{secrets.token_hex(8)}"}
            )
            for alias, config in channel_layers.configs.items()
            if issubclass(import_string(config["BACKEND"]), KafkaChannelLayer)
        }
        for layer in layers.values():
            self.addCleanup(layer.close_sync)
        fresh = mock.patch.dict(channel_layers.backends, layers)
        fresh.start()
        self.addCleanup(fresh.stop)
