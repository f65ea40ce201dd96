"""The view on the page about users and groups: a page that repeats its request is heard once."""

from __future__ import annotations

import re
import secrets
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from channels.exceptions import ChannelFull
from django.test import RequestFactory

from kafka_layer import get_layer
from kafka_layer.exceptions import ProduceFailed
from tests.support.layers import next_messages

PAGE = Path(__file__).parents[2] / "docs" / "users-and-groups.md"


@pytest.fixture
def say(settings: Any) -> Any:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "kafka_layer.testing.InMemoryKafkaChannelLayer",
            "CONFIG": {"prefix": f"page-{secrets.token_hex(4)}"},
        }
    }
    (code,) = re.findall(r'^```python title="say.py"\n(.*?)^```$', PAGE.read_text(), re.S | re.M)
    names: dict[str, Any] = {}
    exec(compile(code, "say.py", "exec"), names)

    def request(text: str, key: str, user: int = 7) -> int:
        made = RequestFactory().post("/say", {"text": text}, headers={"idempotency-key": key})
        made.user = SimpleNamespace(pk=user)
        return int(names["say"](made).status_code)

    return request


async def test_a_request_that_is_repeated_is_heard_once(say: Any) -> None:
    layer = get_layer()
    channel = await layer.new_channel()
    await layer.group_add("room-1", channel)
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    for text, key, user in [("a", first, 7), ("a", first, 7), ("b", first, 8), ("c", second, 7)]:
        assert say(text, key, user) == 204
    assert [each["text"] for each in await next_messages(layer, channel, 3)] == ["a", "b", "c"]
    assert layer.stats().dropped == {"duplicate": 1}


@pytest.mark.parametrize("error", [ChannelFull, ProduceFailed])
def test_a_send_that_fails_is_to_be_repeated(
    say: Any, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(type(get_layer()), "group_send_sync", fail)
    assert say("a", str(uuid.uuid4())) == 503
