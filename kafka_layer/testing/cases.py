"""Django's test cases with channel layers of their own."""

from __future__ import annotations

import contextlib
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

    What the whole class sets up, such as ``setUpTestData``, has layers of its own, too.
    """

    @classmethod
    def setUpClass(cls) -> None:
        """Replace the layers until the cleanup of the class."""
        cls.addClassCleanup(_replace_layers().close)
        super().setUpClass()

    def setUp(self) -> None:
        """Replace the layers until the test's cleanup."""
        super().setUp()
        self.addCleanup(_replace_layers().close)


def _replace_layers() -> contextlib.ExitStack:
    """Put layers in memory in place of this package's, until the stack is closed."""
    layers = {
        alias: InMemoryKafkaChannelLayer(
            **{**config.get("CONFIG", {}), "prefix": f"test-{secrets.token_hex(8)}"}
        )
        for alias, config in channel_layers.configs.items()
        if issubclass(import_string(config["BACKEND"]), KafkaChannelLayer)
    }
    replaced = contextlib.ExitStack()
    for layer in layers.values():
        replaced.callback(layer.close_sync)
    replaced.enter_context(mock.patch.dict(channel_layers.backends, layers))
    return replaced
