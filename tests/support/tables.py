"""Tables: one thing that is tested with many values, as one test.

pytest takes longer for a test than most of these values do.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest

__all__ = ["for_each"]

Test = Callable[..., None]


def for_each(names: str | tuple[str, ...], rows: Iterable[Any]) -> Callable[[Test], Test]:
    """Call a test for each row of a table, as ``pytest.mark.parametrize`` does, within one test.

    For tests that leave nothing behind, because all rows get the same fixtures. All rows are tried,
    whichever fail.

    Args:
        names: The names of the arguments.
        rows: Their values, a tuple for each row; the value itself where there is one name.
    """
    arguments = (names,) if isinstance(names, str) else names
    table = [(row,) if isinstance(names, str) else tuple(row) for row in rows]
    assert table, "a test of nothing"

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def run(*instance: object, **fixtures: object) -> None:
            failed: list[tuple[Any, BaseException]] = []
            for row in table:
                try:
                    test(*instance, **fixtures, **dict(zip(arguments, row, strict=True)))
                except (Exception, pytest.fail.Exception) as error:
                    failed.append((row, error))
            if failed:
                rows_told = ", ".join(repr(row) for row, _ in failed)
                _, first = failed[0]
                raise AssertionError(f"{len(failed)} of {len(table)} fail: {rows_told}") from first

        signature = inspect.signature(test)
        others = [each for name, each in signature.parameters.items() if name not in arguments]
        run.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
        return run

    return decorate
