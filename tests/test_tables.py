"""Tables of values as one test: all are tried, and an error names those that fail."""

from __future__ import annotations

import inspect

import pytest

from tests.support.tables import for_each


def test_all_rows_are_tried_and_those_that_fail_are_named() -> None:
    tried: list[tuple[int, str]] = []

    @for_each("number", [1, 2])
    @for_each(("text", "error"), [("a", None), ("b", ValueError), ("c", KeyError)])
    def check(number: int, text: str, error: type[Exception] | None, fixture: str) -> None:
        assert fixture == "made once"
        tried.append((number, text))
        if error is not None:
            with pytest.raises(error):
                raise ValueError

    assert list(inspect.signature(check).parameters) == ["fixture"]
    with pytest.raises(AssertionError, match=r"2 of 2 fail: \(1,\), \(2,\)") as raised:
        check(fixture="made once")
    assert str(raised.value.__cause__) == "1 of 3 fail: ('c', <class 'KeyError'>)"
    assert isinstance(raised.value.__cause__.__cause__, ValueError)
    assert tried == [(number, text) for number in (1, 2) for text in "abc"]


def test_what_was_expected_and_did_not_come_fails() -> None:
    @for_each("error", [ValueError])
    def check(error: type[Exception]) -> None:
        with pytest.raises(error):
            pass

    with pytest.raises(AssertionError, match="1 of 1 fail"):
        check()


def test_a_table_without_rows_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="a test of nothing"):
        for_each("value", [])
