"""``manage.py kafka_console``: shows what arrives in a topic, or sends lines to a stream."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

from channels import DEFAULT_CHANNEL_LAYER
from channels.exceptions import ChannelFull, MessageTooLarge
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.management.color import no_style, supports_color
from django.utils.termcolors import make_style

from ...config.settings import LayerConfig
from ...config.streams import Start
from ...exceptions import KafkaLayerError
from ...kafka.tail import Tail, TailedRecord
from ...layer import KafkaChannelLayer
from ...messages import Position
from ...streams.producing import outgoing
from ...wire.codec import Codec
from ...wire.encryption import Encryption
from ...wire.names import is_group_name
from ...wire.topics import Topic, topic_name
from .. import installed
from ..console import (
    Paint,
    Shown,
    as_json,
    as_text,
    object_of,
    parse_line,
    parse_start,
    show_any,
    show_group,
    show_stream,
)
from ..options import add_timeout_option, select

__all__ = ["Command"]

_COLOURS = {
    "time": make_style(fg="cyan"),
    "key": make_style(fg="green", opts=("bold",)),
    "error": make_style(fg="red", opts=("bold",)),
    "note": make_style(opts=("bold",)),
}
_AGO_OPTION = "--from"

Show = Callable[[TailedRecord], "Shown | None"]


class Command(BaseCommand):
    """Prints the records of a stream, of any topic or of a group, decoded; or sends records."""

    help = (
        "Prints what arrives in a stream of the settings, decoded as they say, with whom it is "
        "for; in any other topic of the layer's brokers; or (--group) what is sent to a group of "
        "the layer. With --send it reads lines 'key: value' and writes them to a stream. Ctrl-C "
        "ends it."
    )
    requires_system_checks = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Make the parser; it takes ``--from -5m``, which argparse takes for two options."""
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parse = parser.parse_args

        def parse_args(args: Any = None, namespace: Any = None) -> Any:
            return parse(list(_joined(sys.argv[1:] if args is None else args)), namespace)

        parser.parse_args = parse_args  # type: ignore[method-assign]
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "stream",
            nargs="?",
            metavar="STREAM|TOPIC",
            help="A stream of the settings, or Kafka's name of a topic.",
        )
        parser.add_argument(
            "--group", metavar="NAME", help="Print what is sent to this group of the layer instead."
        )
        parser.add_argument(
            "--key",
            metavar="K",
            help="Only records with this key; with --send: the key of every line.",
        )
        parser.add_argument(
            _AGO_OPTION,
            dest="start",
            type=parse_start,
            default=None,
            metavar="earliest|latest|-5m|TIME|OFFSET",
            help="Where to begin: the oldest record, the end (the default), so long ago (s, m, h "
            "or d), a time in ISO 8601, or an offset.",
        )
        parser.add_argument(
            "--partition", type=_number, metavar="N", help="Only this partition; also for --send."
        )
        parser.add_argument("--limit", type=_number, metavar="N", help="End after so many records.")
        parser.add_argument(
            "--json", action="store_true", dest="as_json", help="Print one JSON object a line."
        )
        parser.add_argument(
            "--send",
            action="store_true",
            help="Read lines 'key: value' from the keyboard or a pipe, and write each to the "
            "stream once its codecs have taken it. A line that begins with { or [ is a value "
            "without a key; the value null is a tombstone.",
        )
        parser.add_argument(
            "--layer",
            default=DEFAULT_CHANNEL_LAYER,
            dest="alias",
            metavar="ALIAS",
            help=f"The alias in CHANNEL_LAYERS. Default: {DEFAULT_CHANNEL_LAYER}.",
        )
        add_timeout_option(parser, 5.0)

    def handle(self, *args: Any, **options: Any) -> None:
        """Print or send until all is done, or until Ctrl-C or a closed pipe ends it.

        Raises:
            CommandError: If the arguments, the settings or the brokers prevent it, or if a line was
                not sent.
        """
        _require_sense(options)
        layers, skipped = select([options["alias"]])
        if skipped:
            raise CommandError(f"Layer {skipped[0].alias!r} has no topics: {skipped[0].reason}.")
        (config,) = layers.values()
        try:
            if options["send"]:
                self._send(config, options)
            else:
                self._print(config, options)
        except KeyboardInterrupt:
            pass
        except BrokenPipeError:
            _silence(sys.stdout)
        except (ImproperlyConfigured, KafkaLayerError) as error:
            raise CommandError(str(error)) from None

    # Printing

    def _print(self, config: LayerConfig, options: dict[str, Any]) -> None:
        topic, show, clients = _what(config, options["stream"], options["group"])
        start: Start | int = "latest" if options["start"] is None else options["start"]
        key, limit = options["key"], options["limit"]
        write = self._writer(options)
        with Tail(clients, topic, start, options["partition"], options["timeout"]) as tail:
            tail.look()
            self._note_begin(tail, config, options)
            left = float("inf") if limit is None else limit
            trouble = ""
            while left > 0:
                for record in tail.read():
                    shown = show(record)
                    if shown is None or (key is not None and not _has_key(shown, key)):
                        continue
                    write(shown)
                    left -= 1
                    if left <= 0:
                        break
                self.stdout.flush()
                if tail.trouble != trouble:
                    trouble = tail.trouble
                    if trouble:
                        self._note(f"Kafka: {trouble}")

    def _note_begin(self, tail: Tail, config: LayerConfig, options: dict[str, Any]) -> None:
        name, partition = options["stream"], options["partition"]
        if tail.partitions:
            topics = {topic for topic, _ in tail.partitions}
            self._note(f"Reading {', '.join(sorted(topics))}, {len(tail.partitions)} partition(s).")
            return
        if name in config.streams or options["group"] is not None:
            if partition is not None:
                self._note(f"There is no partition {partition} yet; waiting for it.")
            else:
                self._note("There is no topic yet; waiting for it.")
            return
        close = difflib.get_close_matches(name, config.streams, n=1)
        mend = f"Did you mean stream {close[0]!r}?" if close else "Look at the name."
        raise CommandError(
            f"{name!r} is no stream of the settings, and {config.bootstrap_servers} has no such "
            f"topic{'' if partition is None else f' with a partition {partition}'}. {mend}"
        )

    def _writer(self, options: dict[str, Any]) -> Callable[[Shown], None]:
        if options["as_json"]:
            return lambda shown: self.stdout.write(as_json(shown))
        paint = self._paint(options)
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"

        def write(shown: Shown) -> None:
            text = as_text(shown, paint)
            self.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))

        return write

    def _paint(self, options: dict[str, Any]) -> Paint:
        """Return what colours texts: only on terminals, unless ``--force-color`` says otherwise."""
        wanted = options.get("force_color") or (self.stdout.isatty() and supports_color())
        if options.get("no_color") or os.environ.get("NO_COLOR") or not wanted:
            self.style = no_style()
            return lambda role, text: text
        return lambda role, text: str(_COLOURS[role](text))

    def _note(self, text: str) -> None:
        self.stderr.write(text, self.style.NOTICE if self.stderr.isatty() else str)
        self.stderr.flush()

    # Sending

    def _send(self, config: LayerConfig, options: dict[str, Any]) -> None:
        stream = options["stream"]
        # Raises for a stream to which nobody can send, also where no line comes.
        settings = outgoing(config, stream, None, None, None, options["partition"]).settings
        layer = _layer(options["alias"])
        if sys.stdin.isatty():
            self._note("Each line is 'key: value'. Ctrl-D ends.")
        failed = sent = 0
        try:
            for number, text in _lines(options["limit"]):
                line = parse_line(text)
                key = line.key if options["key"] is None else options["key"]
                value = line.value if options["key"] is None else text.strip()
                try:
                    position = layer.produce_sync(
                        stream,
                        object_of(settings.value, value),
                        key=None if key is None else object_of(settings.key, key),
                        partition=options["partition"],
                    )
                except (TypeError, ValueError, ChannelFull, MessageTooLarge) as error:
                    failed += 1
                    self._note(f"line {number}: {error}")
                    continue
                sent += 1
                self._tell(position, key, options["as_json"])
        finally:
            layer.close_sync()
        if failed:
            raise CommandError(f"{failed} of {failed + sent} lines were not sent.")

    def _tell(self, position: Position | None, key: str | None, as_json: bool) -> None:
        if position is None:
            return
        topic, partition, offset, timestamp = position
        if as_json:
            told = {"topic": topic, "partition": partition, "offset": offset, "key": key}
            self.stdout.write(json.dumps({**told, "timestamp": timestamp}))
        else:
            self.stdout.write(f"{topic}[{partition}]@{offset}")
        self.stdout.flush()


