"""Kafka headers of records: what tells a command, and the channels that a message skips."""

from __future__ import annotations

from collections.abc import Collection, Iterable

__all__ = [
    "COMMAND",
    "EXCLUDE",
    "Headers",
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
