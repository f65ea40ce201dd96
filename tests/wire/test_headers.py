"""Headers of records: whom a message leaves out."""

from __future__ import annotations

from kafka_layer.wire.headers import exclude_header, excluded, headers_to_dict


def test_golden_headers() -> None:
    assert exclude_header([]) == []
    assert exclude_header(["a!1", "b!2"]) == [("exclude", b"a!1,b!2")]


def test_excluded_names() -> None:
    assert excluded(exclude_header(["a!1", "b!2"])) == {"a!1", "b!2"}
    for headers in ([], [("exclude", b"")], [("exclude", None)], [("other", b"a!1")]):
        assert excluded(headers) == set()
    assert excluded([("other", b"a!1"), ("exclude", b"c!3")]) == {"c!3"}


def test_foreign_headers_harm_nobody() -> None:
    headers = [("a", b"\xff"), ("b", None), ("a", b"last")]
    assert headers_to_dict(headers) == {"a": "last", "b": ""}