def _require_sense(options: dict[str, Any]) -> None:
    if (options["stream"] is None) == (options["group"] is None):
        raise CommandError("Name a stream or a topic, or else a group of the layer by --group.")
    if options["group"] is not None and not is_group_name(options["group"]):
        raise CommandError(f"{options['group']!r} is no legal name of a group.")
    if options["send"] and options["group"] is not None:
        raise CommandError("--send writes to a stream; a group gets messages by group_send().")
    if options["send"] and options["start"] is not None:
        raise CommandError(f"--send writes at the end of a topic: leave out {_AGO_OPTION}.")


def _what(
    config: LayerConfig, stream: str | None, group: str | None
) -> tuple[str | Callable[[str], bool], Show, LayerConfig]:
    """Return what to read, how to show its records, and the settings of the client."""
    if group is not None:
        codec = Codec(config.serializer_format, config.serializer)
        encryption = Encryption(config.symmetric_encryption_keys)
        name = topic_name(config.prefix, Topic.SEND_GROUP)
        return name, partial(show_group, group, codec, encryption), config
    settings = config.streams.get(stream or "")
    if settings is None:
        return stream or "", show_any, config
    topic = settings.takes if settings.topic is None else settings.topic
    return topic, partial(show_stream, settings), config.for_stream(settings)


def _has_key(shown: Shown, key: str) -> bool:
    return shown.record.key == key.encode() or shown.key == key or str(shown.key) == key


def _layer(alias: str) -> KafkaChannelLayer:
    """Make the layer with ``await_produce``, so that each line's fate is known."""
    given = installed.channel_layers()[alias].get("CONFIG", {})
    backend = cast(type[KafkaChannelLayer], installed.backend_of(alias))
    return backend(**{**given, "await_produce": True})


def _lines(limit: int | None) -> Iterator[tuple[int, str]]:
    """Yield the lines that have text, each with its number."""
    lines = enumerate(sys.stdin, 1)
    return itertools.islice((each for each in lines if each[1].strip()), limit)


def _joined(arguments: list[str]) -> Iterator[str]:
    """Yield arguments with the value of ``--from`` joined to it."""
    rest = iter(arguments)
    for argument in rest:
        if argument == _AGO_OPTION:
            value = next(rest, None)
            yield argument if value is None else f"{argument}={value}"
        else:
            yield argument


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)


def _silence(stream: Any) -> None:
    """Let Python's last flush of a closed pipe go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
