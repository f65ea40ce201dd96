"""Templates such as ``order-{key}``: texts with placeholders that a record fills."""

from __future__ import annotations

import datetime
import decimal
import functools
import math
import string
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..exceptions import UnreadableRecord
from ..wire.names import GROUP_NAME, LONGEST_NAME
from .names import fitting, is_hashed, quote, unquote

__all__ = ["PARTS", "GroupTemplate", "Parts", "Template", "group_template"]

PARTS = ("key", "value", "headers", "topic", "partition")
"""The parts of a record that a template may name."""


class Parts(Protocol):
    """The values for a template: a ``StreamRecord``, or another object with these attributes."""

    @property
    def key(self) -> Any:
        """The decoded key."""

    @property
    def value(self) -> Any:
        """The decoded value."""

    @property
    def headers(self) -> Mapping[str, Any]:
        """The headers by name."""

    @property
    def topic(self) -> str:
        """Kafka's name of the topic."""

    @property
    def partition(self) -> int:
        """Number of the partition."""


class Template:
    """A text with placeholders for parts of a record; parsed once. Any thread may fill it.

    Args:
        text: ``{key}``, ``{value}``, ``{headers.x}``, ``{topic}`` and ``{partition}`` are filled;
            ``{value.a.0.b}`` looks into dicts and lists. ``{{`` is a brace.
        quote: Applied to each value; None: values are filled in as they are.

    Attributes:
        needs: Which of ``key``, ``value``, ``headers``, ``topic`` and ``partition`` it reads.
        literal: The text without the placeholders.
        before: The text before the first placeholder.

    Raises:
        ValueError: If the text is no template; it says why.
    """

    def __init__(self, text: str, quote: Callable[[str], str] | None = None) -> None:
        self._quote = quote
        # Each placeholder with the text before it; and the text after the last one.
        self._places: list[tuple[str, _Place]] = []
        self._end = ""
        before = ""
        for literal, name, form, conversion in string.Formatter().parse(text):
            before += literal
            if name is None:
                continue
            if form or conversion:
                raise ValueError(f"{{{name}}} has a format or a conversion; leave it out")
            self._places.append((before, _Place(name)))
            before = ""
        self._end = before
        self.needs = frozenset(place.part for _, place in self._places)
        self.literal = "".join(before for before, _ in self._places) + self._end
        self.before = self._places[0][0] if self._places else self._end

    def fill(self, record: Parts) -> str:
        """Return the text for a record.

        Raises:
            UnreadableRecord: ``template`` if the record lacks a part, or the part has a type that
                cannot be text; otherwise as ``record.key`` and ``record.value``.
            RegistryAway: As ``record.key`` and ``record.value``.
        """
        text = ""
        for before, place in self._places:
            found: Any = getattr(record, place.part)
            for name in place.path:
                found = (
                    found[name] if type(found) is dict and name in found else _inside(found, name)
                )
            if type(found) is not str:
                found = _text(place.name, found)
            text += before + (found if self._quote is None else self._quote(found))
        return text + self._end


