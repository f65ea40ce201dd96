"""Templates: what each form gives for each kind of value, and what is an error of the record."""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from types import SimpleNamespace
from typing import Any

import ormsgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kafka_layer.exceptions import UnreadableRecord
from kafka_layer.streams import group_name
from kafka_layer.streams.codecs import CODECS
from kafka_layer.streams.template import GroupTemplate, Template
from tests.support.tables import for_each

from .records import CountingCodec, record

PARTS: dict[str, Any] = {
    "key": "k",
    "value": {
        "a": {"b": 1},
        "items": [{"id": "x"}, {"id": "y", "tags": [["deep"]]}],
        "0": "text key",
        "none": None,
        "dict": {},
        "list": [],
    },
    "headers": {"trace": "t", "x.y": "dotted"},
    "topic": "shop.orders",
    "partition": 3,
}


def filled(text: str, **parts: Any) -> str:
    return Template(text).fill(SimpleNamespace(**{**PARTS, **parts}))


@for_each(
    ("text", "wanted"),
    [
        ("order-{key}", "order-k"),
        ("{value.a.b}", "1"),
        ("{value.items.0.id}-{value.items.1.id}", "x-y"),
        ("{value.items.1.tags.0.0}", "deep"),
        ("{value.0}", "text key"),
        ("{headers.trace}", "t"),
        ("{headers.x.y}", "dotted"),
        ("{topic}/{partition}", "shop.orders/3"),
        ("{{{key}}}", "{k}"),
        ("all", "all"),
        ("a{key}b{key}c", "akbkc"),
    ],
)
def test_forms(text: str, wanted: str) -> None:
    assert filled(text) == wanted


