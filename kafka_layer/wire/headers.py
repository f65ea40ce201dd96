"""Kafka headers of records: what tells a command, and the channels that a message skips."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

__all__ = [
    "COMMAND",
    "EXCLUDE",
    "TRACEPARENT",
    "TRACE_HEADERS",
    "Headers",
    "Produced",
    "ProducedHeaders",
    "exclude_header",
    "excluded",
    "has_command",
    "headers_to_dict",
]

Headers = list[tuple[str, bytes]]

COMMAND = "command"
"""Header: the record is a command of the layer, and no message."""

EXCLUDE = "exclude"
"""Header: names of channels that do not get the message, comma-separated."""

TRACEPARENT = "traceparent"
"""Header: the span that sent the record, as W3C Trace Context says."""

TRACE_HEADERS = frozenset({TRACEPARENT, "tracestate"})
"""Headers: the context of a trace, as W3C Trace Context says."""


class Produced(NamedTuple):
    """The content of a record, for code that learns that the record was not written.

    Attributes:
        stream: The stream's name; None for a record of a topic of the layer.
        key: For a stream the key that ``produce`` was given, not encoded; otherwise its bytes. None
            without one.
        value: For a stream the value that ``produce`` was given, not encoded, and None for a
            tombstone; otherwise its bytes.
        headers: The headers.
    """

    stream: str | None
    key: Any
    value: Any
    headers: Headers


class ProducedHeaders(list[tuple[str, bytes]]):
    """Kafka headers of a record for a stream, which carry along what ``produce`` was given.

    They are true even where there are none: the producer keeps true headers for the record's
    delivery report, which itself has no headers.

    Args:
        produced: What was given.

    Attributes:
        produced: As given.
    """

    __slots__ = ("produced",)

    def __init__(self, produced: Produced) -> None:
        super().__init__(produced.headers)
        self.produced = produced

    def __bool__(self) -> bool:
        return True


def exclude_header(exclude: Collection[str]) -> Headers:
    """Return the headers that name the channels to skip; an empty list if there are none.

    Raises:
        TypeError: If an item can be no channel's name.
    """
    try:
        return [(EXCLUDE, ",".join(exclude).encode())] if exclude else []
    except (TypeError, UnicodeEncodeError) as error:
        raise TypeError(f"exclude must be a collection of channel names: {error}.") from None


def has_command(headers: Iterable[tuple[str, bytes | None]]) -> bool:
    """Tell whether a record's headers say that it is a command."""
    return any(name == COMMAND for name, _ in headers)


def excluded(headers: Iterable[tuple[str, bytes | None]]) -> frozenset[str]:
    """Return the channel names that a record's headers exclude."""
    names = headers_to_dict(headers).get(EXCLUDE, "")
    return frozenset(names.split(",")) if names else frozenset()


def headers_to_dict(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """Return a record's headers as text; the last of a repeated name counts."""
    return {name: (value or b"").decode("utf-8", "replace") for name, value in headers}
