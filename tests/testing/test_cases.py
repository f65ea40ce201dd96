"""``FreshChannelLayers``: what is sent in one test of Django's is not there in the next."""

from __future__ import annotations

import asyncio
import unittest
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from channels.layers import channel_layers, get_channel_layer
from django.test import SimpleTestCase

from kafka_layer.testing import FreshChannelLayers, InMemoryKafkaChannelLayer


@pytest.fixture(autouse=True)
def configured(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "kafka_layer.layer.KafkaChannelLayer",
            "CONFIG": {"bootstrap_servers": "nowhere:9092", "capacity": 7},
        },
        "other": {"BACKEND": "channels.layers.InMemoryChannelLayer"},
    }


def run(case: type[unittest.TestCase]) -> unittest.TestResult:
    return unittest.defaultTestLoader.loadTestsFromTestCase(case).run(unittest.TestResult())


def test_a_job_of_one_test_is_not_received_in_the_next() -> None:
    got: list[Any] = []

    class Cases(FreshChannelLayers, SimpleTestCase):
        def receive(self) -> None:
            layer: Any = get_channel_layer()
            layer.send_sync("jobs", {"of": self.id()})
            got.append(async_to_sync(layer.receive)("jobs"))
            layer.send_sync("jobs", {"of": "an earlier test"})

        def test_one(self) -> None:
            self.receive()

        def test_two(self) -> None:
            self.receive()

        async def test_three(self) -> None:
            layer: Any = get_channel_layer()
            await layer.send("jobs", {"of": self.id()})
            got.append(await asyncio.wait_for(layer.receive("jobs"), 10))

    result = run(Cases)
    assert (result.testsRun, result.errors, result.failures) == (3, [], [])
    assert len({each["of"] for each in got}) == 3
    assert {"of": "an earlier test"} not in got


def test_layers_of_this_package_are_in_memory_with_their_settings_and_others_stay() -> None:
    found: dict[str, Any] = {}
    before = channel_layers["other"]

    class Cases(FreshChannelLayers, SimpleTestCase):
        def test_it(self) -> None:
            found.update(default=channel_layers["default"], other=channel_layers["other"])

    assert run(Cases).wasSuccessful()
    assert isinstance(found["default"], InMemoryKafkaChannelLayer)
    assert found["default"].config.capacity == 7
    assert found["other"] is before
    assert "default" not in channel_layers.backends


def test_what_the_class_sets_up_uses_no_kafka_and_reaches_no_test() -> None:
    """As a ``post_save`` that sends, in ``setUpTestData``."""
    found: list[Any] = []

    class Cases(FreshChannelLayers, SimpleTestCase):
        @classmethod
        def setUpClass(cls) -> None:
            super().setUpClass()
            found.append(get_channel_layer())
            found[0].send_sync("jobs", {"of": "the class"})

        def test_it(self) -> None:
            found.append(get_channel_layer())

    assert run(Cases).wasSuccessful()
    for_class, for_test = found
    assert isinstance(for_class, InMemoryKafkaChannelLayer)
    assert for_test is not for_class
    assert for_test.config.prefix != for_class.config.prefix
    assert "default" not in channel_layers.backends
