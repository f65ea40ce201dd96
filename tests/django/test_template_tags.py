"""The template tag that names the position of a page."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from django.template.backends.django import DjangoTemplates

from kafka_layer import get_layer
from kafka_layer.config.timings import Timings
from kafka_layer.layer import KafkaChannelLayer

MEMORY = "kafka_layer.testing.InMemoryKafkaChannelLayer"


class HastyLayer(KafkaChannelLayer):
    timings = Timings(start=0.2, history=0.4, history_answer=0.2)


@pytest.fixture(autouse=True)
def layers(settings: Any) -> None:
    config = {"prefix": f"tags-{secrets.token_hex(4)}"}
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": MEMORY, "CONFIG": config},
        "other": {"BACKEND": MEMORY, "CONFIG": {"prefix": f"{config['prefix']}-other"}},
    }


def rendered(text: str, **context: Any) -> str:
    engine = DjangoTemplates({"NAME": "test", "DIRS": [], "APP_DIRS": False, "OPTIONS": {}})
    return str(engine.from_string("{% load kafka_layer %}" + text).render(context))


def test_what_is_sent_after_it_is_the_history_since_then() -> None:
    layer = get_layer()
    layer.group_send_sync("room-7", {"n": 1})
    position = rendered("{% layer_position group %}", group="room-7")
    layer.group_send_sync("room-7", {"n": 2})
    assert layer.group_history_sync("room-7", since=position).messages == [{"n": 2}]


def test_it_can_use_another_layer() -> None:
    position = rendered('{% layer_position "room-7" using="other" %}')
    other = get_layer("other")
    other.group_send_sync("room-7", {"n": 1})
    assert other.group_history_sync("room-7", since=position).messages == [{"n": 1}]
    with pytest.raises(ValueError, match="prefix"):
        get_layer().group_history_sync("room-7", since=position)


def test_it_needs_no_escape_in_html() -> None:
    position = rendered("{% autoescape on %}{% layer_position 'room-7' %}{% endautoescape %}")
    assert position
    assert not set(position) & set("&<>\"'")


def test_without_a_broker_a_page_is_rendered_with_an_empty_position(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": f"{__name__}.HastyLayer",
            "CONFIG": {"bootstrap_servers": "127.0.0.1:1", "client_config": {"log_level": 0}},
        }
    }
    with pytest.warns(RuntimeWarning, match="use the Kafka of CHANNEL_LAYERS"):
        assert rendered('[{% layer_position "room" %}]') == "[]"
    get_layer().close_sync()
