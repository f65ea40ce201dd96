"""The settings ``group``, ``user`` and ``where``: whom a record is for, and how each can fail."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from django.utils.safestring import SafeString

from kafka_layer.exceptions import RegistryAway, UnreadableRecord
from kafka_layer.streams.addresses import (
    Filter,
    GroupFunction,
    GroupNames,
    UserFunction,
    UserKeys,
)
from kafka_layer.streams.codecs import CODECS
from kafka_layer.streams.record import StreamRecord
from tests.support.tables import for_each

from .records import CountingCodec, record


def test_a_template_gives_one_group_quoted_and_one_user_as_it_is() -> None:
    came = record(b'{"owner":"\xc3\xbc 7"}', b"k/1")

    assert GroupNames("order-{key}").names(came) == ("order-k_x2F1",)
    assert UserKeys("{value.owner}").names(came) == ("ü 7",)


def test_a_function_gets_the_lazy_record() -> None:
    values = CountingCodec(CODECS["json"])
    came = record(b'{"a":1}', b"k", [("h", b"x")], value_codec=values)
    seen = []

    def owners(it: StreamRecord) -> list[str]:
        seen.append((it.topic, it.partition, it.offset, it.timestamp, it.key, it.headers))
        return ["a", "b"]

    assert GroupFunction(owners).names(came) == ["a", "b"]
    assert seen == [("shop.orders", 3, 42, 1000.0, "k", {"h": "x"})]
    assert values.decoded == 0


def test_the_name_of_a_key_is_made_once_and_not_kept_for_ever() -> None:
    keys = CountingCodec(CODECS["str"])
    names = GroupNames("order-{key}").names

    for key in (b"1", b"2", b"1", b"2"):
        assert names(record(key=key, key_codec=keys)) == ("order-" + key.decode(),)
    assert keys.decoded == 2

    for number in range(10_000):
        names(record(key=b"%d" % (number + 3), key_codec=keys))
    decoded = keys.decoded
    assert names(record(key=b"1", key_codec=keys)) == ("order-1",)
    assert keys.decoded == decoded + 1


def names_by_generator(it: StreamRecord) -> Iterator[str]:
    yield "a"
    yield "b"


@for_each(
    ("function", "groups"),
    [
        (lambda it: "one", ["one"]),
        (lambda it: ("a", "b"), ["a", "b"]),
        (lambda it: SafeString("a"), ["a"]),
        (lambda it: {"a": 1}.keys(), ["a"]),
        (names_by_generator, ["a", "b"]),
        (lambda it: None, []),
        (lambda it: [], []),
    ],
)
def test_a_function_names_one_group_several_or_none(
    function: Callable[[Any], Any], groups: list[str]
) -> None:
    names = GroupFunction(function).names(record())

    assert list(names) == groups
    assert {type(name) for name in names} <= {str}


def test_a_function_names_users_by_their_ids() -> None:
    ids = [7, "anna", uuid.UUID(int=1)]

    assert list(UserFunction(lambda it: ids).names(record())) == [str(each) for each in ids]
    assert list(UserFunction(lambda it: 7).names(record())) == ["7"]


def failing_generator(it: StreamRecord) -> Iterator[str]:
    yield "a"
    raise LookupError("no owner")


async def coroutine(it: Any) -> str:
    return "a"


async def asynchronous_generator(it: Any) -> AsyncIterator[str]:
    yield "a"


@for_each(
    ("addresser", "cause", "said"),
    [
        (GroupFunction(lambda it: 1 / 0), "function", "raised ZeroDivisionError"),
        (GroupFunction(failing_generator), "function", "failing_generator() raised LookupError"),
        (GroupFunction(lambda it: coroutine(it)), "function", "returned an awaitable"),
        (GroupFunction(asynchronous_generator), "name", "no name of a group"),
        (GroupFunction(lambda it: "a b"), "name", "'a b', which is no name of a group"),
        (GroupFunction(lambda it: ["a", 5]), "name", "5, which is no name of a group"),
        (GroupFunction(lambda it: "a" * 100), "name", "which is no name of a group"),
        (GroupFunction(lambda it: ""), "name", "which is no name of a group"),
        (UserFunction(lambda it: [True]), "name", "not True"),
        (UserFunction(lambda it: ""), "name", "not ''"),
        (UserKeys("{value.owner}"), "template", "no {value.owner}"),
        (UserKeys("{value}"), "template", "is a dict"),
        (UserKeys("a\0{key}"), "name", "NUL"),
        (GroupNames("{value.owner}"), "template", "no {value.owner}"),
    ],
)
def test_each_failure_is_an_error_of_the_record(addresser: Any, cause: str, said: str) -> None:
    with pytest.raises(UnreadableRecord) as caught:
        addresser.names(record())

    assert caught.value.cause == cause
    assert said in str(caught.value)


def test_a_coroutine_that_a_function_returned_is_closed() -> None:
    """Otherwise Python warns that it was never awaited."""
    made = coroutine(None)

    with pytest.raises(UnreadableRecord):
        GroupFunction(lambda it: made).names(record())

    assert inspect.getcoroutinestate(made) == inspect.CORO_CLOSED


class AsynchronousCall:
    async def __call__(self, it: Any) -> str:
        return "a"


@for_each("kind", [GroupFunction, UserFunction, Filter])
@for_each(
    ("function", "said"),
    [
        (coroutine, "a coroutine function"),
        (AsynchronousCall(), "a coroutine function"),
        (lambda: "a", "cannot be called with a record"),
        (lambda one, two: "a", "cannot be called with a record"),
    ],
)
def test_a_function_that_cannot_work_is_refused_at_once(
    kind: Any, function: Any, said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        kind(function)


class TestFilter:
    def test_it_says_whether_a_record_passes(self) -> None:
        public = Filter(lambda it: it.value["public"])

        assert public(record(b'{"public":true}')) is True
        assert public(record(b'{"public":false}')) is False

    @for_each(
        ("function", "said"),
        [
            (lambda it: it.value["gone"], "raised KeyError"),
            (lambda it: None, "returned None; it must return True or False"),
            (lambda it: "no", "returned 'no'"),
            (lambda it: coroutine(it), "returned an awaitable"),
        ],
    )
    def test_what_is_no_answer(self, function: Any, said: str) -> None:
        with pytest.raises(UnreadableRecord) as caught:
            Filter(function)(record())

        assert caught.value.cause == "function"
        assert said in str(caught.value)


class AwayCodec:
    blocking = True

    def decode(self, data: bytes, context: Any) -> Any:
        raise RegistryAway("away")

    def encode(self, obj: Any, context: Any) -> bytes:
        raise NotImplementedError


@for_each(
    "ask",
    [
        GroupNames("{value.a}").names,
        UserKeys("{value.a}").names,
        GroupFunction(lambda it: it.value).names,
        GroupFunction(lambda it: (each for each in it.value)).names,
        Filter(lambda it: it.value),
    ],
)
def test_errors_of_decoding_pass_as_they_are(ask: Callable[[StreamRecord], Any]) -> None:
    with pytest.raises(UnreadableRecord) as caught:
        ask(record(b"no JSON"))
    assert caught.value.cause == "undecodable"

    with pytest.raises(RegistryAway):
        ask(record(b"{}", value_codec=AwayCodec()))
