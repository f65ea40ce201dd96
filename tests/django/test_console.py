"""``manage.py kafka_console`` without a broker: its arguments, lines and colours."""

from __future__ import annotations

import argparse
import datetime
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from kafka_layer.config.settings import LayerConfig
from kafka_layer.exceptions import TopicError
from kafka_layer.kafka.tail import TailedRecord
from kafka_layer.layer import KafkaChannelLayer
from kafka_layer.management.commands import kafka_console
from kafka_layer.management.console import (
    Line,
    as_json,
    as_text,
    object_of,
    parse_line,
    parse_start,
    show_any,
    show_group,
    show_stream,
)
from kafka_layer.messages import Position
from kafka_layer.streams.codecs import CODECS
from kafka_layer.wire.codec import Codec
from kafka_layer.wire.encryption import Encryption
from kafka_layer.wire.topics import Topic
from tests.support.tables import for_each

NOON = datetime.datetime(2026, 11, 28, 12, tzinfo=datetime.timezone.utc)
STREAMS = {
    "orders": {"topic": "shop.orders", "type": "order.changed", "group": "order-{key}"},
    "notes": {"topic": "shop.notes", "value": "str"},
    "every": {"topic": r"^shop\..*"},
}
CONFIG = LayerConfig.from_keywords(bootstrap_servers="nowhere:9092", streams=STREAMS)


def record(
    value: bytes | None = b'{"n": 1}', key: bytes | None = b"7", *headers: tuple[str, bytes | None]
) -> TailedRecord:
    return TailedRecord("shop.orders", 2, 17, NOON.timestamp(), key, value, headers)


def plain(role: str, text: str) -> str:
    return text


class TestStarts:
    @for_each(
        ("text", "start"),
        [
            ("latest", "latest"),
            ("earliest", "earliest"),
            ("-5m", datetime.timedelta(minutes=5)),
            ("1.5h", datetime.timedelta(minutes=90)),
            ("42", 42),
            ("2026-11-28T12:00:00Z", NOON),
            ("2026-11-28T13:00+01:00", NOON),
        ],
    )
    def test_each_kind(self, text: str, start: Any) -> None:
        assert parse_start(text) == start

    def test_a_time_without_a_zone_is_this_machines(self) -> None:
        start = parse_start("2026-11-28")
        assert isinstance(start, datetime.datetime)
        assert start.utcoffset() is not None

    @pytest.mark.parametrize("text", ["soon", "99999999999d", "-5"])
    def test_nothing_else(self, text: str) -> None:
        with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is neither latest"):
            parse_start(text)


class TestLines:
    @for_each(
        ("text", "line"),
        [
            ('7: {"a": 1}', Line("7", '{"a": 1}')),
            ("7:x:y", Line("7", "x:y")),
            ('{"a": 1}', Line(None, '{"a": 1}')),
            ("[1, 2]", Line(None, "[1, 2]")),
            ('"a: b": 1', Line("a: b", "1")),
            ('"text"', Line(None, '"text"')),
            ("42", Line(None, "42")),
        ],
    )
    def test_a_key_and_a_value(self, text: str, line: Line) -> None:
        assert parse_line(text) == line

    def test_what_a_codec_takes_of_a_text(self) -> None:
        assert object_of(CODECS["str"], "7") == "7"
        assert object_of(CODECS["bytes"], "ü") == "ü".encode()
        assert object_of(CODECS["json"], '{"a": 1}') == {"a": 1}
        assert object_of(CODECS["msgpack"], "null") is None
        with pytest.raises(ValueError, match="is no JSON"):
            object_of(CODECS["json"], '{"a": 1')


class TestShown:
    def test_a_record_of_a_stream_with_whom_it_is_for(self) -> None:
        shown = show_stream(CONFIG.streams["orders"], record(b'{"n": 1}', b"7", ("trace", b"a1")))
        assert as_text(shown, plain).split("  ")[1:] == [
            "shop.orders[2]@17",
            '7: {"n": 1}',
            "(trace=a1)",
            "-> order-7",
        ]
        assert json.loads(as_json(shown)) == {
            "topic": "shop.orders",
            "partition": 2,
            "offset": 17,
            "timestamp": NOON.timestamp(),
            "key": "7",
            "value": {"n": 1},
            "headers": {"trace": "a1"},
            "to": ["order-7"],
        }

    def test_a_record_that_cannot_be_read(self) -> None:
        shown = show_stream(CONFIG.streams["orders"], record(b"\xffno JSON"))
        assert shown.to == []
        assert "is no JSON" in shown.error
        line = json.loads(as_json(shown))
        assert line["value"] == {"base64": "/25vIEpTT04="}
        assert line["error"] == shown.error
        assert r"7: b'\xffno JSON'" in as_text(shown, plain)

    def test_a_tombstone(self) -> None:
        shown = show_stream(CONFIG.streams["orders"], record(None))
        assert "7: (tombstone)" in as_text(shown, plain)
        assert shown.to == []

    @pytest.mark.parametrize(
        ("value", "shown"), [(b'{"n": 1}', {"n": 1}), (b"text", "text"), (b"\xff", b"\xff")]
    )
    def test_a_topic_of_which_the_settings_say_nothing(self, value: bytes, shown: Any) -> None:
        assert show_any(record(value)).value == shown

    def test_a_record_commands_no_terminal(self) -> None:
        text = as_text(show_any(record(b"\x1b[2Jgone \xe2\x80\xae", b"\x07")), plain)
        assert r"\x07: \x1b[2Jgone \u202e" in text
        assert "\n" not in as_json(show_any(record(b"a\nb")))

    def test_a_producer_may_write_any_time(self) -> None:
        assert as_text(show_any(record()._replace(timestamp=9e18)), plain).startswith("9e+18 ")

    def test_what_json_does_not_have_is_text(self) -> None:
        shown = show_any(record())._replace(value={1: float("nan"), "b": (b"\x00", float("inf"))})
        value = json.loads(as_json(shown))["value"]
        assert value == {"1": "nan", "b": [{"base64": "AA=="}, "inf"]}


