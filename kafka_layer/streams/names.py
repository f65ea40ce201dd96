"""How a value of a record is written in a group's name, and back.

Group names have no ``%``, so ``_x`` stands in its place: each byte of the UTF-8 text that is no
ASCII letter, digit, hyphen, underscore or period becomes ``_x`` and two hexadecimal digits (capital
letters), and so does an underscore before an ``x`` or at the end. No two values have one text.
"""

from __future__ import annotations

import hashlib
import re

from ..wire.names import LONGEST_NAME

__all__ = ["fitting", "is_hashed", "quote", "unquote"]

_PLAIN = re.compile(r"[a-zA-Z0-9\-.]*").fullmatch
_QUOTED = re.compile(r"[^a-zA-Z0-9\-_.]|_(?=x|\Z)")
_CODES = re.compile("(?:_x[0-9A-F]{2})+")

_HASHED = "_xh"  # and 64 hexadecimal digits end a name that was too long
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
    """Return a name that is no longer than a group's may be: in most cases the name itself.

    The end of a longer one gives way to ``_xh`` and the SHA-256 of the whole, in hexadecimal
    digits. So does a name that looks like such a one, or somebody's key could claim another's name.
    """
    if len(name) <= LONGEST_NAME and not is_hashed(name):
        return name
    return f"{name[:_KEPT]}{_HASHED}{hashlib.sha256(name.encode()).hexdigest()}"


def is_hashed(name: str) -> bool:
    """Tell whether a name of a group is one that ``fitting`` has made shorter."""
    return len(name) == LONGEST_NAME and name.startswith(_HASHED, _KEPT)
