"""Quotes values of records for names of groups, and unquotes them.

The quoting is that of URLs, with ``_x`` for ``%``, which a group's name cannot have. Each byte of
the UTF-8 text that is no ASCII letter, digit, hyphen, underscore or period becomes ``_x`` and two
hexadecimal digits (capital letters). So does an underscore before an ``x`` or at the end, so that
different values have different texts.
"""

from __future__ import annotations

import hashlib
import re

from ..wire.names import LONGEST_NAME

__all__ = ["fitting", "is_hashed", "quote", "unquote"]

_PLAIN = re.compile(r"[a-zA-Z0-9\-.]*").fullmatch
_QUOTED = re.compile(r"[^a-zA-Z0-9\-_.]|_(?=x|\Z)")
_CODES = re.compile("(?:_x[0-9A-F]{2})+")

_HASHED = "_xh"  # then 64 hexadecimal digits: the end of a name that was too long
_KEPT = LONGEST_NAME - len(_HASHED) - 64


def quote(text: str) -> str:
    """Return a text as a part of a group's name.

    Raises:
        ValueError: If UTF-8 cannot carry the text (a lone surrogate).
    """
    return text if _PLAIN(text) else _QUOTED.sub(_codes, text)


def _codes(found: re.Match[str]) -> str:
    return "".join(f"_x{byte:02X}" for byte in found[0].encode())


def unquote(quoted: str) -> str:
    """Return the text that ``quote`` wrote.

    Raises:
        ValueError: If the codes in it are no UTF-8.
    """
    return _CODES.sub(lambda found: bytes.fromhex(found[0].replace("_x", "")).decode(), quoted)


def fitting(name: str) -> str:
    """Return a name of legal length for a group: in most cases the name itself.

    In a longer name ``_xh`` and the SHA-256 of the whole name, in hexadecimal digits, replace the
    end. A name that looks like such a result is hashed as well: otherwise a key could be chosen
    that gives the name of another key.
    """
    if len(name) <= LONGEST_NAME and not is_hashed(name):
        return name
    return f"{name[:_KEPT]}{_HASHED}{hashlib.sha256(name.encode()).hexdigest()}"


def is_hashed(name: str) -> bool:
    """Tell whether a group's name is one that ``fitting`` has hashed."""
    return len(name) == LONGEST_NAME and name.startswith(_HASHED, _KEPT)
