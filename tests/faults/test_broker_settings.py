"""Brokers with settings that others may have made: short idle times, small segments."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from channels.exceptions import MessageTooLarge
from confluent_kafka.admin import AdminClient
from django.core.management import CommandError, call_command

from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.timings import Timings
from kafka_layer.exceptions import TopicError
from kafka_layer.kafka.topics import TopicWatch, read_answers
from kafka_layer.signals import connection_changed
from tests.faults.conftest import LayersOn
from tests.support import records
from tests.support.kafka import STEADY, RealBroker
from tests.support.layers import Layers, next_message, stats_of
from tests.support.patience import START
from tests.support.waiting import wait_until

MIB = 1 << 20
POLICY = Path(__file__).parents[1] / "support" / "policy"
# What MSK Serverless needs, and a broker with a policy of its own may.
LEFT_OUT = {"segment.ms": None}


@pytest.fixture(scope="module")
def hasty(real_broker_tools: None) -> Iterator[RealBroker]:
    """A broker that closes connections after half a second, and whose segments hold 1 MiB.

    It creates each topic that a client asks for, if the client does not forbid that, but refuses a
    ``segment.ms`` for topics that begin with "refused". It knows the classic protocol of worker
    groups only.
    """
    properties = {
        **STEADY,
        "group.coordinator.rebalance.protocols": "classic",
        "connections.max.idle.ms": 500,
        "auto.create.topics.enable": "true",
        "log.segment.bytes": MIB,
        "create.topic.policy.class.name": "RefuseSegmentMs",
    }
    with RealBroker(properties, class_path=POLICY) as broker:
        yield broker


@pytest.fixture
def make_layer(hasty: RealBroker, layers_on: LayersOn) -> Layers:
    return layers_on(hasty.bootstrap_servers)


@pytest.fixture
def changes() -> Iterator[list[bool]]:
    """What is told of the connection, in its order."""
    told: list[bool] = []

    def note(connected: bool, **_: Any) -> None:
        told.append(connected)

    connection_changed.connect(note)
    yield told
    connection_changed.disconnect(note)


def test_no_question_about_a_missing_topic_creates_it(hasty: RealBroker) -> None:
    servers = hasty.bootstrap_servers
    watch = TopicWatch(LayerConfig.from_keywords(bootstrap_servers=servers))

    def ask() -> bool:
        return "missing" in read_answers(watch.ask(["missing"], 0.3), 2.0)[1]

    wait_until(ask, "an answer", START)
    hasty.freeze()
    # One that is not answered makes the next one look for another broker, with a request more.
    assert not ask()
    hasty.thaw()
    wait_until(ask, "an answer", START)
    watch.close()
    # The controller has done before what it was asked before.
    records.create_topic(servers, "made")
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    assert "missing" not in admin.list_topics(timeout=START).topics


async def test_connections_that_a_broker_closes_as_idle_are_no_outage(
    make_layer: Layers, changes: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    # No look at the topics keeps a connection alive.
    make_layer.timings = Timings(topics=3600.0, look=3600.0)
    here, there = make_layer(), make_layer()
    channel = await there.new_channel()
    await there.group_add("room", channel)
    for number in range(2):
        await here.group_send("room", {"n": number})
        assert (await next_message(there, channel))["n"] == number
        await asyncio.sleep(1.5)  # the connections are idle for longer than the broker allows
        assert there.stats().state == here.stats().state == "connected"
    assert not changes
    assert "No Kafka broker" not in caplog.text
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


@pytest.mark.parametrize("size", [MIB + 1, 2 * MIB])
async def test_a_message_larger_than_a_segment_is_too_large(make_layer: Layers, size: int) -> None:
    make: Callable[..., Any] = make_layer
    topics = {"send-group": {"config": {"max.message.bytes": str(4 * MIB)}}}
    layer = make(prefix="segments", await_produce=True, topics=topics)
    with pytest.raises(MessageTooLarge, match=r"segment\.bytes"):
        await layer.group_send("room", {"bulk": "x" * size})
    assert stats_of(layer)["failed"] == 1


async def test_a_topic_config_that_a_broker_refuses_is_left_out_with_none(
    make_layer: Layers,
) -> None:
    make: Callable[..., Any] = make_layer
    with pytest.raises(TopicError, match=r"segment\.ms cannot be set here.*default_topic_config"):
        await make(prefix="refused-first").new_channel()

    here, there = (make(prefix="refused", default_topic_config=LEFT_OUT) for _ in range(2))
    channel = await there.new_channel()
    await here.group_add("room", channel)
    await here.group_send("room", {"n": 1})
    await here.send("jobs", {"n": 2})
    assert await next_message(there, channel) == {"n": 1}
    assert await next_message(there, "jobs") == {"n": 2}


async def test_a_broker_without_kip_848_is_told_apart_at_once(make_layer: Layers) -> None:
    # Long, so that what a slow machine takes is far less.
    make_layer.timings = Timings(start=4 * START)
    layer = make_layer(worker_group_protocol="consumer")
    await layer.send("jobs", {"n": 1})
    started = time.monotonic()
    with pytest.raises(TopicError, match="worker_group_protocol"):
        await layer.receive("jobs")
    # By the broker's own error: without one the group is asked after 0.3 of a start's time.
    assert time.monotonic() - started < 0.3 * make_layer.timings.start
    # The message waits for a worker that is set up well.
    assert await next_message(make_layer(), "jobs") == {"n": 1}


def test_topics_are_set_up_without_what_a_broker_refuses(hasty: RealBroker, settings: Any) -> None:
    def set_up(prefix: str, left_out: dict[str, Any], *options: str) -> list[str]:
        config = {
            "bootstrap_servers": hasty.bootstrap_servers,
            "prefix": prefix,
            "default_topic_config": left_out,
        }
        backend = "kafka_layer.layer.KafkaChannelLayer"
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": config}}
        printed = io.StringIO()
        call_command("kafka_setup_topics", "--json", *options, stdout=printed)
        (layer,) = json.loads(printed.getvalue())["layers"]
        return [row["status"] for row in layer["rows"]]

    with pytest.raises(CommandError, match=r"segment\.ms cannot be set here"):
        set_up("refused-second", {})
    assert set_up("refused-third", LEFT_OUT) == ["created"] * 6
    assert set_up("refused-third", LEFT_OUT, "--check") == ["as wanted"] * 6
