"""Headers of records: whom a message leaves out."""

from __future__ import annotations

from typing import Any

import pytest

from kafka_layer.wire.headers import exclude_header, excluded, headers_to_dict
from tests.support.tables import for_each


def test_golden_headers() -> None:
    assert exclude_header([]) == []
    assert exclude_header(["a!1", "b!2"]) == [("exclude", b"a!1,b!2")]


@for_each("wrong", [7, None, b"a!1", ["a!1"], "\ud800"])
def test_what_is_no_channel_name_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="exclude must be a collection of channel names"):
        exclude_header(["b!2", wrong])


def test_excluded_names() -> None:
    assert excluded(exclude_header(["a!1", "b!2"])) == {"a!1", "b!2"}
    for headers in ([], [("exclude", b"")], [("exclude", None)], [("other", b"a!1")]):
        assert excluded(headers) == set()
    assert excluded([("other", b"a!1"), ("exclude", b"c!3")]) == {"c!3"}


def test_foreign_headers_harm_nobody() -> None:
    headers = [("a", b"\xff"), ("b", None), ("a", b"last")]
    assert headers_to_dict(headers) == {"a": "last", "b": ""}
