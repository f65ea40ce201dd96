"""``manage.py kafka_status`` on a real broker."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import pytest
from channels.layers import channel_layers
from django.core.management import CommandError, call_command
from django.test import override_settings

from kafka_layer.layer import KafkaChannelLayer
from tests.support.records import create_topic, produce
from tests.support.waiting import wait_until

WAITS = ("0.5", "5", "20")
"""How long servers are waited for: as long as their machine needs."""

MEMORY = "kafka_layer.testing.InMemoryKafkaChannelLayer"


def status(*options: str) -> tuple[Any, CommandError | None]:
    out, error = io.StringIO(), None
    try:
        call_command("kafka_status", "--json", *options, stdout=out)
    except CommandError as caught:
        error = caught
    return (json.loads(out.getvalue()) if out.getvalue() else None), error


def status_by(*layers: KafkaChannelLayer) -> tuple[Any, CommandError | None]:
    """Return what the command says once it heard of these servers."""
    for wait in WAITS:
        reports, error = status("--wait", wait)
        told = {each["server"] for each in reports[0]["servers"]}
        if told >= {layer.stats().server for layer in layers}:
            break
    return reports, error


def text_by(*layers: KafkaChannelLayer) -> str:
    """Return what the command writes for people, once it heard of these servers."""
    for wait in WAITS:
        out = io.StringIO()
        call_command("kafka_status", "--wait", wait, stdout=out)
        if all(layer.stats().server in out.getvalue() for layer in layers):
            break
    return out.getvalue()


@pytest.fixture
def configured(kafka: str, prefix: str) -> Any:
    config = {"bootstrap_servers": kafka, "prefix": prefix, "default_partitions": 2}
    layers = {"default": {"BACKEND": "kafka_layer.layer.KafkaChannelLayer", "CONFIG": config}}
    with override_settings(CHANNEL_LAYERS=layers):
        yield config


def test_missing_topics_are_a_problem(configured: dict[str, Any]) -> None:
    reports, error = status()
    assert error is not None
    assert error.returncode == 3
    assert f"topic {configured['prefix']}-ack is missing" in str(error)
    assert reports[0]["round_trip"] is None


def test_a_layer_that_is_well(configured: dict[str, Any]) -> None:
    layer: KafkaChannelLayer = channel_layers["default"]
    try:
        layer.round_trip_sync()
        for number in range(7):
            layer.send_sync("jobs", {"n": number})
        wait_until(lambda: not layer.stats().queued, "the jobs to be written")
        reports, error = status_by(layer)
        assert error is None
        (report,) = reports
        assert report["round_trip"] > 0
        assert len(report["topics"]) == 6
        assert [told["server"] for told in report["servers"]] == [layer.stats().server]
        assert report["work"] == [
            {"topic": f"{configured['prefix']}-work.jobs", "waiting": 7, "members": 0}
        ]
        out = io.StringIO()
        call_command("kafka_status", "--wait", "0.1", stdout=out)
        assert "Round trip: " in out.getvalue()
        assert f"{configured['prefix']}-work.jobs" in out.getvalue()
    finally:
        layer.close_sync()


def test_each_stream_of_each_server(configured: dict[str, Any], prefix: str) -> None:
    configured["streams"] = {"orders": {"topic": prefix, "group": "all", "type": "order.changed"}}
    layer: KafkaChannelLayer = channel_layers["default"]
    try:
        channel = asyncio.run(layer.new_channel())
        wait_until(lambda: layer.stats().streams["orders"]["state"] == "waiting", "a look")
        reports, error = status_by(layer)
        (server,) = reports[0]["servers"]
        assert server["streams"]["orders"]["partitions"] == 0
        assert error is not None
        assert error.returncode == 3
        assert f"stream orders is waiting on {layer.stats().server} (topic {prefix}" in str(error)
        create_topic(layer.config.bootstrap_servers, prefix, 2)
        wait_until(lambda: layer.stats().streams["orders"]["state"] == "reading", "the topic")
        out = text_by(layer)
        row = next(line for line in out.splitlines() if " orders " in line)
        assert row.split()[1:6] == [layer.stats().server, "reading", "1", "2", "0"]
        assert channel
    finally:
        layer.close_sync()


def test_what_each_server_read_and_could_not_read(
    configured: dict[str, Any], kafka: str, prefix: str
) -> None:
    configured["streams"] = {"orders": {"topic": prefix, "group": "all", "type": "order.changed"}}
    create_topic(kafka, prefix, 2)
    layers: list[KafkaChannelLayer] = [channel_layers.make_backend("default") for _ in range(2)]
    reading, paused = layers
    try:
        channels = [asyncio.run(layer.new_channel()) for layer in layers]
        for layer, channel in zip(layers, channels, strict=True):
            layer.group_add_sync("all", channel)
        paused.pause_stream_sync("orders")
        produce(kafka, prefix, [b"1", b"no JSON", b"2"])
        read = {"errors": {"undecodable": 1}, "records": 3, "delivered": 2, "lag": 0}
        wait_until(lambda: read.items() <= reading.stats().streams["orders"].items(), str(read))
        reports, error = status_by(*layers)
        assert error is None
        told = {each["server"]: each["streams"]["orders"] for each in reports[0]["servers"]}
        assert read.items() <= told[reading.stats().server].items()
        # 0 again after ten seconds.
        assert told[reading.stats().server]["records_per_second"] >= 0
        assert told[paused.stats().server]["state"] == "paused"
        assert told[paused.stats().server]["records"] == 0
        out = text_by(*layers)
        heading, *rows = out.partition("  STREAM ")[2].splitlines()
        assert heading.split()[-2:] == ["DELIVERED", "ERRORS"]
        shown = {row.split()[1]: row.split()[-3:] for row in rows}
        assert shown[reading.stats().server] == ["2", "undecodable", "1"]
        assert shown[paused.stats().server][1:] == ["0", "-"]
    finally:
        for layer in layers:
            layer.close_sync()


def test_a_topic_that_differs_is_a_problem(configured: dict[str, Any]) -> None:
    call_command("kafka_setup_topics", stdout=io.StringIO())
    configured["topics"] = {"ack": {"partitions": 5}}
    _, error = status()
    assert error is not None
    assert error.returncode == 3
    assert "partitions is 2, wanted 5" in str(error)


def test_no_broker_is_an_error() -> None:
    config = {"bootstrap_servers": "127.0.0.1:1"}
    layers = {"default": {"BACKEND": "kafka_layer.layer.KafkaChannelLayer", "CONFIG": config}}
    with override_settings(CHANNEL_LAYERS=layers):
        reports, error = status("--timeout", "0.2")
    assert reports is None
    assert error is not None
    assert error.returncode == 1
    assert "No Kafka broker of 127.0.0.1:1 answered" in str(error)


@pytest.mark.parametrize("layers", [{}, {"default": {"BACKEND": MEMORY}}], ids=["none", "memory"])
def test_without_a_layer_on_kafka_it_says_so(layers: dict[str, Any]) -> None:
    out = io.StringIO()
    with override_settings(CHANNEL_LAYERS=layers):
        call_command("kafka_status", stdout=out)
    *skipped, last = out.getvalue().splitlines()
    assert [line.partition(" is skipped")[0] for line in skipped] == ["Layer 'default'"] * len(
        layers
    )
    assert last.startswith("No layer in CHANNEL_LAYERS keeps its messages in Kafka")
