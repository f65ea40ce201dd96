"""Input and output of ``kafka_console``: start, lines to send, records as text. Pure."""

from __future__ import annotations

import argparse
import base64
import datetime
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..config.streams import Start, StreamSettings
from ..exceptions import KafkaLayerError
from ..kafka.tail import TailedRecord
from ..streams.codecs import CODECS, StreamCodec
from ..streams.record import StreamRecord
from ..wire.codec import Codec
from ..wire.encryption import Encryption
from ..wire.headers import excluded, has_command
from ..wire.topics import StreamTopic, Topic

__all__ = [
    "Line",
    "Paint",
    "Shown",
    "as_json",
    "as_text",
    "object_of",
    "parse_line",
    "parse_start",
    "show_any",
    "show_group",
    "show_stream",
]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGO = re.compile(r"-?(\d+(?:\.\d+)?)([smhd])")

Paint = Callable[[str, str], str]
"""Colours a text, given its role (``time``, ``key``, ``error`` or ``note``) and the text."""


class Shown(NamedTuple):
    """A record as it is shown.

    Attributes:
        record: The record.
        key: Its key, decoded as far as that is possible.
        value: Its value, decoded as far as that is possible.
        headers: Its headers.
        to: Whom it is for: names of groups, and users.
        error: Why it cannot be read or delivered; empty without a reason.
    """

    record: TailedRecord
    key: Any
    value: Any
    headers: Mapping[str, Any]
    to: Sequence[str] = ()
    error: str = ""


class Line(NamedTuple):
    """A line to send.

    Attributes:
        key: The text of its key; None without one.
        value: The text of its value.
    """

    key: str | None
    value: str


# Options


def parse_start(text: str) -> Start | int:
    """Read the option ``--from``.

    Args:
        text: ``latest``, ``earliest``, how long ago (``-5m``), a time (ISO 8601; without a zone in
            that of this machine), or an offset.

    Raises:
        argparse.ArgumentTypeError: If it is none of these.
    """
    if text in ("latest", "earliest"):
        return "latest" if text == "latest" else "earliest"
    ago = _AGO.fullmatch(text)
    if text.isdecimal():
        return int(text)
    try:
        if ago:
            return datetime.timedelta(seconds=float(ago[1]) * _SECONDS[ago[2]])
        # Python 3.10 does not know the Z.
        return datetime.datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text)).astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither latest, earliest, -5m (or s, h, d), a time such as "
            "2026-11-28T12:00, nor an offset"
        ) from None


# Lines to send


def parse_line(text: str) -> Line:
    """Split ``key: value``.

    A line that begins as a JSON object or list is a value without a key. A key in double quotes may
    have colons.

    Args:
        text: The line, without its end.
    """
    text = text.strip()
    if text.startswith('"'):
        try:
            key, end = json.JSONDecoder().raw_decode(text)
        except ValueError:
            pass
        else:
            rest = text[end:].lstrip()
            return Line(key, rest[1:].strip()) if rest.startswith(":") else Line(None, text)
    if text[:1] in ("{", "["):
        return Line(None, text)
    key, colon, value = text.partition(":")
    return Line(key.strip(), value.strip()) if colon else Line(None, text)


def object_of(codec: StreamCodec, text: str) -> Any:
    """Return what a text is for a codec: itself, its bytes, or the JSON that it is.

    Raises:
        ValueError: If it has to be JSON, and is none.
    """
    if codec is CODECS["str"]:
        return text
    if codec is CODECS["bytes"]:
        return text.encode()
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no JSON: {error}") from None


# Records to show


def show_stream(settings: StreamSettings, record: TailedRecord) -> Shown:
    """Decode a record of a stream, and find whom it is for."""
    name, partition, offset, timestamp, *rest = record
    read: Any = (StreamTopic(settings.name, name), *rest, timestamp, partition, offset)
    seen = StreamRecord(read, settings)
    errors: dict[str, None] = {}
    key = _try(lambda: seen.key, record.key, errors)
    value = _try(lambda: seen.value, record.value, errors)
    to: list[str] = []
    if not errors and _is_for_anyone(settings, seen, errors):
        for addresser in settings.groups:
            to += _try(lambda each=addresser: each.names(seen), (), errors)  # type: ignore[misc]
        for addresser in settings.users:
            users = _try(lambda each=addresser: each.names(seen), (), errors)  # type: ignore[misc]
            to += [f"user {name}" for name in users]
    return Shown(record, key, value, seen.headers, to, "; ".join(errors))


