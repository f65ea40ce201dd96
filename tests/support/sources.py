"""The syntax trees of source files.

None is kept: those of the package are so many objects that each look of Python's garbage collector
through them takes a fifth of a second, in all tests that come later.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

__all__ = ["parsed", "statements"]


def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text())


def statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements of a file, of whatever depth: far fewer than its nodes."""
    parents: list[ast.AST] = [tree]
    while parents:
        parent = parents.pop()
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            for node in getattr(parent, name, ()):
                parents.append(node)
                if isinstance(node, ast.stmt):
                    yield node
