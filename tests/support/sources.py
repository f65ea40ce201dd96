"""The syntax trees of source files, each parsed once a process."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

__all__ = ["parsed"]

_ATTEMPTS = 5


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file.

    Another thread that parses at the same moment, as ``traceback`` does for the marks under a line,
    makes CPython raise SystemError (its issue 106905, up to Python 3.12): then it is tried again.
    """
    text = path.read_text()
    for _ in range(_ATTEMPTS):
        try:
            return ast.parse(text)
        except SystemError as error:
            failure = error
    raise failure