def show_any(record: TailedRecord) -> Shown:
    """Decode a record of a topic of which the settings say nothing: as JSON, as text, or not."""
    headers = {name: _guess_text(value) for name, value in record.headers}
    return Shown(record, _guess_text(record.key), _guess(record.value), headers)


def show_group(
    group: str, codec: Codec, encryption: Encryption, record: TailedRecord
) -> Shown | None:
    """Decode a message to a group of the layer; None if it is for another group, or no message."""
    if record.key != group.encode() or has_command(record.headers):
        return None
    errors: dict[str, None] = {}
    value = _try(
        lambda: codec.decode(encryption.decrypt(Topic.SEND_GROUP, group, record.value)),
        record.value,
        errors,
    )
    out = excluded(record.headers)
    headers = {"exclude": sorted(out)} if out else {}
    return Shown(record, group, value, headers, (), "; ".join(errors))


def _is_for_anyone(settings: StreamSettings, record: StreamRecord, errors: dict[str, None]) -> bool:
    if record.raw_value is None and settings.tombstone is None:
        return False
    where = settings.where
    return where is None or bool(_try(lambda: where(record), False, errors))


def _try(read: Callable[[], Any], otherwise: Any, errors: dict[str, None]) -> Any:
    try:
        return read()
    except KafkaLayerError as error:
        errors[str(error)] = None
        return otherwise


def _guess(data: bytes | None) -> Any:
    try:
        return None if data is None else json.loads(data.decode())
    except (ValueError, RecursionError):
        return _guess_text(data)


def _guess_text(data: bytes | None) -> Any:
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        return data


# Text


def as_json(shown: Shown) -> str:
    """Return a record as one line of JSON; bytes in it are base64."""
    record = shown.record
    line: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": shown.key,
        "value": shown.value,
        "headers": dict(shown.headers),
    }
    if shown.to:
        line["to"] = list(shown.to)
    if shown.error:
        line["error"] = shown.error
    return _dump(line, ensure_ascii=True)


def as_text(shown: Shown, paint: Paint) -> str:
    """Return a record as a line for a person."""
    record = shown.record
    when = _time(record.timestamp)
    place = f"{record.topic}[{record.partition}]@{record.offset}"
    parts = [paint("time", when), paint("note", place)]
    value = "(tombstone)" if record.value is None else _text(shown.value)
    if shown.key is None:
        parts.append(value)
    else:
        parts.append(f"{paint('key', _text(shown.key))}: {value}")
    if shown.headers:
        named = ", ".join(f"{_text(name)}={_text(each)}" for name, each in shown.headers.items())
        parts.append(paint("note", f"({named})"))
    if shown.to:
        parts.append(paint("note", f"-> {', '.join(shown.to)}"))
    if shown.error:
        parts.append(paint("error", _printable(shown.error)))
    return "  ".join(parts)


def _time(timestamp: float) -> str:
    try:
        return datetime.datetime.fromtimestamp(timestamp).isoformat(" ", "milliseconds")
    except (ValueError, OverflowError, OSError):
        # A producer may write any number.
        return str(timestamp)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return repr(value)
    return _printable(value if isinstance(value, str) else _dump(value, ensure_ascii=False))


def _printable(text: str) -> str:
    """Return a text without control characters: no record may command the terminal."""
    return "".join(_escaped(each) if _is_control(each) else each for each in text)


def _is_control(character: str) -> bool:
    return (
        unicodedata.category(character) in ("Cc", "Cs")
        or unicodedata.bidirectional(character) in _DIRECTIONS
    )


# Characters that change the direction of what follows.
_DIRECTIONS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()


def _dump(value: Any, *, ensure_ascii: bool) -> str:
    try:
        return json.dumps(value, ensure_ascii=ensure_ascii, allow_nan=False, default=_default)
    except (TypeError, ValueError):
        # Keys that are no text, numbers that JSON does not have.
        return json.dumps(_plain(value), ensure_ascii=ensure_ascii, default=_default)


def _default(value: object) -> object:
    if isinstance(value, (bytes, bytearray)):
        return {"base64": base64.b64encode(value).decode()}
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return str(value)
    return value
