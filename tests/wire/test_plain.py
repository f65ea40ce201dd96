"""What may stand in a message: all that json.dumps takes, and both formats carry it alike."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import types
import uuid
from collections import Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from typing import Any, NamedTuple

import pytest
from django.db import models
from django.http import QueryDict
from django.utils.datastructures import MultiValueDict
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from hypothesis import given
from hypothesis import strategies as st

from kafka_layer.wire.codec import Codec
from kafka_layer.wire.names import ChannelName
from kafka_layer.wire.plain import MAX_DEPTH
from tests.support.tables import for_each

CODECS = {name: Codec(name) for name in ("msgpack", "json")}  # type: ignore[arg-type]


class Text(str):
    def __str__(self) -> str:
        return "another text"


class Number(int):
    def __int__(self) -> int:
        return 42

    def __repr__(self) -> str:
        return "42"


class Ratio(float):
    def __repr__(self) -> str:
        return "4.2"


class Sequence(list[Any]):
    pass


class Reversed(list[Any]):
    def __iter__(self) -> Any:
        return reversed(list(super().__iter__()))


class Mapping(dict[str, Any]):
    pass


class Renamed(dict[str, Any]):
    def items(self) -> Any:
        return [(f"my {key}", value) for key, value in super().items()]


class Point(NamedTuple):
    x: int
    y: int


Pair = namedtuple("Pair", "a b")  # noqa: PYI024 (as applications write it)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Flags(enum.IntFlag):
    A = 1
    B = 2


class Kind(str, enum.Enum):
    CHAT = "chat"


class Status(models.TextChoices):
    OPEN = "open", "is open"


class Step(models.IntegerChoices):
    FIRST = 1, "first"


class Weight(float, enum.Enum):
    LIGHT = 0.5


@dataclasses.dataclass
class Data:
    a: int = 1


def moved() -> OrderedDict[str, int]:
    ordered = OrderedDict(a=1, b=2, c=3)
    ordered.move_to_end("a")
    ordered.move_to_end("c", last=False)
    return ordered


VALUES: list[Any] = [
    *("a", "", "ü\0\U0010ffff", 0, -1, 2**63 - 1, -(2**63), 2**64 - 1, 1.5, -0.0, True, None),
    *([], (), {}, [1, [2, (3,)]], {"a": {"b": []}}),
    *(Text("a"), Number(7), Ratio(1.5), Sequence([1]), Reversed([1, 2]), Mapping(a=1)),
    *(Renamed(a=1), Renamed(), Point(1, 2), Pair(1, 2), moved(), defaultdict(int, a=1)),
    *(Counter("abb"), ChannelName("specific.0-a!b"), mark_safe("<b>")),
    *(Level.HIGH, Flags.A | Flags.B, Kind.CHAT, Status.OPEN, Step.FIRST, Weight.LIGHT),
    *(QueryDict("a=1&a=2&b=3"), MultiValueDict({"a": [1, 2], "b": []})),
    *(
        {Text("a"): 1},
        {ChannelName("specific.0-a!b"): [Status.OPEN]},
        {Status.OPEN: {Kind.CHAT: 1}},
    ),
    [Mapping(a=Sequence([Text("x"), {Kind.CHAT: Point(Number(1), Level.HIGH)}]))],
]
REFUSED: list[Any] = [
    *(Colour.RED, {1}, frozenset(), 1j, object(), object, len, (each for each in ())),
    *(decimal.Decimal(1), datetime.datetime.now(), datetime.date.today(), datetime.time()),
    *(datetime.timedelta(), uuid.uuid4(), Data(), types.MappingProxyType({}), deque([1])),
    *(range(3), UserDict(a=1), lazystr("lazy"), {"a": 1}.keys(), Data),
]
KEYS: list[Any] = [1, 1.5, True, None, b"a", (1,), Colour.RED, Level.HIGH, uuid.UUID(int=1)]


def exactly(value: object) -> object:
    """Return a value as a text that shows the types and the order of keys."""
    return json.dumps(value), repr(value)


def sent(codec: Codec, message: dict[str, Any]) -> dict[str, Any]:
    return codec.decode(codec.encode(message))


@pytest.fixture(params=sorted(CODECS))
def codec(request: pytest.FixtureRequest) -> Codec:
    return CODECS[request.param]


@for_each("value", VALUES)
def test_what_json_dumps_takes_arrives_as_json_loads_gives_it(codec: Codec, value: Any) -> None:
    for message in ({"v": value}, {"v": [value, {"w": (value,)}]}):
        assert exactly(sent(codec, message)) == exactly(json.loads(json.dumps(message)))


@for_each("message", [QueryDict("a=1&a=2"), moved(), Mapping(a=1), Renamed(a=1), Counter("ab")])
def test_the_message_itself_may_be_of_a_subclass(codec: Codec, message: dict[str, Any]) -> None:
    assert exactly(sent(codec, message)) == exactly(json.loads(json.dumps(message)))


plain_texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=10)
texts = plain_texts | plain_texts.map(Text) | plain_texts.map(mark_safe) | st.sampled_from(Status)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.integers(-(2**63), 2**63 - 1).map(Number)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(allow_nan=False, allow_infinity=False).map(Ratio)
    | texts
    | st.sampled_from([*Level, *Kind, *Step, *Weight])
)


def grown(each: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(each, max_size=3)
    dicts = st.dictionaries(texts, each, max_size=3)
    return st.one_of(
        *(lists, lists.map(tuple), lists.map(Sequence), lists.map(Reversed), dicts),
        *(dicts.map(Mapping), dicts.map(Renamed), dicts.map(OrderedDict)),
        st.builds(Point, each, each),
    )


@given(st.dictionaries(texts, st.recursive(scalars, grown, max_leaves=10), max_size=2))
def test_any_message_that_json_dumps_takes_arrives_the_same_in_both_formats(
    message: dict[str, Any],
) -> None:
    expected = exactly(json.loads(json.dumps(message)))
    for codec in CODECS.values():
        assert exactly(sent(codec, message)) == expected


@for_each("value", REFUSED)
def test_what_json_dumps_refuses_is_refused_with_its_path(codec: Codec, value: object) -> None:
    with pytest.raises(TypeError):
        json.dumps(value)

    message = {"type": "a", "data": {"members": [1, 2, value], "a b": Mapping(x=(value,))}}
    with pytest.raises(TypeError, match=r"cannot be sent: data\.members\[2\] is of the type"):
        codec.encode(message)
    message["data"].pop("members")
    with pytest.raises(TypeError, match=r"cannot be sent: data\['a b'\]\.x\[0\] is of the type"):
        codec.encode(message)
    with pytest.raises(TypeError, match=r"cannot be sent: v is of the type"):
        codec.encode({"v": value})


@for_each("key", KEYS)
def test_keys_that_are_no_text_are_refused_with_their_path(codec: Codec, key: object) -> None:
    with pytest.raises(TypeError, match=r"data\.rows\[1\] has the key .*, and dict keys must be"):
        codec.encode({"data": {"rows": [{}, {"a": 1, key: 2}]}})
    with pytest.raises(TypeError, match="the message has the key"):
        codec.encode({key: 2})  # type: ignore[dict-item]


@for_each("message", [{"a": {"b": "\ud800"}}, {"a": {"\ud800": 1}}, {"a": {"b": Text("\ud800")}}])
def test_text_that_utf_8_cannot_carry_is_refused(codec: Codec, message: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"cannot be sent: a(\.b)? has"):
        codec.encode(message)


@for_each("value", [2**64, -(2**63) - 1, 10**100])
def test_integers_of_more_than_64_bits(value: int) -> None:
    with pytest.raises(TypeError, match=r"a\[0\] is an integer of more than 64 bits"):
        CODECS["msgpack"].encode({"a": [value]})
    assert sent(CODECS["json"], {"a": [value]}) == {"a": [value]}


@for_each("value", [b"\xff", bytearray(b"\xff"), memoryview(b"\xff")])
def test_bytes(value: Any) -> None:
    for message in ({"a": value}, {"a": value, Text("b"): 1}):
        assert sent(CODECS["msgpack"], message)["a"] == b"\xff"
        with pytest.raises(TypeError, match=r"a is bytes, .*serializer_format='msgpack'"):
            CODECS["json"].encode(message)


@for_each("value", [float("nan"), float("inf"), Ratio("-inf")])
def test_numbers_that_json_has_no_words_for(value: float) -> None:
    assert repr(sent(CODECS["msgpack"], {"a": value})["a"]) == float.__repr__(value)
    with pytest.raises(TypeError, match=r"a is .*serializer_format='msgpack'"):
        CODECS["json"].encode({"a": value})


@pytest.mark.parametrize("kind", [list, tuple, dict, Sequence, Mapping, Text])
class TestDepth:
    """The same limit in both formats, on every Python."""

    @staticmethod
    def nested(kind: type, depth: int) -> dict[str, Any]:
        """Return a message in which so many dicts and lists lie within one another."""
        value: Any = 1
        for _ in range(depth - 1):
            if kind is Text:
                value = {Text("a"): value}
            else:
                value = kind(a=value) if issubclass(kind, dict) else kind([value])
        return {"v": value}

    def test_so_deep_and_no_deeper(self, codec: Codec, kind: type) -> None:
        message = self.nested(kind, MAX_DEPTH)
        assert sent(codec, message) == json.loads(json.dumps(message))
        for depth in (MAX_DEPTH + 1, 500):
            with pytest.raises(TypeError, match="nested more than 255 deep"):
                codec.encode(self.nested(kind, depth))


def test_a_message_that_contains_itself_is_refused(codec: Codec) -> None:
    message: dict[str, Any] = {"a": []}
    message["a"].append(message)
    with pytest.raises(TypeError, match="nested more than 255 deep"):
        codec.encode(message)


@for_each("depth", [MAX_DEPTH + 1, 900, 5_000, 50_000])
@for_each("bracket", ["[]", "{}"])
def test_deep_json_is_refused_by_every_python(depth: int, bracket: str) -> None:
    opening, closing = ("[", "]") if bracket == "[]" else ('{"a":', "}")
    for levels, readable in ((MAX_DEPTH - 1, True), (depth - 1, False)):
        payload = f'{{"v":{opening * levels}1{closing * levels}}}'.encode()
        if readable:
            assert CODECS["json"].decode(payload)
        else:
            with pytest.raises(ValueError, match="not a message"):
                CODECS["msgpack"].decode(payload)


def test_many_brackets_are_not_deep() -> None:
    message = {"text": "[{" * 1000, "rows": [[{}] for _ in range(1000)]}
    assert sent(CODECS["json"], message) == message


def test_the_message_that_is_sent_stays_as_it_was(codec: Codec) -> None:
    inner = Mapping(a=[1, 2])
    message = {"v": inner, Text("w"): (inner, [inner])}
    codec.encode(message)
    assert message["v"] is inner
    assert message[Text("w")] == (inner, [inner])
    assert type(message["w"][1][0]) is Mapping
