"""``manage.py kafka_console`` on a real broker, beside other programs."""

from __future__ import annotations

import io
import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from kafka_layer.config.settings import LayerConfig
from kafka_layer.config.timings import Timings
from kafka_layer.kafka.tail import Tail
from kafka_layer.layer import KafkaChannelLayer
from tests.support.layers import Layers
from tests.support.records import create_topic, produce, produce_keyed
from tests.support.waiting import wait_until

KEY = "a key of sixteen bytes or more"


@pytest.fixture
def topic(kafka: str) -> str:
    """A topic that is not the layer's."""
    name = f"shop.{secrets.token_hex(4)}"
    create_topic(kafka, name, 2)
    return name


@pytest.fixture
def config(kafka: str, topic: str, prefix: str) -> Iterator[dict[str, Any]]:
    """The CONFIG of the project's layer, with a stream."""
    stream = {"topic": topic, "type": "order.changed", "group": "order-{key}"}
    config = {
        "bootstrap_servers": kafka,
        "prefix": prefix,
        "default_partitions": 1,
        "streams": {"orders": stream},
        "symmetric_encryption_keys": [KEY],
    }
    layers = {"default": {"BACKEND": "kafka_layer.layer.KafkaChannelLayer", "CONFIG": config}}
    with override_settings(CHANNEL_LAYERS=layers):
        yield config


def console(*arguments: str) -> list[dict[str, Any]]:
    out = io.StringIO()
    call_command("kafka_console", *arguments, "--json", stdout=out, stderr=io.StringIO())
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_it_shows_what_another_program_wrote(
    config: dict[str, Any], kafka: str, topic: str
) -> None:
    written = [(b"7", b'{"n": 1}'), (b"8", b'{"n": 2}'), (b"7", b"no JSON"), (b"7", b'{"n": 3}')]
    produce_keyed(kafka, topic, written)
    lines = console("orders", "--from", "earliest", "--key", "7", "--limit", "3")
    assert [line["key"] for line in lines] == ["7"] * 3
    assert [line.get("to") for line in lines] == [["order-7"], None, ["order-7"]]
    assert "no JSON" in lines[1]["error"]
    # From there on, of that partition; by Kafka's name the settings do not say how to decode.
    partition, offset = lines[1]["partition"], lines[1]["offset"]
    arguments = ("--from", str(offset), "--partition", str(partition), "--limit", "2")
    assert [line["value"] for line in console(topic, *arguments)] == ["no JSON", {"n": 3}]
    assert console(topic, "--from", "-5m", "--limit", "4")
    with pytest.raises(CommandError, match="is no stream of the settings"):
        console("no-such-topic")


def test_it_sends_what_it_was_given(
    config: dict[str, Any], topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('7: {"n": 1}\n8: null\n'))
    sent = console("orders", "--send")
    shown = console("orders", "--from", "earliest", "--limit", "2")
    assert {(line["key"], line["offset"]) for line in sent} == {
        (line["key"], line["offset"]) for line in shown
    }
    assert {line["key"]: line["value"] for line in shown} == {"7": {"n": 1}, "8": None}


def test_it_shows_what_is_sent_to_a_group_encrypted(
    config: dict[str, Any], make_layer: Layers
) -> None:
    layer: KafkaChannelLayer = make_layer(
        config["prefix"], default_partitions=1, symmetric_encryption_keys=[KEY], await_produce=True
    )
    layer.group_send_sync("hall", {"type": "other"})
    layer.group_send_sync("room-7", {"type": "chat", "text": "ü"}, exclude=["a.1-ab!c"])
    (line,) = console("--group", "room-7", "--from", "earliest", "--limit", "1")
    assert line["value"] == {"type": "chat", "text": "ü"}
    assert line["headers"] == {"exclude": ["a.1-ab!c"]}


def test_a_topic_that_comes_later_is_read_from_its_first_record(kafka: str) -> None:
    name = f"later.{secrets.token_hex(4)}"
    config = replace(
        LayerConfig.from_keywords(bootstrap_servers=kafka), timings=Timings(topics=0.1)
    )
    with Tail(config, lambda topic: topic.startswith(name), "latest") as tail:
        tail.look()
        assert not tail.partitions
        create_topic(kafka, f"{name}.a")
        produce(kafka, f"{name}.a", [b"first"])
        (record,) = wait_until(tail.read, "the record", 30)
        assert record.value == b"first"


# What a shell starts in the background ignores SIGINT, and so do its children.
PROGRAM = """
import signal, sys, django
from django.conf import settings
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.configure(
    INSTALLED_APPS=["kafka_layer"],
    CHANNEL_LAYERS={"default": {"BACKEND": "kafka_layer.layer.KafkaChannelLayer", "CONFIG": {
        "bootstrap_servers": sys.argv.pop(1), "streams": {"orders": {"topic": sys.argv.pop(1)}}}}},
)
django.setup()
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "kafka_console", *sys.argv[1:]])
"""


class TestProcess:
    """As from a shell: it ends by Ctrl-C or with the program that reads its output."""

    def start(self, kafka: str, topic: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, kafka, topic, "orders", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def test_it_follows_the_topic_until_ctrl_c(self, kafka: str, topic: str) -> None:
        with self.start(kafka, topic, "--json") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert b"Reading" in process.stderr.readline()
            produce(kafka, topic, [b'{"n": 1}'])
            assert json.loads(process.stdout.readline())["value"] == {"n": 1}
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            assert process.stderr.read() == b""

    def test_it_ends_with_the_pipe(self, kafka: str, topic: str) -> None:
        with self.start(kafka, topic) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert b"Reading" in process.stderr.readline()
            process.stdout.close()

            def ended() -> bool:
                produce(kafka, topic, [b'{"n": 1}'])
                return process.poll() is not None

            wait_until(ended, "the console to end", 60)
            assert process.returncode == 0
            assert process.stderr.read() == b""
