"""The syntax trees of source files.

None is kept: those of the package are so many objects that each look of Python's garbage collector
through them takes a fifth of a second, in all tests that come later.
"""

from __future__ import annotations

import ast
from pathlib import Path

__all__ = ["parsed"]


def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text())
