"""The receives of a stream's worker channel: from a record of a foreign topic to a message."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from kafka_layer.config.settings import LayerConfig
from kafka_layer.delivery.wakeups import Wakeups
from kafka_layer.exceptions import UnreadableRecord
from kafka_layer.jobs.job import Job
from kafka_layer.jobs.stream_channel import StreamChannel
from kafka_layer.observe.counters import Stats
from kafka_layer.wire.topics import StreamTopic, WorkTopic
from tests.jobs.test_ack import NotedPolicy
from tests.support.messages import FakeMessage
from tests.support.waiting import PATIENCE

TOPIC = WorkTopic("orders-to-db")
# A time of the source that every message of the layer would have outlived.
LONG_AGO = 1.0


def fetched(value: bytes | None, headers: Any = None, key: bytes | None = b"7") -> FakeMessage:
    return FakeMessage("shop.orders", 3, value=value, key=key, headers=headers)


class Receives:
    """The channel, and what it counted."""

    def __init__(self, **settings: Any) -> None:
        stream = {"topic": "shop.orders", "type": "order.changed", "worker_channel": TOPIC.channel}
        config = LayerConfig.from_keywords(
            bootstrap_servers="nowhere:9092", streams={"orders": {**stream, **settings}}
        )
        self.stats = Stats("channels")
        self.channel = StreamChannel(
            TOPIC,
            config.streams["orders"],
            config.worker_settings(TOPIC.channel),
            self.stats,
            Wakeups(),
            NotedPolicy(),
        )

    def accept(self, record: FakeMessage, offset: int = 3) -> Job | None:
        return self.channel.accept(record, (TOPIC, 0, offset, LONG_AGO), self)

    async def receive(self, *jobs: Job | None) -> dict[str, Any]:
        self.channel.assign([job for job in jobs if job is not None])
        message, _ = await asyncio.wait_for(self.channel.receive(_no_read), PATIENCE)
        return message


def _no_read(mailbox: object, job: object) -> None:
    raise AssertionError("a record of a stream is no message of the layer")


def is_public(record: Any) -> bool:
    return bool(record.value["public"])


async def test_a_record_is_a_message_of_the_stream_and_never_too_old() -> None:
    receives = Receives()
    assert receives.channel.source == StreamTopic("orders", "shop.orders")
    record = fetched(b'{"id": 7}', [("trace", b"a1"), ("raw", b"\xff")])
    assert await receives.receive(receives.accept(record)) == {
        "type": "order.changed",
        "stream": "orders",
        "key": "7",
        "value": {"id": 7},
        "headers": {"trace": "a1", "raw": b"\xff"},
    }


async def test_a_flush_of_the_layer_leaves_it() -> None:
    receives = Receives()
    job = receives.accept(fetched(b"1"))
    assert receives.channel.forget_until(1e12) == 0
    assert (await receives.receive(job))["value"] == 1


async def test_a_tombstone_has_a_handler_of_its_own_or_is_for_nobody() -> None:
    assert Receives().accept(fetched(None)) is None
    receives = Receives(tombstone="order.deleted")
    message = await receives.receive(receives.accept(fetched(None)))
    assert (message["type"], message["key"], message["value"]) == ("order.deleted", "7", None)


@pytest.mark.parametrize(("public", "wanted"), [(True, True), (False, False)])
def test_where_decides_whether_a_record_is_for_anyone(public: bool, wanted: bool) -> None:
    receives = Receives(where=is_public)
    job = receives.accept(fetched(json.dumps({"public": public}).encode()))
    assert (job is not None) is wanted
    assert not receives.stats.by_name("dropped")


POISON = [fetched(b"no JSON"), fetched(b"{}", key=b"\xff"), fetched(b"{}", UnicodeError("name"))]


@pytest.mark.parametrize("record", POISON, ids=["value", "key", "headers"])
def test_a_poison_record_is_skipped_and_counted(record: FakeMessage) -> None:
    receives = Receives()
    assert receives.accept(record) is None
    assert receives.stats.by_name("dropped") == {"undecodable": 1}


async def test_a_channel_that_is_to_stop_ends_every_receive_with_the_place() -> None:
    receives = Receives(on_error="stop")
    waiting = asyncio.ensure_future(receives.channel.receive(_no_read))
    await asyncio.sleep(0)
    with pytest.raises(UnreadableRecord) as caught:
        receives.accept(POISON[0])
    receives.channel.stop(caught.value, (TOPIC, 2, 17, LONG_AGO))
    for receive in (waiting, receives.channel.receive(_no_read)):
        with pytest.raises(UnreadableRecord, match=r"shop\.orders\[2\] offset 17.*no JSON"):
            await asyncio.wait_for(receive, PATIENCE)
    assert receives.stats.by_name("errors") == {"stream_stopped": 1}
    assert not receives.stats.by_name("dropped")
