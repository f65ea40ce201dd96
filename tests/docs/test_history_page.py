"""The example of the page on history does what the page says."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Any

import pytest

from kafka_layer import get_layer
from kafka_layer.history import question, scan
from kafka_layer.wire.position_token import LogPosition, TopicPosition, short_hash
from kafka_layer.wire.topics import Topic

PAGE = Path(__file__).parents[2] / "docs" / "history.md"


@pytest.fixture
def example(settings: Any) -> dict[str, Any]:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "kafka_layer.testing.InMemoryKafkaChannelLayer",
            "CONFIG": {"prefix": f"page-{secrets.token_hex(4)}"},
        }
    }
    (code,) = re.findall(
        r'^```python title="catching_up.py"\n(.*?)^```$', PAGE.read_text(), re.S | re.M
    )
    names: dict[str, Any] = {}
    exec(compile(code, "catching_up.py", "exec"), names)
    return names


async def test_a_page_is_opened_and_catches_up(example: dict[str, Any]) -> None:
    layer = get_layer()
    for number in range(60):
        await layer.group_send("room", {"n": number})
    page = await example["opened"]("room")
    assert [each["n"] for each in page["messages"]] == list(range(10, 60))
    for number in range(60, 310):
        await layer.group_send("room", {"n": number})
    missed = await example["missed"]("room", page["position"])
    assert [each["n"] for each in missed["messages"]] == list(range(60, 310))
    assert missed["complete"]
    again = await example["missed"]("room", missed["position"])
    assert again == {"messages": [], "position": missed["position"], "complete": True}


def test_the_figures_of_the_page_are_those_of_the_code() -> None:
    text = PAGE.read_text()
    assert f"up to {question.MAX_LIMIT:,}" in text
    assert f"{scan.MAX_RECORDS:,} records, {scan.MAX_BYTES >> 20} MiB" in text
    place = TopicPosition("SI3g7vEeQh+PKj5jL60x2Q", (123_456,) * 3)
    topics = {Topic.SEND_GROUP: place, Topic.SEND_ALL: place}
    position = LogPosition("channels", 1.8e9, topics, frozenset({short_hash("room")}))
    assert abs(len(position.sign()) - int(re.findall(r"about (\d+) characters", text)[0])) < 15