class GroupTemplate(Template):
    """A template of groups' names; ``streams.names`` quotes the values.

    Args:
        text: As for ``Template``.

    Raises:
        ValueError: If the text is no template, or has characters that no group's name may have.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text, quote)
        if not text:
            raise ValueError("it is empty")
        if self.literal and not GROUP_NAME.match(self.literal):
            raise ValueError(
                f"its text {self.literal!r} has characters that a group's name cannot have; those "
                "are ASCII letters, digits, hyphens, underscores and periods"
            )

    def fill(self, record: Parts) -> str:
        """Return the valid name of a group for a record.

        Raises:
            UnreadableRecord: As for a ``Template``; ``name`` if the text is no name.
            RegistryAway: As for a ``Template``.
        """
        try:
            name = fitting(Template.fill(self, record))
        except UnicodeEncodeError:
            raise UnreadableRecord("name", "a name that UTF-8 cannot carry") from None
        if not name:
            raise _nameless()
        return name

    def naming(self) -> Callable[[str], str]:
        """Return a function from the value of the only placeholder to the name.

        It raises as ``fill``; the value has to be valid UTF-8. Hot path: called for each record of
        a topic while the last records are loaded.
        """
        [(before, _)] = self._places
        end = self._end

        def named(text: str) -> str:
            name = f"{before}{quote(text)}{end}"
            if len(name) < LONGEST_NAME:
                if not name:
                    raise _nameless()
                return name
            return fitting(name)

        return named

    def is_one(self, part: str) -> bool:
        """Tell whether it has exactly one placeholder, for this whole part."""
        return [place.name for _, place in self._places] == [part]

    def filling(self, name: str) -> str | None:
        """Return the value of the only placeholder that gives a name; None if no value does.

        Raises:
            ValueError: If the name ends in a hash, so that the value is not known.
        """
        if is_hashed(name):
            raise ValueError(f"{name} ends in a hash")
        [(before, _)] = self._places
        if not (name.startswith(before) and name.endswith(self._end)):
            return None
        try:
            text = unquote(name[len(before) : len(name) - len(self._end)])
        except ValueError:
            return None
        return text if f"{before}{quote(text)}{self._end}" == name else None


def _nameless() -> UnreadableRecord:
    return UnreadableRecord("name", "the name of its group is empty")


@functools.lru_cache(maxsize=1000)
def group_template(text: str) -> GroupTemplate:
    """Return a template, parsed once; as ``GroupTemplate``."""
    return GroupTemplate(text)


class _Place:
    """One placeholder of a template: a part of the record, and a path inside it.

    Args:
        name: The text between the braces.

    Attributes:
        name: As given.
        part: ``key``, ``value``, ``headers``, ``topic`` or ``partition``.
        path: The names of entries, each inside the one before.

    Raises:
        ValueError: If no record has such a part; the text says why.
    """

    __slots__ = ("name", "part", "path")

    def __init__(self, name: str) -> None:
        self.name = name
        self.part, *path = name.split(".")
        if "[" in name:
            raise ValueError(f"{{{name}}} has brackets; write {{value.items.0.id}}")
        if self.part not in PARTS:
            known = ", ".join(f"{{{part}}}" for part in PARTS)
            raise ValueError(f"it names {{{name}}}; a template may name {known}")
        if "" in path:
            raise ValueError(f"{{{name}}} has an empty name between its periods")
        if path and self.part in ("topic", "partition"):
            raise ValueError(f"{{{name}}} looks into the {self.part}; write {{{self.part}}}")
        if self.part == "headers":
            if not path:
                raise ValueError("{headers} names no header; write {headers.trace}")
            # A header's name may have periods.
            path = [".".join(path)]
        self.path = path


_MISSING = object()


def _inside(found: Any, name: str) -> object:
    """Return an entry of an object; ``_MISSING`` if it has none of this name."""
    if isinstance(found, Mapping):
        if name in found:
            return found[name]
        # msgpack has keys of other types, too.
        if (as_bytes := name.encode()) in found:
            return found[as_bytes]
        return found.get(int(name), _MISSING) if _is_index(name) else _MISSING
    if isinstance(found, (list, tuple)):
        return found[int(name)] if _is_index(name) and int(name) < len(found) else _MISSING
    # A project's own codec may return objects.
    return _MISSING if name.startswith("_") else getattr(found, name, _MISSING)


def _is_index(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 10


def _text(name: str, found: Any) -> str:
    """Return a value as text for a name; numbers and booleans as JSON writes them."""
    match found:
        case str():
            return str.__str__(found)
        case bool():
            return "true" if found else "false"
        case int():
            return int.__repr__(found)
        case float() if math.isfinite(found):
            return float.__repr__(found)
        case bytes():
            try:
                return found.decode()
            except UnicodeDecodeError:
                raise UnreadableRecord("template", f"{{{name}}} is bytes, not UTF-8") from None
        case decimal.Decimal() | uuid.UUID():
            return str(found)
        case datetime.date() | datetime.time():
            return found.isoformat()
    if found is _MISSING or found is None:
        raise UnreadableRecord("template", f"the record has no {{{name}}}")
    raise UnreadableRecord(
        "template", f"{{{name}}} is a {type(found).__name__}, which stands in no name"
    )
