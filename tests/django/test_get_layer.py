"""kafka_layer.get_layer: the layers of CHANNEL_LAYERS with a type."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from channels.layers import get_channel_layer
from django.core.exceptions import ImproperlyConfigured

import kafka_layer

MEMORY = {"BACKEND": "kafka_layer.testing.InMemoryKafkaChannelLayer"}
OTHER = {"BACKEND": "channels.layers.InMemoryChannelLayer"}


def test_it_is_the_layer_that_channels_gives(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": MEMORY, "chat": {**MEMORY, "CONFIG": {"prefix": "chat"}}}

    assert kafka_layer.get_layer() is get_channel_layer()
    assert kafka_layer.get_layer("chat").config.prefix == "chat"


@pytest.mark.parametrize("alias", ["default", "missing"])
def test_it_says_what_the_alias_is_instead(settings: Any, alias: str) -> None:
    settings.CHANNEL_LAYERS = {"default": OTHER}

    with pytest.raises(ImproperlyConfigured, match=rf"CHANNEL_LAYERS\['{alias}'\] is .*in tests"):
        kafka_layer.get_layer(alias)


@pytest.mark.slow
def test_the_package_can_be_imported_before_django_has_settings() -> None:
    code = "import sys, kafka_layer; sys.exit('channels' in sys.modules)"

    subprocess.run([sys.executable, "-c", code], check=True, timeout=250)
