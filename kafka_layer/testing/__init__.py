"""For the tests of projects that use the layer: no broker, or one inside the process.

In the settings of a test run::

    CHANNEL_LAYERS = {"default": {"BACKEND": "kafka_layer.testing.InMemoryKafkaChannelLayer"}}

Every layer with the same prefix is a server of its own on the same topics, so two layers act as
two servers. Only Kafka is missing; everything else is the code that runs in production.
"""

from __future__ import annotations

from .cases import FreshChannelLayers
from .embedded import EmbeddedBroker
from .memory import InMemoryBackplane, InMemoryKafkaChannelLayer

__all__ = ["EmbeddedBroker", "FreshChannelLayers", "InMemoryBackplane", "InMemoryKafkaChannelLayer"]
