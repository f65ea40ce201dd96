"""Puts a report's tables into the marked places of a documentation page.

A place begins with ``<!-- benchmark: NAME -->`` and ends with ``<!-- end -->``, each on a line of
its own; NAME is a subject's, ``about`` or ``targets``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["fill", "places"]

_PLACE = re.compile(r"^<!-- benchmark: (\S+) -->\n(.*?)^<!-- end -->$", re.MULTILINE | re.DOTALL)


def places(page: str) -> list[str]:
    """Return the names of the places of a page, in order."""
    return [name for name, _ in _PLACE.findall(page)]


def fill(page: str, sections: Mapping[str, str]) -> str:
    """Return a page with its places filled anew; those without a section stay as they are."""

    def filled(place: re.Match[str]) -> str:
        name = place[1]
        if name not in sections:
            return place[0]
        return f"<!-- benchmark: {name} -->\n\n{sections[name].strip()}\n\n<!-- end -->"

    return _PLACE.sub(filled, page)