class TestGroups:
    @pytest.mark.parametrize("keys", [(), (b"secret",)])
    def test_a_message_to_a_group_of_the_layer(self, keys: tuple[bytes, ...]) -> None:
        codec, encryption = Codec("msgpack"), Encryption(keys)
        value = encryption.encrypt(Topic.SEND_GROUP, "room", codec.encode({"type": "x"}))
        sent = record(value, b"room", ("exclude", b"a!1,b!2"))
        shown = show_group("room", codec, encryption, sent)
        assert shown is not None
        assert (shown.key, shown.value) == ("room", {"type": "x"})
        assert shown.headers == {"exclude": ["a!1", "b!2"]}
        assert show_group("hall", codec, encryption, sent) is None

    def test_one_that_no_key_decrypts(self) -> None:
        codec = Codec("msgpack")
        value = Encryption([b"other"]).encrypt(Topic.SEND_GROUP, "room", codec.encode({}))
        shown = show_group("room", codec, Encryption([b"secret"]), record(value, b"room"))
        assert shown is not None
        assert "decrypts" in shown.error


class FakeTail:
    """Stands in for what reads: returns the records that a test gave, once."""

    records: Sequence[TailedRecord]
    asked: list[tuple[Any, ...]]
    trouble = ""
    found = True

    def __init__(self, config: LayerConfig, topic: Any, start: Any, *more: Any) -> None:
        self.asked.append((topic, start, *more))
        self.partitions = [("shop.orders", 0)] if self.found else []
        self.left = [self.records]

    def __enter__(self) -> FakeTail:  # noqa: PYI034
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def look(self) -> None:
        pass

    def read(self) -> Sequence[TailedRecord]:
        if not self.left:
            raise KeyboardInterrupt
        return self.left.pop()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class FakeLayer(KafkaChannelLayer):
    """Writes nothing, and tells what it was to write."""

    produced: list[tuple[Any, ...]]

    def produce_sync(self, stream: str, value: Any, **keywords: Any) -> Position:
        if value == "poison":
            raise TypeError("the schema has no such field")
        if value == "refused":
            raise TopicError("the topic is gone")
        self.produced.append((stream, value, keywords["key"], keywords["partition"]))
        return Position("shop.notes", 1, len(self.produced), 5.0)


Console = Callable[..., tuple[str, str]]


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    """Runs the command on three records; returns what it printed, and its notes."""
    monkeypatch.setattr(kafka_console, "Tail", FakeTail)
    records = [record(), record(b'{"n": 2}', b"8"), record(b"3")]
    monkeypatch.setattr(FakeTail, "records", records, raising=False)
    monkeypatch.setattr(FakeTail, "asked", [], raising=False)
    monkeypatch.setattr(FakeLayer, "produced", [], raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)

    def run(
        *arguments: str, out: Any = None, notes: Any = None, lines: str = "", **options: Any
    ) -> tuple[str, str]:
        out, notes = out or io.StringIO(), notes or io.StringIO()
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        call_command("kafka_console", *arguments, stdout=out, stderr=notes, **options)
        return out.getvalue(), notes.getvalue()

    config = {"bootstrap_servers": "nowhere:9092", "streams": STREAMS}
    layers = {"default": {"BACKEND": f"{__name__}.FakeLayer", "CONFIG": config}}
    with override_settings(CHANNEL_LAYERS=layers):
        yield run


