"""A test that forgets to override CHANNEL_LAYERS is warned before it writes to the real Kafka."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
from channels.layers import channel_layers

from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.testing import InMemoryKafkaChannelLayer


class SeeminglyReal(InMemoryKafkaChannelLayer):
    """The layer for production, with something in the place of the brokers."""

    _warn_in_tests = KafkaChannelLayer._warn_in_tests


@pytest.fixture(params=[SeeminglyReal, InMemoryKafkaChannelLayer])
def layer(request: pytest.FixtureRequest) -> Iterator[KafkaChannelLayer]:
    layer = request.param(bootstrap_servers="kafka.example:9092", prefix="real")
    yield layer
    layer.close_sync()


@pytest.mark.parametrize("configured", [True, False], ids=["of the settings", "made by the test"])
def test_the_kafka_of_the_settings_is_warned_of(
    layer: KafkaChannelLayer, configured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if configured:
        monkeypatch.setitem(channel_layers.backends, "default", layer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        layer.group_send_sync("room", {"type": "a"})
        layer.group_send_sync("room", {"type": "a"})

    texts = [str(each.message) for each in caught]
    if configured and type(layer) is SeeminglyReal:
        (text,) = texts
        assert "The tests use the Kafka of CHANNEL_LAYERS, kafka.example:9092" in text
    else:
        assert texts == []
