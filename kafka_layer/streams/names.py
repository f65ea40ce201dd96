"""How a value of a record is written in a group's name, and back."""

from __future__ import annotations

__all__ = ["quote", "unquote"]


def quote(text: str) -> str:
    """Return a text as a part of a group's name."""
    raise NotImplementedError


def unquote(quoted: str) -> str:
    """Return the text that ``quote`` wrote."""
    raise NotImplementedError
