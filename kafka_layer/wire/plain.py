"""Messages as plain dicts, lists, strings and numbers, as ``json.dumps`` writes them.

The specification allows str, bytes, int of 64 bits, float, bool, None, and lists and dicts of them.
Applications also put subclasses of these types into messages, such as names of channels, choices,
``QueryDict`` and named tuples. A subclass becomes what ``json.dumps`` writes for it; any other type
is an error that names its place in the message. Nothing here does I/O.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

__all__ = ["MAX_DEPTH", "NotPlain", "is_too_deep", "plain", "plain_value"]

MAX_DEPTH = 255
"""How many dicts and lists may lie within one another, the message itself included."""

_INT64 = range(-(2**63), 2**64)

# With "" it returns a plain str, whatever a subclass overrides, quicker than the other methods.
_plain_copy = str.removeprefix


class NotPlain(TypeError):
    """A part of a message that cannot be sent; the text names its path and says why."""


def plain_value(value: object) -> object:
    """Return a value without the subclass that it belongs to; its items are not looked at.

    Raises:
        TypeError: If no message can hold the value.
    """
    if isinstance(value, str):
        return _plain_copy(value, "")
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, dict):
        # json.dumps looks at the stored items to see whether there are any, and asks for items().
        items = value.items() if dict.__len__(value) else ()
        return {str.__str__(key) if isinstance(key, str) else key: each for key, each in items}
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"{type(value).__name__} is no type that a message can hold")


def plain(message: dict[str, Any], as_json: bool) -> dict[str, Any]:
    """Return a copy of a message in which every value and key has a plain type.

    Args:
        message: A dict.
        as_json: Whether it is to be written as JSON, which carries integers of any size and no
            bytes, NaN or infinity.

    Raises:
        NotPlain: If a part of it cannot be sent.
    """
    copy: dict[str, Any] = _copy(message, as_json, "", 1)
    return copy


def is_too_deep(value: object) -> bool:
    """Tell whether a value of plain types is nested deeper than ``MAX_DEPTH``."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [each for parent in level for each in _children(parent)]
        if not level:
            return False
    return any(isinstance(each, (dict, list)) for each in level)


def _children(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _copy(value: object, as_json: bool, path: str, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (dict, list, tuple)) and depth > MAX_DEPTH:
        raise NotPlain(f"{path[:60]}… is nested more than {MAX_DEPTH} deep")
    try:
        found = plain_value(value)
    except TypeError:
        raise NotPlain(
            f"{path} is of the type {_type_name(value)}; a message holds str, bytes, int, float, "
            "bool, None, and lists, tuples and dicts of them"
        ) from None
    # Loops, because up to Python 3.11 a comprehension is one more call for each level.
    if isinstance(found, dict):
        for key in found:
            _require_key(key, path)
            found[key] = _copy(found[key], as_json, _path(path, key), depth + 1)
        return found
    if isinstance(found, list):
        for index, each in enumerate(found):
            found[index] = _copy(each, as_json, f"{path}[{index}]", depth + 1)
        return found
    problem = _problem(found, as_json)
    if problem:
        raise NotPlain(f"{path} {problem}")
    return found


def _require_key(key: object, path: str) -> None:
    where = path or "the message"
    if not isinstance(key, str):
        raise NotPlain(f"{where} has the key {key!r}, and dict keys must be str")
    if not _is_unicode(key):
        raise NotPlain(f"{where} has the key {key!r}, a text that UTF-8 cannot carry")


def _problem(value: object, as_json: bool) -> str | None:
    if isinstance(value, str):
        return None if _is_unicode(value) else "has a lone surrogate, which UTF-8 cannot carry"
    if not as_json:
        if isinstance(value, int) and value not in _INT64:
            return "is an integer of more than 64 bits"
        return None
    if isinstance(value, bytes):
        return "is bytes, which JSON cannot carry; serializer_format='msgpack' carries that"
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value!r}, which JSON cannot carry; serializer_format='msgpack' carries that"
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _path(path: str, key: object) -> str:
    if isinstance(key, str) and key.isidentifier():
        return f"{path}.{key}" if path else key
    return f"{path}[{key!r}]"


def _type_name(value: object) -> str:
    kind = type(value)
    where = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{where}{kind.__qualname__}"