class TestReading:
    def test_ctrl_c_ends_it_cleanly(self, console: Console) -> None:
        out, notes = console("orders")
        assert [line.split("  ")[2] for line in out.splitlines()] == [
            '7: {"n": 1}',
            '8: {"n": 2}',
            "7: 3",
        ]
        assert "Reading shop.orders" in notes

    def test_only_some_of_a_key(self, console: Console) -> None:
        out, _ = console("orders", "--key", "7", "--limit", "1", "--json")
        assert [json.loads(line)["value"] for line in out.splitlines()] == [{"n": 1}]

    @pytest.mark.parametrize("joined", [False, True])
    def test_from_some_time_ago(self, console: Console, joined: bool) -> None:
        arguments = ("--from=-5m",) if joined else ("--from", "-5m")
        console("orders", *arguments, "--partition", "2")
        ((topic, start, partition, _),) = FakeTail.asked
        assert (topic, start, partition) == ("shop.orders", datetime.timedelta(minutes=5), 2)

    def test_a_stream_of_many_topics(self, console: Console) -> None:
        console("every")
        topic, start, *_ = FakeTail.asked[0]
        assert (topic("shop.new"), topic("other"), start) == (True, False, "latest")

    def test_a_group(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        value = Codec("msgpack").encode({"type": "hello"})
        monkeypatch.setattr(FakeTail, "records", [record(value, b"room"), record(value, b"hall")])
        out, _ = console("--group", "room", "--json")
        assert [json.loads(line)["value"] for line in out.splitlines()] == [{"type": "hello"}]
        assert FakeTail.asked[0][0] == "channels-send-group"

    def test_a_topic_that_is_none_may_be_a_stream(
        self, console: Console, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(FakeTail, "found", False)
        with pytest.raises(CommandError, match=r"'ordres' is no stream.*Did you mean .*'orders'"):
            console("ordres")
        assert "waiting for it" in console("orders")[1]

    def test_a_closed_pipe_ends_it_without_a_word(
        self, console: Console, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Closed(io.StringIO):
            def write(self, text: str) -> int:
                raise BrokenPipeError

        monkeypatch.setattr(sys, "stdout", io.StringIO())
        assert console("orders", out=Closed())[0] == ""


class TestColours:
    def test_only_on_a_terminal(self, console: Console) -> None:
        assert "\x1b" not in console("orders")[0]
        assert "\x1b" not in console("orders", "--json", out=Terminal())[0]

    def test_key_time_and_errors_on_one(
        self, console: Console, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kafka_console, "supports_color", lambda: True)
        monkeypatch.setattr(FakeTail, "records", [record(b"no JSON")])
        out, _ = console("orders", out=Terminal())
        assert out.count("\x1b[0m") == 4
        assert "\x1b[32;1m7\x1b[0m: " in out
        for option in ({"no_color": True}, {}):
            monkeypatch.setenv("NO_COLOR", "" if option else "1")
            assert "\x1b" not in console("orders", out=Terminal(), **option)[0]


class TestSending:
    def test_lines_of_a_pipe(self, console: Console) -> None:
        out, _ = console("notes", "--send", lines="7: a b\n\n8:c\nplain\n")
        assert FakeLayer.produced == [
            ("notes", "a b", "7", None),
            ("notes", "c", "8", None),
            ("notes", "plain", None, None),
        ]
        assert out.splitlines() == [f"shop.notes[1]@{n}" for n in (1, 2, 3)]

    def test_one_key_a_partition_and_a_limit_for_all(self, console: Console) -> None:
        arguments = ("--send", "--key", "7", "--partition", "3", "--limit", "2", "--json")
        out, _ = console("orders", *arguments, lines='1\n{"a": 1}\n3\n')
        assert FakeLayer.produced == [("orders", 1, "7", 3), ("orders", {"a": 1}, "7", 3)]
        assert [json.loads(line)["offset"] for line in out.splitlines()] == [1, 2]

    def test_a_line_that_is_not_taken_is_named_and_the_others_are_sent(
        self, console: Console
    ) -> None:
        notes = io.StringIO()
        with pytest.raises(CommandError, match="2 of 3 lines were not sent"):
            console("orders", "--send", notes=notes, lines='"poison"\n\n{"a": \n1\n')
        assert FakeLayer.produced == [("orders", 1, None, None)]
        # An editor counts the empty one, too.
        assert [line.split(":")[0] for line in notes.getvalue().splitlines()] == [
            "line 1",
            "line 3",
        ]

    def test_the_first_that_the_broker_refuses_ends_it(self, console: Console) -> None:
        with pytest.raises(CommandError, match="the topic is gone"):
            console("notes", "--send", lines="refused\n7: a\n")
        assert FakeLayer.produced == []

    @for_each(
        ("arguments", "said"),
        [
            ((), "Name a stream or a topic"),
            (("orders", "--group", "room"), "Name a stream or a topic"),
            (("--group", "no name"), "no legal name"),
            (("--group", "room", "--send"), "group_send"),
            (("orders", "--send", "--from", "earliest"), "leave out --from"),
            (("weather", "--send"), 'The setting "streams" has no stream'),
            (("every", "--send"), "match a pattern"),
            (("orders", "--layer", "other"), "There is no layer 'other'"),
        ],
    )
    def test_arguments_without_sense(
        self, console: Console, arguments: tuple[str, ...], said: str
    ) -> None:
        with pytest.raises(CommandError, match=said):
            console(*arguments)