@for_each(
    ("value", "wanted"),
    [
        (7, "7"),
        (-7, "-7"),
        (10**30, "1" + "0" * 30),
        (1.5, "1.5"),
        (2.0, "2.0"),
        (True, "true"),
        (False, "false"),
        (b"raw", "raw"),
        ("", ""),
        (decimal.Decimal("1.50"), "1.50"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (datetime.date(2026, 11, 28), "2026-11-28"),
        (
            datetime.datetime(2026, 11, 28, 7, tzinfo=datetime.timezone.utc),
            "2026-11-28T07:00:00+00:00",
        ),
    ],
)
def test_values(value: object, wanted: str) -> None:
    assert filled("{value}", value=value) == wanted


@for_each(
    ("text", "parts", "said"),
    [
        ("{key}", {"key": None}, "no {key}"),
        ("{value.a}", {"value": None}, "no {value.a}"),
        ("{value.none}", {}, "no {value.none}"),
        ("{value.gone}", {}, "no {value.gone}"),
        ("{value.a.b.c}", {}, "no {value.a.b.c}"),
        ("{value.items.2.id}", {}, "no {value.items.2.id}"),
        ("{value.items.-1.id}", {}, "no {value.items.-1.id}"),
        ("{value.items.id}", {}, "no {value.items.id}"),
        ("{value.items.99999999999999999999}", {}, "no {value.items."),
        ("{headers.gone}", {}, "no {headers.gone}"),
        ("{headers.null}", {"headers": {"null": None}}, "no {headers.null}"),
        ("{value.dict}", {}, "{value.dict} is a dict"),
        ("{value.list}", {}, "{value.list} is a list"),
        ("{value}", {"value": math.nan}, "is a float"),
        ("{value}", {"value": b"\xff"}, "bytes, not UTF-8"),
        ("{value.upper}", {"value": "text"}, "builtin_function_or_method"),
        ("{value.__class__}", {"value": SimpleNamespace()}, "no {value.__class__}"),
    ],
)
def test_a_template_that_finds_nothing(text: str, parts: dict[str, Any], said: str) -> None:
    with pytest.raises(UnreadableRecord) as caught:
        filled(text, **parts)

    assert caught.value.cause == "template"
    assert said in str(caught.value)


@for_each(
    ("text", "said"),
    [
        ("order-{key", "expected '}'"),
        ("order-key}", "Single '}'"),
        ("{kye}", "names {kye}; a template may name {key}"),
        ("{}", "names {}"),
        ("{0}", "names {0}"),
        ("{value..a}", "empty name"),
        ("{value.}", "empty name"),
        ("{value.items[0]}", "brackets"),
        ("{value[0]}", "brackets"),
        ("{key!r}", "a format or a conversion"),
        ("{key:>5}", "a format or a conversion"),
        ("{topic.x}", "looks into the topic"),
        ("{headers}", "names no header"),
    ],
)
def test_a_text_that_is_no_template(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        Template(text)

    assert said in str(caught.value)


def test_objects_of_a_projects_own_codec_are_looked_into() -> None:
    assert filled("{value.owner.pk}", value=SimpleNamespace(owner=SimpleNamespace(pk=5))) == "5"


def test_maps_of_msgpack_may_have_keys_of_bytes_and_integers() -> None:
    packed = ormsgpack.packb({b"a": {7: "x"}}, option=ormsgpack.OPT_NON_STR_KEYS)

    assert Template("{value.a.7}").fill(record(packed, value_codec=CODECS["msgpack"])) == "x"


def test_of_a_header_that_is_there_twice_the_last_one_counts() -> None:
    twice = record(headers=[("trace", b"one"), ("trace", b"two"), ("raw", b"\xff")])

    assert Template("{headers.trace}").fill(twice) == "two"
    assert twice.headers == {"trace": "two", "raw": b"\xff"}


@for_each(
    ("text", "needs", "decoded"),
    [
        ("all", set(), (0, 0)),
        ("{topic}-{partition}-{headers.x}", {"topic", "partition", "headers"}, (0, 0)),
        ("{key}-{key}", {"key"}, (1, 0)),
        ("{value.a}-{value.a}", {"value"}, (0, 1)),
    ],
)
def test_nothing_is_decoded_that_no_template_needs(
    text: str, needs: set[str], decoded: tuple[int, int]
) -> None:
    keys, values = CountingCodec(CODECS["str"]), CountingCodec(CODECS["json"])
    template = Template(text)

    template.fill(record(b'{"a":1}', headers=[("x", b"y")], key_codec=keys, value_codec=values))

    assert template.needs == needs
    assert (keys.decoded, values.decoded) == decoded


class TestGroups:
    def test_values_are_quoted_and_the_templates_text_is_not(self) -> None:
        assert group_name("a_b-{key}", key="c d") == "a_b-c_x20d"

    @for_each(
        ("text", "said"),
        [("", "empty"), ("order {key}", "'order '"), ("{{{key}", "'{'"), ("ü", "'ü'")],
    )
    def test_a_text_that_no_group_can_have(self, text: str, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            GroupTemplate(text)

    @pytest.mark.parametrize("key", ["", "\ud800"])
    def test_a_value_of_which_no_name_can_be_made(self, key: str) -> None:
        with pytest.raises(UnreadableRecord) as caught:
            group_name("{key}", key=key)

        assert caught.value.cause == "name"

    def test_a_consumer_names_the_group_of_a_record(self) -> None:
        came = record(b'{"owner":{"id":7.5}}', "ü 7".encode(), [("h", b"x")])
        text = "{key}.{value.owner.id}.{headers.h}.{topic}.{partition}"

        assert GroupTemplate(text).fill(came) == group_name(
            text,
            key="ü 7",
            value={"owner": {"id": 7.5}},
            headers={"h": "x"},
            topic="shop.orders",
            partition=3,
        )

    def test_parts_that_are_missing_or_unknown_are_errors_of_the_call(self) -> None:
        with pytest.raises(TypeError, match="names 'key', which is not given"):
            group_name("order-{key}", value={})
        with pytest.raises(TypeError, match="no part 'kye'"):
            group_name("order-{key}", kye="1")


@given(
    st.text(max_size=60) | st.text("_xh7é/", min_size=20, max_size=120),
    st.sampled_from(["{key}", "order-{key}", "{key}.x", "a_{key}_xh"]),
)
@example("0" * 64, f"{'o' * 32}_xh{{key}}")  # looks like a name that was too long
def test_the_name_for_a_text_alone_is_that_of_a_record(key: str, text: str) -> None:
    template = GroupTemplate(text)

    def of(name: Any) -> str:
        try:
            return str(name())
        except UnreadableRecord as error:
            return error.cause

    assert of(lambda: template.naming()(key)) == of(lambda: template.fill(record(key=key.encode())))
